"""What is left over where every job has ended: files, and processes."""

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

KEPT = {"log", "outputs.tar.gz", "outputs.json", "inputs.tar.gz", "work"}
"""What a job that is done may have in its folder."""


def left_in(data: Path, known: Collection[str]) -> list[str]:
    """Files that stand for something unfinished, and what is of no job in `known` (uuids)."""
    found = [str(path.relative_to(data)) for path in data.rglob("*.part")]
    for folder in (data / "jobs").iterdir():
        if folder.name not in known:
            found.append(str(folder.relative_to(data)))
        else:
            names = {path.name for path in folder.iterdir()} - KEPT
            found += [f"jobs/{folder.name}/{name}" for name in names]
    with contextlib.suppress(FileNotFoundError):
        found += [f"docker/{path.name}" for path in (data / "docker").iterdir() if _names_a_container(path)]
    with contextlib.suppress(FileNotFoundError):
        jobs = (data / "process" / "jobs").iterdir()
        found += [f"process/jobs/{path.name}" for path in jobs if not _is_fence(path)]
    return sorted(found)


def _names_a_container(record: Path) -> bool:
    """Not so the record of a start that was fenced: it stays, so that nothing that is still on its way can begin."""
    return record.suffix == "" and bool(json.loads(record.read_text())["id"])


def _is_fence(folder: Path) -> bool:
    """As above: what says that a job was never to begin."""
    names = {path.name for path in folder.iterdir()} - {"attempt.part"}  # of a server that died in its first step
    return names == {"attempt"} and (folder / "attempt").read_bytes() == FENCED


def processes_of(data: Path) -> list[str]:
    """The command lines that name the data folder: server, engine, keepers."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(data) in line:
                    found.append(f"{folder.name}: {line}")
    return found


def server_of_keepers(data: Path) -> list[int]:
    """The process that listens for jobs to keep; none where there is none."""
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
