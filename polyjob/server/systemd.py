"""polyjob as a systemd service: its unit, its account, its settings file, and how they are installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polyjob.atomic_files import atomic_file

ACCOUNT = "polyjob"
UNIT_NAME = "polyjob.service"
MARK = "# Written by `polyjob install --systemd`, which replaces this file."
"""First line of a unit that polyjob has written. Any other unit is not touched."""

_UNIT_FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")

_UNIT = f"""{MARK}
# Change settings in {{environment}}, and directives with `systemctl edit {UNIT_NAME}`.

[Unit]
Description=polyjob, a job server
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=exec
User={ACCOUNT}
StateDirectory=polyjob
StateDirectoryMode=0700
Environment=POLYJOB_DATA_DIR={{data_dir}}
EnvironmentFile=-{{environment}}
ExecStart={{python}} -P -m polyjob serve
# systemd signals only the server, which ends its own processes. Any other mode would also kill running jobs.
KillMode=process
# The jobs are in the service's control group. One that is killed for its memory must not stop the service, and the
# number of their processes is not limited together.
OOMPolicy=continue
TasksMax=infinity
Delegate=yes
TimeoutStopSec=60
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""

_ENVIRONMENT = """# Settings of the service polyjob, one NAME=value in each line.
# After a change: systemctl restart polyjob. Running jobs continue.
#
# POLYJOB_HOST=0.0.0.0
# POLYJOB_PORT=8000
# POLYJOB_SLOTS=4
# POLYJOB_RUNNER=docker    (first: usermod --append --groups docker polyjob)
"""


class CannotInstall(Exception):
    """The service cannot be installed or removed. The text says why, and what to do. Nothing was changed."""


@dataclass(frozen=True)
class Layout:
    """The paths of the service. `root` is the root folder of the machine."""

    root: Path = Path("/")

    @property
    def unit(self) -> Path:
        return self.root / "etc/systemd/system" / UNIT_NAME

    @property
    def environment(self) -> Path:
        return self.root / "etc/default/polyjob"

    def drop_ins(self) -> list[Path]:
        """Return the files that change the unit, such as that of `systemctl edit`, in the order of systemd.

        A file hides those of the same name in later folders.
        """
        folders = [self.root / folder / f"{UNIT_NAME}.d" for folder in _UNIT_FOLDERS]
        files = {path.name: path for folder in reversed(folders) for path in folder.glob("*.conf")}
        return [files[name] for name in sorted(files)]

    @property
    def booted(self) -> Path:
        """The folder that exists while systemd manages the machine, see sd_booted(3)."""
        return self.root / "run/systemd/system"

    @property
    def data_dir(self) -> Path:
        return self.root / "var/lib/polyjob"


def unit_text(layout: Layout, python: str = sys.executable) -> str:
    """Return the unit. `python` is an interpreter that can import polyjob."""
    return _UNIT.format(python=_quoted(python), environment=layout.environment, data_dir=layout.data_dir)


