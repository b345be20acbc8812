"""Pythons that create virtualenvs in a tenth of the time: without pip, or with a pip that is installed already."""

from __future__ import annotations

import sys
from pathlib import Path

import pip


def python_without_pip(folder: Path) -> str:
    """Write the program to a folder, and return its path, for `POLYJOB_PYTHON`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "python-without-pip"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --without-pip\n')
    program.chmod(0o755)
    return str(program)


def python_with_borrowed_pip(folder: Path) -> str:
    """Write a program that creates virtualenvs with the pip of this Python, and return its path."""
    packages = folder / "pip-only"
    packages.mkdir()
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    program = folder / "python-with-borrowed-pip"
    program.write_text(
        f"""#!/bin/sh
{sys.executable} "$@" --without-pip || exit
for environment; do :; done  # the last argument
cat > "$environment/bin/pip" <<END
#!/bin/sh
PYTHONPATH={packages} exec $environment/bin/python -m pip "\\$@"
END
chmod +x "$environment/bin/pip"
"""
    )
    program.chmod(0o755)
    return str(program)
