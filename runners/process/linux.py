"""Linux system calls and /proc files for which Python has no function. Standard library only."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of the calling process. Raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class ProcessStat(NamedTuple):
    state: str
    """One letter, for example `Z` for a zombie."""
    parent: int
    """Process id of the parent."""
    start_time: int
    """In clock ticks since boot. Process id and start time together identify a process."""


def process_stat(pid: int | str) -> ProcessStat:
    """Read `/proc/PID/stat`. Raises OSError if there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return ProcessStat(fields[0].decode(), int(fields[1]), int(fields[19]))


def process_name(pid: int) -> str:
    """Return the name of a process, or an empty string if it cannot be read."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def descendants() -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of all descendants of the calling process, parents first."""
    pairs: list[tuple[int, int]] = []
    parents = [os.getpid()]
    while parents:
        parent = parents.pop(0)
        for pid in _children(parent):
            pairs.append((pid, parent))
            parents.append(pid)
    return pairs


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass  # the process has just ended; its subreaper has adopted its children
    return children
