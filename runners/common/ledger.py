"""The jobs that a remote runner has started: one small file for each job, in the runner's own folder.

So a job whose container or pod was removed by someone else is known to have run, and never runs again.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from runners.base import FENCE_LIFETIME_SECONDS
from runners.common.durable import replace_file


class Ledger:
    """The records of one runner.

    The main record of a job is the file `<uuid>`. Records of other kinds have a suffix, such as `<uuid>.stop`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self, uuid: str) -> Iterator[Path]:
        """Lock the records of a job, for all threads and processes, and return the path of its main record. Blocks."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with open(self.folder / f"{uuid}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.folder / uuid

    def read(self, uuid: str, kind: str = "") -> str | None:
        """Return the text of a record, or None if there is none."""
        try:
            return self._path(uuid, kind).read_text()
        except FileNotFoundError:
            return None

    def is_recent(self, uuid: str, kind: str, seconds: float) -> bool:
        """Return whether a record was written less than `seconds` ago.

        If the clock was set back by more than that, the record is not recent. Raises FileNotFoundError if there is no
        such record.
        """
        return abs(time.time() - self._path(uuid, kind).stat().st_mtime) < seconds

    def expired(self) -> list[tuple[str, str]]:
        """Return (uuid, text) of the main records that are older than `FENCE_LIFETIME_SECONDS`."""
        records = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if not path.suffix and time.time() - path.stat().st_mtime > FENCE_LIFETIME_SECONDS:
                        records.append((path.name, path.read_text()))
        return records

    def write(self, uuid: str, text: str, kind: str = "") -> None:
        """Write a record. It is on disk when this returns, and readers see the old text or the new text."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_record(self._path(uuid, kind), text)

    def remove_kind(self, uuid: str, kind: str) -> None:
        """Remove one kind of a job's records. Idempotent."""
        self._path(uuid, kind).unlink(missing_ok=True)

    def remove(self, uuid: str, *kinds: str) -> None:
        """Remove a job's main record, its lock and the records of these kinds. Idempotent."""
        for kind in ("", ".lock", *kinds):
            self._path(uuid, kind).unlink(missing_ok=True)

    def _path(self, uuid: str, kind: str) -> Path:
        return self.folder / f"{uuid}{kind}"


def write_record(path: Path, text: str) -> None:
    """Write the record that `Ledger.locked` has returned, as `Ledger.write` does."""
    replace_file(path, text.encode())
