"""The runner's records on disk, in `<data>/kubernetes`: small files for each job, named by its uuid.

The file `<uuid>` holds the handle of a started job, so that a job whose pod somebody removed is `Missing` and never
runs again. The other files carry a suffix; see the constants.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from runners.base import Exit
from runners.common.ledger import Ledger
from runners.kubernetes.files import PodFiles
from runners.kubernetes.namespace import Handle

FILES, STOP, END = ".files", ".stop", ".end"
"""Suffixes of records: the files to copy into the pod, written before the pod is requested; a stop was requested; the
end of a job whose pod is deleted before its command began, written before the deletion is requested."""


class JobRecords:
    """The records of all jobs. Each is on disk when its method returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Ledger(folder)

    def lock(self, uuid: str) -> AbstractContextManager[object]:
        """Keep all other threads and processes from a job's records. Blocks."""
        return self._records.locked(uuid)

    def remove(self, uuid: str) -> None:
        """Remove all records of a job. Idempotent."""
        self._records.remove(uuid, FILES, STOP, END)

    def handle(self, uuid: str) -> Handle | None:
        """Return the handle of a job that was started, or whose start was prevented."""
        text = self._records.read(uuid)
        return None if text is None else Handle.parse(text)

    def write_handle(self, handle: Handle) -> None:
        self._records.write(handle.uuid, handle.text())

    def files(self, uuid: str) -> PodFiles | None:
        """Return the files for a job's pod; None if no pod was requested, or it is certain that there will be none."""
        text = self._records.read(uuid, FILES)
        return None if text is None else PodFiles.parse(text)

    def write_files(self, uuid: str, files: PodFiles) -> None:
        self._records.write(uuid, files.text(), FILES)

    def remove_files(self, uuid: str) -> None:
        self._records.remove_kind(uuid, FILES)

    def may_be_pending(self, uuid: str, seconds: float) -> bool:
        """Return whether the last request for a job's pod is less than so many seconds old.

        Raises FileNotFoundError if there was none.
        """
        return self._records.is_recent(uuid, FILES, seconds)

    def is_stop_requested(self, uuid: str) -> bool:
        return self._records.read(uuid, STOP) is not None

    def write_stop(self, uuid: str) -> None:
        self._records.write(uuid, "", STOP)

    def end(self, uuid: str) -> Exit | None:
        """Return the end of a job whose pod polyjob deleted, or was about to delete, before its command began."""
        text = self._records.read(uuid, END)
        return None if text is None else Exit.from_json(json.loads(text))

    def write_end(self, uuid: str, end: Exit) -> None:
        self._records.write(uuid, json.dumps(end.to_json()), END)

    def remove_end(self, uuid: str) -> None:
        self._records.remove_kind(uuid, END)
