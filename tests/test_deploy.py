"""What is given to those who install polyjob: the systemd unit."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.require import require

UNIT = Path(__file__).resolve().parent.parent / "deploy" / "polyjob.service"


def read() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit


def test_a_stop_of_the_service_signals_no_job():
    assert read()["Service"]["KillMode"] == "process"


def complaints(text: str, folder: Path) -> tuple[int, list[str]]:
    """The exit code of systemd's check of such a unit, and what it says of it."""
    require("systemd", shutil.which("systemd-analyze") is not None, "there is no systemd-analyze")
    copy = folder / "polyjob.service"
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if "polyjob" in line]


def installed() -> str:
    """The unit with a command that is there."""
    return UNIT.read_text().replace(read()["Service"]["ExecStart"].split()[0], sys.executable)


def test_systemd_understands_the_unit(tmp_path):
    assert complaints(installed(), tmp_path) == (0, [])


@pytest.mark.parametrize("fault", ["KillMode=nobody", "Restrat=always", "ExecStartPre=/nonexistent/polyjob"])
def test_systemd_would_tell_of_a_fault(tmp_path, fault):
    assert complaints(installed().replace("KillMode=process", fault), tmp_path)[1]
