"""Find and kill all processes of a job or build by the marker variable in their environment."""

from __future__ import annotations

import os
import signal
import time

from runners.base import RunnerUnavailable, marker_variable
from runners.process.linux import process_stat

KILL_TIMEOUT_SECONDS = 10.0
"""Time within which killed processes must end."""


def kill_marked(uuid: str) -> None:
    """Kill every process that carries the marker, until two searches in a row find none. A zombie counts as dead.

    Raises RunnerUnavailable if a process does not end, and OSError if /proc cannot be read.
    """
    empty_searches, deadline = 0, time.monotonic() + KILL_TIMEOUT_SECONDS
    while empty_searches < 2:
        processes = _find_marked(uuid)
        empty_searches = 0 if processes else empty_searches + 1
        for process in processes:
            _kill(process)
        if processes:
            if time.monotonic() > deadline:
                raise RunnerUnavailable(f"{len(processes)} processes of it cannot be killed")
            time.sleep(0.005)


def _find_marked(uuid: str) -> list[int]:
    """Return process descriptors of all living processes that carry the marker."""
    name, value = marker_variable(uuid)
    marker = f"{name}={value}".encode()
    processes = []
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or int(pid) == os.getpid():
            continue
        try:
            process = os.pidfd_open(int(pid))
        except OSError:
            continue
        if _carries(pid, marker):
            processes.append(process)
        else:
            os.close(process)
    return processes


def _carries(pid: str, marker: bytes) -> bool:
    """Return whether a living thread of the process carries the marker. Its first thread may have ended already."""
    try:
        threads = [pid] if process_stat(pid).state not in "ZX" else os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return any(_thread_carries(f"/proc/{pid}/task/{thread}", marker) for thread in threads)


def _thread_carries(folder: str, marker: bytes) -> bool:
    try:
        with open(f"{folder}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError:
        return False


def _kill(process: int) -> None:
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(process)
