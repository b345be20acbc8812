"""What is given to those who install polyjob: the systemd unit."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parent.parent / "deploy" / "polyjob.service"


def read() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit


def test_a_stop_of_the_service_signals_no_job():
    assert read()["Service"]["KillMode"] == "process"


def test_systemd_understands_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    command = read()["Service"]["ExecStart"].split()[0]
    copy = tmp_path / "polyjob.service"
    copy.write_text(UNIT.read_text().replace(command, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "polyjob" in line]
    assert (done.returncode, ours) == (0, [])