def _quoted(path: str) -> str:
    """Return a path as the first word of a command in a unit."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def environment_text() -> str:
    """Return the settings file of a new service."""
    return _ENVIRONMENT


def service_environment(layout: Layout) -> dict[str, str] | None:
    """Return the variables that the installed service gets from its unit, drop-ins and files; None if there is none.

    As systemd does, files take precedence over `Environment=`, and later files and lines over earlier ones. Raises
    PermissionError if only root can read a file.
    """
    unit = layout.unit
    if not unit.exists() or not unit.read_text().startswith(MARK):
        return None
    variables = {"POLYJOB_DATA_DIR": str(layout.data_dir)}
    files = [f"-{layout.environment}"]
    for path in layout.drop_ins():
        _read_drop_in(path.read_text(), variables, files)
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # without the `-`, the service would not start
            variables |= parse_environment(Path(file.removeprefix("-")).read_text())
    return variables


def _read_drop_in(content: str, variables: dict[str, str], files: list[str]) -> None:
    """Apply the `Environment=` and `EnvironmentFile=` of a drop-in. An empty value removes what was set before."""
    section = ""
    for line in map(str.strip, content.replace("\\\n", " ").splitlines()):
        if line.startswith("["):
            section = line
        name, equals, value = (part.strip() for part in line.partition("="))
        if section != "[Service]" or not equals or line.startswith(("#", ";")):
            continue
        if name == "EnvironmentFile":
            files[:] = [*files, value] if value else []
        elif name == "Environment" and value:
            with contextlib.suppress(ValueError):  # an open quote: systemd ignores it, too
                pairs = (word.partition("=") for word in shlex.split(value))
                variables |= {key: text.replace("%%", "%") for key, is_set, text in pairs if is_set}
        elif name == "Environment":
            variables.clear()


def parse_environment(text: str) -> dict[str, str]:
    """Return the variables of a settings file by the rules of systemd: quotes, comments, and lines that go on."""
    variables = {}
    for line in text.replace("\\\n", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or line.lstrip().startswith(("#", ";")):
            continue
        value = value.strip()
        with contextlib.suppress(ValueError):  # an open quote: systemd ignores it, too
            value = shlex.split(value)[0] if value.startswith(("'", '"')) else value
        variables[name.strip()] = value
    return variables


def install(layout: Layout, report: Callable[[str], None], python: str = sys.executable, *, start: bool = True) -> None:
    """Install the service, start it, and call `report` with each thing that was done. Idempotent.

    A second call replaces the unit and restarts the server; running jobs continue. Without `start`, the server is not
    started or restarted until the machine is. The settings file is written only if there is none. Needs root and
    systemd. Raises CannotInstall before anything is changed, and OSError or CalledProcessError if a step fails.
    """
    _check_machine(layout)
    _check_unit_is_ours(layout.unit)
    _check_readable(python)
    has_account = _has_account()
    if not has_account and shutil.which("useradd") is None:
        raise CannotInstall(f"This machine has no useradd. Create the system account {ACCOUNT} first.")
    if not has_account:
        _run("useradd", "--system", "--home-dir", str(layout.data_dir), "--shell", "/usr/sbin/nologin", ACCOUNT)
        report(f"Created the account {ACCOUNT}.")
    if not layout.environment.exists():
        _write(layout.environment, environment_text(), 0o600)
        report(f"Wrote {layout.environment}, for settings.")
    _write(layout.unit, unit_text(layout, python), 0o644)
    report(f"Wrote {layout.unit}.")
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", "--quiet", UNIT_NAME)
    if not start:
        report(f"{UNIT_NAME} starts with the machine. To start it now: systemctl restart {UNIT_NAME}")
        return
    _run("systemctl", "restart", UNIT_NAME)
    report(f"Started {UNIT_NAME}; it also starts with the machine.")


def uninstall(layout: Layout, report: Callable[[str], None]) -> None:
    """Stop the service and remove its unit. Running jobs continue. Data, settings and account stay. Idempotent.

    Needs root and systemd. Raises CannotInstall before anything is changed, and OSError or CalledProcessError if a step
    fails.
    """
    _check_machine(layout)
    _check_unit_is_ours(layout.unit)
    if not layout.unit.exists():
        report(f"There is no {layout.unit}.")
        return
    _run("systemctl", "disable", "--quiet", "--now", UNIT_NAME)
    layout.unit.unlink()
    _run("systemctl", "daemon-reload")
    report(f"Stopped {UNIT_NAME}, and removed {layout.unit}. Running jobs continue.")
    report(f"Kept {layout.data_dir}, {layout.environment} and the account {ACCOUNT}. To remove them:")
    report(f"  rm -r {layout.data_dir} {layout.environment}; userdel {ACCOUNT}")


def _check_machine(layout: Layout) -> None:
    if os.geteuid() != 0:
        raise CannotInstall("Only root can install or remove a service. Use sudo.")
    if shutil.which("systemctl") is None:
        raise CannotInstall("This machine has no systemctl, so it does not run systemd services.")
    # Containers often have systemctl without a systemd that it could talk to.
    if not layout.booted.is_dir():
        raise CannotInstall("systemd does not run on this machine. Run `polyjob serve` under its own supervisor.")


def _check_unit_is_ours(unit: Path) -> None:
    if unit.exists() and not unit.read_text().startswith(MARK):
        raise CannotInstall(f"{unit} was not written by polyjob. Move it away first.")


def _has_account() -> bool:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        return False
    return True


def _check_readable(python: str) -> None:
    """Raise CannotInstall if another account could not run this polyjob."""
    package = Path(__file__).resolve().parents[1]
    for path in (Path(python).absolute(), Path(python).resolve(), package):
        closed = closed_part(path)
        if closed is not None:
            raise CannotInstall(
                f"The account {ACCOUNT} could not run {path}, because {closed} is closed to other accounts. Install "
                "polyjob elsewhere. In the checkout: python3 -m venv /opt/polyjob && /opt/polyjob/bin/pip install ."
            )


def closed_part(path: Path) -> Path | None:
    """Return the first part of a path that other accounts cannot enter or read, or None."""
    for part in [*reversed(path.parents), path]:
        needed = stat.S_IXOTH if part.is_dir() else stat.S_IROTH
        if not part.stat().st_mode & needed:
            return part
    return None


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, mode) as file:
        file.write(text.encode())


def _run(*command: str) -> None:
    """Run a command of the machine. Raises CalledProcessError."""
    subprocess.run(command, check=True)
