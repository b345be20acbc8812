"""Find files and processes that are left over once every job has ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from runners.process import keeper_server
from runners.process.attempts import FENCED

ALLOWED_NAMES = {"log", "log.times", "outputs.tar.gz", "outputs.json", "inputs.tar.gz", "work"}
"""Names that the folder of a done job may have."""


def leftover_files(data: Path, known: Collection[str]) -> list[str]:
    """Return unfinished files, and files that belong to no job in `known` (uuids)."""
    unfinished = [path for path in data.rglob("*.part") if not _is_checked_elsewhere(path.relative_to(data))]
    leftovers = [str(path.relative_to(data)) for path in unfinished]
    for folder in (data / "jobs").iterdir():
        if folder.name not in known:
            leftovers.append(str(folder.relative_to(data)))
        else:
            names = {path.name for path in folder.iterdir()} - ALLOWED_NAMES
            leftovers += [f"jobs/{folder.name}/{name}" for name in names]
    with contextlib.suppress(FileNotFoundError):
        leftovers += [f"docker/{path.name}" for path in (data / "docker").iterdir() if _names_a_container(path)]
    with contextlib.suppress(FileNotFoundError):
        jobs = (data / "process" / "jobs").iterdir()
        leftovers += [f"process/jobs/{path.name}" for path in jobs if not _is_fence(path)]
    return sorted(leftovers)


def _is_checked_elsewhere(path: Path) -> bool:
    """Return whether an unfinished file is in a folder that is not left over, or that is checked as a whole.

    The first is the folder that waits for the next job of a keeper that lives, the second the private folder of a job.
    """
    match path.parts:
        case ("process", "jobs", _, _):
            return True
        case ("process", folder, pid, _):
            return folder == f"prepared-{keeper_server.VERSION}" and Path("/proc", pid).exists()
    return False


def _names_a_container(record: Path) -> bool:
    """Return whether a record names a container. The record of a prevented start names none, and stays."""
    return record.suffix == "" and bool(json.loads(record.read_text())["id"])


def _is_fence(folder: Path) -> bool:
    """Return whether a folder only prevents the start of its job."""
    names = {path.name for path in folder.iterdir()} - {"attempt.part"}  # of a server that died in its first step
    return names == {"attempt"} and (folder / "attempt").read_bytes() == FENCED


def processes_naming(data: Path) -> list[str]:
    """Return the command lines that name the data folder: server, engine, keepers."""
    leftovers = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(data) in line:
                    leftovers.append(f"{folder.name}: {line}")
    return leftovers


def keeper_server_pids(data: Path) -> list[int]:
    """Return the pid of the keeper server, or nothing if none is listening."""
    folder = -1
    try:
        folder = os.open(data / "process", os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{folder}/server-{keeper_server.VERSION}")
            size = struct.calcsize("3i")
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            return [pid]
    except OSError:
        return []
    finally:
        if folder >= 0:
            os.close(folder)
