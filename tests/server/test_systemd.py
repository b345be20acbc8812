"""polyjob as a systemd service. systemd itself does not run here: its commands are recorded."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polyjob.server import systemd
from polyjob.server.systemd import (
    MARK,
    CannotInstall,
    Layout,
    closed_part,
    install,
    parse_environment,
    service_environment,
    uninstall,
    unit_text,
)
from tests.cli.helpers import invoke
from tests.require import require, require_root


class Machine:
    """A root folder, and a log of the commands of the machine that were called."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder / "root")
        self.layout.booted.mkdir(parents=True)
        self.log = folder / "commands"
        self.reports: list[str] = []

    def commands(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def install(self) -> None:
        install(self.layout, self.reports.append, sys.executable)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    require_root()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "useradd"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/commands\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(systemd, "closed_part", lambda path: None)
    return Machine(tmp_path)


def section(text: str) -> dict[str, str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return dict(unit["Service"])


def complaints(text: str, folder: Path) -> tuple[int, list[str]]:
    """Return the exit code of systemd's check of a unit, and its lines about it."""
    require("systemd", shutil.which("systemd-analyze") is not None, "systemd-analyze is missing")
    copy = folder / "polyjob.service"
    copy.write_text(text.replace("User=polyjob", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if "polyjob" in line]


def test_systemd_accepts_the_unit(tmp_path: Path):
    assert complaints(unit_text(Layout()), tmp_path) == (0, [])


@pytest.mark.parametrize("fault", ["KillMode=nobody", "Restrat=always", "ExecStartPre=/nonexistent/polyjob"])
def test_systemd_reports_a_faulty_unit(tmp_path: Path, fault: str):
    assert complaints(unit_text(Layout()).replace("KillMode=process", fault), tmp_path)[1]


def test_jobs_survive_the_end_of_the_service_and_of_each_other():
    service = section(unit_text(Layout()))
    assert (service["KillMode"], service["OOMPolicy"], service["TasksMax"]) == ("process", "continue", "infinity")


def test_command_of_the_unit_is_this_polyjob(tmp_path: Path):
    command = section(unit_text(Layout()))["ExecStart"].removesuffix(" serve").split()
    done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("polyjob")


@pytest.mark.parametrize("name", ["a b", "100%"])
def test_path_of_python_is_one_word(tmp_path: Path, name: str):
    python = tmp_path / name / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    assert complaints(unit_text(Layout(), str(python)), tmp_path) == (0, [])


def test_new_service_gets_account_settings_and_start(machine: Machine):
    machine.install()
    assert machine.commands() == [
        f"useradd --system --home-dir {machine.layout.data_dir} --shell /usr/sbin/nologin polyjob",
        "systemctl daemon-reload",
        "systemctl enable --quiet polyjob.service",
        "systemctl restart polyjob.service",
    ]
    assert machine.layout.unit.read_text() == unit_text(machine.layout)
    assert machine.layout.environment.stat().st_mode & 0o777 == 0o600
    assert len(machine.reports) == 4


def test_second_installation_keeps_the_settings(machine: Machine):
    machine.install()
    machine.layout.environment.write_text("POLYJOB_SLOTS=7\n")
    machine.layout.unit.write_text(f"{MARK}\nan older version\n")
    machine.install()
    assert machine.layout.environment.read_text() == "POLYJOB_SLOTS=7\n"
    assert machine.layout.unit.read_text() == unit_text(machine.layout)


@pytest.mark.parametrize("act", [install, uninstall])
def test_unit_of_somebody_else_is_not_touched(machine: Machine, act):
    machine.layout.unit.parent.mkdir(parents=True)
    machine.layout.unit.write_text("[Unit]\n")
    with pytest.raises(CannotInstall, match="was not written by polyjob"):
        act(machine.layout, machine.reports.append)
    assert (machine.layout.unit.read_text(), machine.commands()) == ("[Unit]\n", [])


def test_uninstalled_service_leaves_data_and_settings(machine: Machine):
    machine.install()
    machine.layout.data_dir.mkdir(parents=True)
    machine.log.unlink()
    uninstall(machine.layout, machine.reports.append)
    assert machine.commands() == ["systemctl disable --quiet --now polyjob.service", "systemctl daemon-reload"]
    assert not machine.layout.unit.exists()
    assert machine.layout.environment.exists() and machine.layout.data_dir.exists()
    uninstall(machine.layout, machine.reports.append)
    assert machine.reports[-1].startswith("There is no ")


def test_machine_without_systemd_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CannotInstall, match="has no systemctl"):
        machine.install()


def test_systemctl_without_systemd_changes_nothing(machine: Machine):
    machine.layout.booted.rmdir()
    with pytest.raises(CannotInstall, match="systemd does not run"):
        machine.install()
    assert (machine.commands(), machine.layout.environment.exists()) == ([], False)


def test_machine_without_useradd_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(systemd.shutil, "which", lambda name: None if name == "useradd" else name)
    with pytest.raises(CannotInstall, match="has no useradd"):
        machine.install()
    assert machine.commands() == []


def test_service_can_be_installed_without_a_start(machine: Machine):
    install(machine.layout, machine.reports.append, sys.executable, start=False)
    assert machine.commands()[1:] == ["systemctl daemon-reload", "systemctl enable --quiet polyjob.service"]
    assert machine.reports[-1].endswith("systemctl restart polyjob.service")


def test_account_without_rights_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotInstall, match="Only root"):
        machine.install()


def test_polyjob_in_a_closed_folder_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(systemd, "closed_part", lambda path: Path("/root"))
    with pytest.raises(CannotInstall, match="because /root is closed to other accounts"):
        machine.install()
    assert machine.commands() == []


def test_closed_part_is_the_first_one(tmp_path: Path):
    file = tmp_path / "open" / "closed" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "open" / "closed").chmod(0o700)
    tmp_path.chmod(0o755)
    others = [part for part in reversed(file.parents) if not part.stat().st_mode & 0o001]
    assert closed_part(file) == others[0]


