"""What a remote runner has started, written down in its own folder below the data folder: one small file for a job.

So a job whose thing in the back end somebody removed is known to have run, and never runs again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from runners.base import FENCE_LIFETIME_SECONDS


class Records:
    """The records of one runner; each can be held by one thread of all processes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def alone(self, uuid: str) -> Iterator[Path]:
        """The path of the job's record, which nobody else touches meanwhile, in any process. Blocks."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with open(self.folder / f"{uuid}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.folder / uuid

    def read(self, uuid: str, kind: str = "") -> str | None:
        """None where there is none."""
        try:
            return self.folder.joinpath(f"{uuid}{kind}").read_text()
        except FileNotFoundError:
            return None

    def is_recent(self, uuid: str, kind: str, seconds: float) -> bool:
        """Return whether a record was written less than so many seconds ago. A clock that was set back by more does not
        count. Raises FileNotFoundError where there is no such record."""
        return abs(time.time() - self.folder.joinpath(f"{uuid}{kind}").stat().st_mtime) < seconds

    def old(self) -> list[tuple[str, str]]:
        """(uuid, text) of those that are older than `FENCE_LIFETIME_SECONDS`."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if not path.suffix and time.time() - path.stat().st_mtime > FENCE_LIFETIME_SECONDS:
                        found.append((path.name, path.read_text()))
        return found

    def write(self, uuid: str, text: str, kind: str = "") -> None:
        """On disk when this returns; a reader sees all of it or nothing."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write(self.folder / f"{uuid}{kind}", text)

    def forget(self, uuid: str, kind: str) -> None:
        """Remove one kind of a job's records. Idempotent."""
        (self.folder / f"{uuid}{kind}").unlink(missing_ok=True)

    def remove(self, uuid: str, *kinds: str) -> None:
        """Idempotent."""
        for kind in ("", ".lock", *kinds):
            (self.folder / f"{uuid}{kind}").unlink(missing_ok=True)


def write(record: Path, text: str) -> None:
    """As `Records.write`."""
    part = record.with_name(f"{record.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(record)
    folder = os.open(record.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
