"""Processes of the server, and starts that fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import ROOT, Server

PROGRAM = str(Path(sys.executable).with_name("polyjob"))


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_healthy(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return server.call("GET", "/healthz").status == 200
    return False


def error_line(*arguments: str, **environment: str) -> str:
    """Run a command that must fail, and return the one line that it prints."""
    without_settings = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
    command = [sys.executable, "-m", "polyjob", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=without_settings | environment
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line
