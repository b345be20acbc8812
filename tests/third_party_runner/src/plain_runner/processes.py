"""Find and signal the processes of a job or build, by the marker in their environment. Standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def living(marker: str) -> list[int]:
    """Return the processes whose environment has the marker `NAME=value`, except zombies."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in pids if marker.encode() in _read(pid, "environ").split(b"\0") and _is_alive(pid)]


def signal_all(marker: str, number: int) -> None:
    for pid in living(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_all(marker: str) -> None:
    """Kill all processes with the marker. Returns once none is left."""
    while living(marker):
        signal_all(marker, 9)
        time.sleep(0.01)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _is_alive(pid: int) -> bool:
    return _read(pid, "stat").rpartition(b") ")[2][:1] not in (b"", b"Z", b"X")