def test_dry_run_prints_the_files():
    result = invoke("install", "--systemd", "--dry-run")
    assert result.exit_code == 0
    assert unit_text(Layout()) in result.stdout
    assert "== /etc/default/polyjob" in result.stdout


def test_settings_file_is_read_as_systemd_does() -> None:
    text = "# A=1\n; B=1\nC=1 2 \nD='x y'\nE=\"q\"\nF=a\\\nb\nno equals sign\n G = 3\nH='open\n"
    assert parse_environment(text) == {"C": "1 2", "D": "x y", "E": "q", "F": "ab", "G": "3", "H": "'open"}


def test_settings_of_the_service_are_those_of_its_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert service_environment(layout) is None
    layout.unit.parent.mkdir(parents=True)
    layout.unit.write_text(unit_text(layout))
    assert service_environment(layout) == {"POLYJOB_DATA_DIR": str(layout.data_dir)}
    layout.environment.parent.mkdir(parents=True)
    layout.environment.write_text("POLYJOB_DATA_DIR=/srv/jobs\nPOLYJOB_KEEP_DAYS=3\n")
    assert service_environment(layout) == {"POLYJOB_DATA_DIR": "/srv/jobs", "POLYJOB_KEEP_DAYS": "3"}
    layout.unit.write_text("[Service]\n")
    assert service_environment(layout) is None


def test_settings_of_the_service_include_its_drop_ins(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    other = tmp_path / "other"
    files = {
        layout.unit: unit_text(layout),
        layout.environment: "POLYJOB_SLOTS=1\nPOLYJOB_PORT=8001\n",
        other: "POLYJOB_PORT=8002\n",
        tmp_path / "usr/lib/systemd/system/polyjob.service.d/a.conf": "[Service]\nEnvironment=POLYJOB_HOST=hidden\n",
        tmp_path / "etc/systemd/system/polyjob.service.d/a.conf": (
            "[Unit]\nEnvironment=POLYJOB_HOST=wrong\n[Service]\n# Environment=POLYJOB_HOST=comment\n"
            'Environment=POLYJOB_KEEP_DAYS=3 "POLYJOB_NOTIFY_URL=http://a/%%20 b" \\\n  POLYJOB_SLOTS=9\n'
        ),
        tmp_path / "run/systemd/system/polyjob.service.d/b.conf": f"[Service]\nEnvironmentFile={other}\n",
        tmp_path / "etc/systemd/system/polyjob.service.d/c.txt": "[Service]\nEnvironment=POLYJOB_HOST=no-conf\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [path.name for path in layout.drop_ins()] == ["a.conf", "b.conf"]
    assert service_environment(layout) == {
        "POLYJOB_DATA_DIR": str(layout.data_dir), "POLYJOB_KEEP_DAYS": "3", "POLYJOB_NOTIFY_URL": "http://a/%20 b",
        "POLYJOB_SLOTS": "1", "POLYJOB_PORT": "8002",
    }  # fmt: skip
    layout.drop_ins()[1].write_text("[Service]\nEnvironment=\nEnvironmentFile=\nEnvironment=POLYJOB_SLOTS=5\n")
    assert service_environment(layout) == {"POLYJOB_SLOTS": "5"}
