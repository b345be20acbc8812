"""The mark that every process of a job or build carries in its environment, and the killing of all that carry it."""

from __future__ import annotations

import os
import signal
import time

from runners.base import RunnerUnavailable, marker_variable
from runners.process.keeper import stat_of

PATIENCE = 10.0
"""Seconds that marked processes get to vanish once they are killed."""


def kill_marked(uuid: str) -> None:
    """KILL every process that carries the mark, until two looks at all processes find none.

    Raises RunnerUnavailable where one does not go, OSError where /proc cannot be read. A zombie counts as dead.
    """
    clean_looks, deadline = 0, time.monotonic() + PATIENCE
    while clean_looks < 2:
        found = _marked(uuid)
        clean_looks = 0 if found else clean_looks + 1
        for held in found:
            _kill(held)
        if found:
            if time.monotonic() > deadline:
                raise RunnerUnavailable(f"{len(found)} processes of it cannot be killed")
            time.sleep(0.005)


def _marked(uuid: str) -> list[int]:
    """Process descriptors of the living processes that carry the mark."""
    name, value = marker_variable(uuid)
    wanted = f"{name}={value}".encode()
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or int(pid) == os.getpid():
            continue
        try:
            held = os.pidfd_open(int(pid))
        except OSError:
            continue
        if _carries(pid, wanted):
            found.append(held)
        else:
            os.close(held)
    return found


def _carries(pid: str, wanted: bytes) -> bool:
    """Whether a living thread of the process carries the mark: its first thread may have ended before the others."""
    try:
        threads = [pid] if stat_of(pid)[0] not in "ZX" else os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return any(_thread_carries(f"/proc/{pid}/task/{thread}", wanted) for thread in threads)


def _thread_carries(folder: str, wanted: bytes) -> bool:
    try:
        with open(f"{folder}/environ", "rb") as file:
            return wanted in file.read().split(b"\0")
    except OSError:
        return False


def _kill(held: int) -> None:
    try:
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(held)
