"""A Python that creates virtualenvs without pip, which takes a tenth of the time."""

from __future__ import annotations

import sys
from pathlib import Path


def python_without_pip(folder: Path) -> str:
    """Write the program to a folder, and return its path, for `POLYJOB_PYTHON`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "python-without-pip"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --without-pip\n')
    program.chmod(0o755)
    return str(program)
