"""Where polyjob keeps files: every path below the data folder, and the few ways in which files come to be complete.

A name that means «complete» appears by a rename of what was synced before. No database is touched here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from polyjob.crash_points import crash_point
from polyjob.errors import Unavailable
from polyjob.storage import reserve
from polyjob.storage.outputs import LiveOutputs, Outputs, write_index
from polyjob.storage.pack import Packer
from runners.common.trees import remove_tree, removing_tree, restoring_file

PRIVATE, SHARED = 0o700, 0o711
STALE_AFTER = 3600.0
"""Seconds after which a file that nobody renamed is taken for a crash's left-over."""


class StoreError(OSError):
    """The data folder cannot be used; the text is one sentence that names it."""


class Store:
    """The files of one data folder. Holds nothing; as many as you like may be made."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    # Where things are.

    def job_folder(self, uuid: str) -> Path:
        return self.data_dir / "jobs" / uuid

    def job_log(self, uuid: str) -> Path:
        return self.job_folder(uuid) / "log"

    def job_inputs(self, uuid: str) -> Path:
        """The archive of the outputs that a resumed or copied job starts with."""
        return self.job_folder(uuid) / "inputs.tar.gz"

    def build_folder(self, uuid: str) -> Path:
        return self.data_dir / "builds" / uuid

    def build_log(self, uuid: str) -> Path:
        return self.build_folder(uuid) / "log"

    def open_build_log(self, uuid: str) -> BinaryIO:
        """Open the build's log to append to, unbuffered; jobs of another account cannot read it."""
        file = os.open(self.build_log(uuid), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(file, "ab", buffering=0)

    def code_archive(self, digest: str) -> Path:
        return self.data_dir / "code" / f"{digest}.tar.gz"

    # Folders.

    def prepare(self, shared: bool = False) -> None:
        """Make the data folder and what is always in it; idempotent. `shared`: other accounts may pass through, as
        jobs that run as one must, but read nothing.

        A data folder of another account keeps its mode, because only its owner can change that.

        On a full disk the reserve is given up. Raises StoreError where the folder cannot be made or written, or is
        another account's and open to everybody.
        """
        reserve.release(self.data_dir)
        mode = SHARED if shared else PRIVATE
        try:
            for folder in (self.data_dir, *(self.data_dir / name for name in ("jobs", "builds", "code"))):
                folder.mkdir(parents=True, exist_ok=True, mode=mode)
                _restrict(folder, mode)
            probe = self.data_dir / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(f"the data folder {str(self.data_dir)!a} cannot be used: {reason}") from error
        self._sweep(self.data_dir / "code")

    def make_job_folder(self, uuid: str) -> Path:
        """Idempotent."""
        return self._make(self.job_folder(uuid))

    def make_build_folder(self, uuid: str) -> Path:
        """Idempotent."""
        return self._make(self.build_folder(uuid))

    def _make(self, folder: Path) -> Path:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=PRIVATE)
            folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))
        return folder

    def remove_job(self, uuid: str) -> None:
        """Remove everything that a job has left in files. Idempotent; raises OSError if something stays."""
        remove_tree(self.job_folder(uuid))

    def removing_job(self, uuid: str) -> Iterator[None]:
        """Do what `remove_job` does in short steps; what is left when the iterator is closed stays."""
        return removing_tree(self.job_folder(uuid))

    def job_size(self, uuid: str) -> int:
        """Bytes of what a job has left, when it is done."""
        try:
            with os.scandir(self.job_folder(uuid)) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except FileNotFoundError:
            return 0

    def remove_build(self, uuid: str) -> None:
        """As `remove_job`."""
        remove_tree(self.build_folder(uuid))

    def removing_build(self, uuid: str) -> Iterator[None]:
        """As `removing_job`."""
        return removing_tree(self.build_folder(uuid))

    def free_bytes(self) -> int:
        """What the disk of the data folder has left for this account."""
        status = os.statvfs(self.data_dir)
        return status.f_bavail * status.f_frsize

    def check_free_space(self, minimum: int) -> None:
        """Raise Unavailable if the disk of the data folder has less than `minimum` bytes left."""
        free = self.free_bytes()
        if free < minimum:
            raise Unavailable(
                f"The server's disk is low: {free >> 20} MiB left. polyjob accepts nothing new below"
                f" {minimum >> 20} MiB (POLYJOB_DISK_LOW). Free some space and try again.",
                60,
            )

    def _sweep(self, folder: Path) -> None:
        for part in folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > STALE_AFTER:
                    part.unlink()

    # Logs.

    @staticmethod
    def append(log: Path, data: bytes, length: int) -> int:
        """Cut the log to `length` bytes, write `data` behind them, and return the new length.

        What lies beyond `length` was written by somebody who died before the cursor was committed, and comes again.
        A log that is shorter has lost bytes in a power cut: a line in their place says so.
        """
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
            lost = length - file.seek(0, os.SEEK_END)
            if lost > 0:
                line = f"\npolyjob: {lost} bytes of the log were lost here when the machine went down\n"
                data, length = line.encode() + data, length - lost
            file.truncate(length)
            file.seek(length)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
        return length + len(data)

    # Outputs.

    def outputs(self, uuid: str) -> Outputs:
        """What is sealed; empty outputs if nothing is."""
        folder = self.job_folder(uuid)
        return Outputs(folder / "outputs.tar.gz", folder / "outputs.json")

    def live_outputs(self, uuid: str) -> LiveOutputs:
        """What a local job that still runs has written so far."""
        return LiveOutputs(self.job_folder(uuid) / "outputs")

    def is_sealed(self, uuid: str) -> bool:
        """Whether the index of the outputs is there. Outputs without any entry have none if they came from a folder."""
        return (self.job_folder(uuid) / "outputs.json").exists()

    def seal(self, uuid: str, prefix: str, limit: int, pieces: Iterable[bytes] | None = None) -> None:
        """Do all that `sealing` and `removing_outputs` do, at once."""
        deque(self.sealing(uuid, prefix, limit, pieces), maxlen=0)
        deque(self.removing_outputs(uuid), maxlen=0)

    def sealing(
        self,
        uuid: str,
        prefix: str,
        limit: int,
        pieces: Iterable[bytes] | None = None,
        deadline: Callable[[], str | None] = lambda: None,
    ) -> Iterator[int]:
        """Turn the outputs into the sealed archive and its index, synced: from `pieces` (a tar stream) or else from
        the job's own folder, which stays as it is. Empty outputs of a folder make no file.

        Yields the bytes of files packed so far, at least after each 64 KiB, so that the caller can pause. Closing the
        iterator before its end leaves everything as it was. At most `limit` bytes are kept (0 = all), nothing more
        once `deadline` says why, and no more than the disk could hold if the holes in files were data. What is not
        kept is noted.

        Idempotent: what is sealed is not sealed again. Raises what `pieces` raises, and OSError; then nothing is
        sealed.
        """
        if self.is_sealed(uuid):
            return
        packer = Packer(prefix, limit, self._disk_bytes(), pieces is None, deadline)
        packed = packer.folder(self.job_folder(uuid) / "outputs") if pieces is None else packer.stream(pieces)
        yield from self._write_outputs(uuid, packer, packed, may_be_left_out=pieces is None)

    def removing_outputs(self, uuid: str) -> Iterator[None]:
        """Remove the folder of outputs that `sealing` has packed, in short steps, so that the caller can pause.

        Idempotent. What cannot be removed stays until the job is removed.
        """
        with contextlib.suppress(OSError):
            yield from removing_tree(self.job_folder(uuid) / "outputs")

    def _write_outputs(
        self, uuid: str, packer: Packer, packed: Iterator[bytes], may_be_left_out: bool
    ) -> Iterator[int]:
        first = next(packed, None)
        is_empty = first is None and not packer.entries and not packer.notes
        if is_empty and may_be_left_out:
            return
        folder = self.make_job_folder(uuid)
        if not is_empty:
            with completing(folder / "outputs.tar.gz", "seal") as file:
                file.write(first or b"")
                for piece in packed:
                    file.write(piece)
                    yield packer.taken
                file.seek(packer.rewind())
                file.truncate()
                for piece in packer.end():
                    file.write(piece)
        complete(folder / "outputs.json", "seal-index", lambda file: write_index(file, packer))

    def _disk_bytes(self) -> int:
        status = os.statvfs(self.data_dir)
        return status.f_blocks * status.f_frsize

    def restoring_log(self, uuid: str) -> Iterator[None]:
        """Give the job's log back its permissions, or remove in short steps what the job has put in its place: a job
        that runs as the server's account may do both. Idempotent. Raises OSError."""
        return restoring_file(self.job_log(uuid))

    def sync(self, uuid: str) -> None:
        """Have the job's log, its sealed outputs and their names survive a power cut. Idempotent.

        An empty log is the same as none, so where that is all there is, nothing needs to survive.
        """
        log, folder = self.job_log(uuid), self.job_folder(uuid)
        has_log = log.exists() and log.stat().st_size > 0
        if has_log:
            sync(log)
        if has_log or (folder / "outputs.json").exists():
            sync(folder)
            sync(folder.parent)

    def link_inputs(self, source: str, uuid: str, keep_free: int = 0) -> None:
        """Give the job `uuid` the sealed outputs of `source` to start with; nothing if those are empty. Idempotent.

        A file system without hard links gets a copy, which may take minutes. Raises Unavailable if the copy would leave
        less than `keep_free` bytes of the disk, or while another copy of the same outputs is being made.
        """
        archive = self.job_folder(source) / "outputs.tar.gz"
        if self.is_sealed(source) and archive.exists():
            self.make_job_folder(uuid)
            try:
                self.job_inputs(uuid).hardlink_to(archive)
            except FileExistsError:
                pass
            except OSError:  # no hard links here; another fault shows again
                self._copy_inputs(archive, self.job_inputs(uuid), keep_free)
            sync(self.job_folder(uuid))
            sync(self.data_dir / "jobs")

    def _copy_inputs(self, source: Path, path: Path, keep_free: int) -> None:
        with source.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # it may be for the same request, sent again by a client that did not wait
                raise Unavailable(
                    "These outputs are being copied for another job; try again in a moment.", 10
                ) from None
            size, free = os.fstat(file.fileno()).st_size, self.free_bytes()
            if size + keep_free > free:
                raise Unavailable(
                    f"The server's disk has {free >> 20} MiB left. The copy of the outputs needs {size >> 20} MiB, and "
                    f"{keep_free >> 20} MiB have to stay free.",
                    60,
                )
            complete(path, "inputs", lambda copy: shutil.copyfileobj(file, copy))


def _restrict(folder: Path, mode: int) -> None:
    """Give a folder this mode, where this account can. Raises OSError for another account's folder that everybody can
    enter."""
    try:
        folder.chmod(mode)
    except PermissionError as error:
        if folder.stat().st_mode & stat.S_IRWXO:
            raise OSError(
                None,
                "it belongs to another account and everybody can enter it; set POLYJOB_DATA_DIR to a new folder in it",
            ) from error


def complete(path: Path, name: str, fill: Callable[[BinaryIO], None]) -> None:
    """Have `path` appear, whole and synced, with what `fill` writes; on an error nothing appears.

    `name` names the crash points before and after the rename.
    """
    with completing(path, name) as file:
        fill(file)


@contextlib.contextmanager
def completing(path: Path, name: str) -> Iterator[BinaryIO]:
    """As `complete`, with what is written inside the block."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    crash_point(f"{name}:before")
    part.rename(path)
    crash_point(f"{name}:after")
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or folder. Raises FileNotFoundError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
