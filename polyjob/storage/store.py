"""The files of a data folder: their paths, and the operations on the files of jobs and builds.

The database is not used here.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from polyjob.errors import Unavailable
from polyjob.storage import reserve
from polyjob.storage.durable import durable_file, fsync_path, write_durably
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.outputs import Outputs, write_index
from polyjob.storage.pack import Packer
from polyjob.storage.pack_stream import pack_stream
from runners.common.log_times import LogTimes, Times, append_times, now_ms
from runners.common.trees import remove_tree, removing_tree, restoring_file

PRIVATE_MODE, SHARED_MODE = 0o700, 0o711
STALE_PART_SECONDS = 3600.0
"""A temporary file that is older was left behind by a crash and can be deleted."""


class StoreError(OSError):
    """The data folder cannot be used. The text is one sentence that names the folder."""


class Store:
    """The files of one data folder. An instance holds no state, so there can be any number of them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    # Paths.

    def job_folder(self, uuid: str) -> Path:
        return self.data_dir / "jobs" / uuid

    def job_log(self, uuid: str) -> Path:
        return self.job_folder(uuid) / "log"

    def job_inputs(self, uuid: str) -> Path:
        """The tarball of the outputs that a resumed or copied job starts with."""
        return self.job_folder(uuid) / "inputs.tar.gz"

    def job_outputs(self, uuid: str, name: str) -> Path:
        """The tarball of the outputs of an earlier job that a job reads. It is an empty file if there are none."""
        return self.job_folder(uuid) / "inputs" / f".{name}.tar.gz"

    def build_folder(self, uuid: str) -> Path:
        return self.data_dir / "builds" / uuid

    def build_log(self, uuid: str) -> Path:
        return self.build_folder(uuid) / "log"

    def open_build_log(self, uuid: str) -> BinaryIO:
        """Open the build's log for appending, unbuffered. Jobs that run as another account cannot read it."""
        return _BuildLogFile(self.build_log(uuid))

    def upload_path(self, digest: str) -> Path:
        return self.data_dir / "code" / f"{digest}.tar.gz"

    # Folders.

    def prepare(self, shared: bool = False) -> None:
        """Create the data folder with its subfolders. Idempotent.

        If `shared`, other accounts can pass through the folders but cannot list them. Jobs that run as another account
        need that. A data folder that belongs to another account keeps its mode, because only its owner can change it.

        On a full disk, this releases the reserve. Raises StoreError if the folder cannot be created or written to, or
        if it belongs to another account and everybody can enter it.
        """
        reserve.release(self.data_dir)
        mode = SHARED_MODE if shared else PRIVATE_MODE
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
        self._remove_stale_parts(self.data_dir / "code")

    def make_job_folder(self, uuid: str) -> Path:
        """Create the job's folder and return it. Idempotent."""
        folder = self.job_folder(uuid)
        try:
            os.rename(self._prepared_job_folder, folder)
        except OSError:  # there is none, or the job has a folder
            return self._make_folder(folder)
        _copy_mode(folder)
        return folder

    def prepare_job_folder(self) -> None:
        """Create the folder of the next job, as far as possible. Idempotent.

        A rename takes a fraction of the time of a creation, and so does the start of that job.
        """
        with contextlib.suppress(OSError):
            os.mkdir(self._prepared_job_folder, PRIVATE_MODE)

    @property
    def _prepared_job_folder(self) -> Path:
        return self.data_dir / "prepared-job"

    def make_build_folder(self, uuid: str) -> Path:
        """Create the build's folder and return it. Idempotent."""
        return self._make_folder(self.build_folder(uuid))

    def _make_folder(self, folder: Path) -> Path:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, PRIVATE_MODE)
            _copy_mode(folder)
        return folder

    def remove_job(self, uuid: str) -> None:
        """Remove all files of a job. Idempotent. Raises OSError if a file remains."""
        remove_tree(self.job_folder(uuid))

    def remove_job_in_steps(self, uuid: str) -> Iterator[None]:
        """Do what `remove_job` does in short steps. Files that remain when the iterator is closed stay there."""
        return removing_tree(self.job_folder(uuid))

    def job_size(self, uuid: str) -> int:
        """Return the bytes of the files directly in a job's folder, which are all files of a job that has ended."""
        try:
            with os.scandir(self.job_folder(uuid)) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except FileNotFoundError:
            return 0

    def remove_build(self, uuid: str) -> None:
        """Remove all files of a build. Idempotent. Raises OSError if a file remains."""
        remove_tree(self.build_folder(uuid))

    def remove_build_in_steps(self, uuid: str) -> Iterator[None]:
        """Do what `remove_build` does in short steps, as `remove_job_in_steps` does."""
        return removing_tree(self.build_folder(uuid))

    def free_bytes(self) -> int:
        """Return the bytes of the data folder's disk that this account can still use."""
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

    @staticmethod
    def _remove_stale_parts(folder: Path) -> None:
        for part in folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > STALE_PART_SECONDS:
                    part.unlink()

    # Logs.

    @staticmethod
    def append(log: Path, data: bytes, length: int, times: Times = ()) -> int:
        """Truncate the log to `length` bytes, append `data`, and return the new length.

        `times` says when the bytes of `data` were written; without it, that is now.

        Bytes beyond `length` were written by a process that died before it committed its cursor. They are fetched
        again. If the log is shorter, a power cut has lost bytes. A line in the log then reports how many.
        """
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
            lost_bytes = length - file.seek(0, os.SEEK_END)
            lead = b""
            if lost_bytes > 0:
                line = f"\npolyjob: {lost_bytes} bytes of the log were lost here when the machine went down\n"
                lead, length = line.encode(), length - lost_bytes
            if data:
                append_times(str(log), length + len(lead), times or [(0, now_ms())])
            file.truncate(length)
            file.seek(length)
            rest = memoryview(lead + data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
        return length + len(lead) + len(data)

    # Outputs.

    def outputs(self, uuid: str) -> Outputs:
        """Return the sealed outputs; empty ones if nothing has been sealed."""
        folder = self.job_folder(uuid)
        return Outputs(folder / "outputs.tar.gz", folder / "outputs.json")

    def live_outputs(self, uuid: str) -> LiveOutputs:
        """Return the outputs folder of a local job that is still running."""
        return LiveOutputs(self.job_folder(uuid) / "outputs")

    def is_sealed(self, uuid: str) -> bool:
        """Return whether the outputs have an index. Empty outputs of a folder have none."""
        return (self.job_folder(uuid) / "outputs.json").exists()

    def seal(self, uuid: str, prefix: str, limit: int, pieces: Iterable[bytes] | None = None) -> None:
        """Do what `seal_in_steps` and `remove_outputs_in_steps` do, in one call."""
        deque(self.seal_in_steps(uuid, prefix, limit, pieces), maxlen=0)
        deque(self.remove_outputs_in_steps(uuid), maxlen=0)

    def seal_in_steps(
        self,
        uuid: str,
        prefix: str,
        limit: int,
        pieces: Iterable[bytes] | None = None,
        deadline: Callable[[], str | None] = lambda: None,
    ) -> Iterator[int]:
        """Pack a job's outputs into the sealed tarball and its index, and fsync both.

        The outputs come from `pieces` (a tar stream) or else from the job's own folder, which is not changed. Empty
        outputs of a folder create no file.

        Yields the bytes of files packed so far, at least once per 64 KiB, so that the caller can pause. If the iterator
        is closed before its end, nothing is sealed. At most `limit` bytes are kept (0 = all), at most as many as the
        disk could hold if holes in files were data, and no more once `deadline` returns a reason. The index has a note
        for everything that is not kept.

        Idempotent: sealed outputs are not sealed again. Raises what `pieces` raises, and OSError; then nothing is
        sealed.
        """
        if self.is_sealed(uuid):
            return
        packer = Packer(prefix, limit, self._disk_bytes(), pieces is None, deadline)
        packed = packer.folder(self.job_folder(uuid) / "outputs") if pieces is None else pack_stream(packer, pieces)
        yield from self._write_outputs(uuid, packer, packed, skip_if_empty=pieces is None)

    def remove_outputs_in_steps(self, uuid: str) -> Iterator[None]:
        """Remove the folder of outputs that `seal_in_steps` has packed, in short steps, so that the caller can pause.

        Idempotent. Files that cannot be removed stay until the job is deleted.
        """
        with contextlib.suppress(OSError):
            yield from removing_tree(self.job_folder(uuid) / "outputs")

    def remove_job_outputs_in_steps(self, uuid: str) -> Iterator[None]:
        """Remove the outputs of earlier jobs that a job has read, as `remove_outputs_in_steps` removes its own."""
        with contextlib.suppress(OSError):
            yield from removing_tree(self.job_folder(uuid) / "inputs")

    def has_nothing_to_seal(self, uuid: str) -> bool:
        """Return whether a local job that has ended has written neither log nor outputs. Takes microseconds.

        If so, there is nothing to sync either. False for a job that has read outputs of earlier jobs, because these
        have to be removed.
        """
        folder = self.job_folder(uuid)
        try:
            status = os.lstat(folder / "log")
            if status.st_size or not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IRUSR:
                return False
        except FileNotFoundError:
            pass
        except OSError:  # such as a job that has replaced its folder by a file
            return False
        if os.path.lexists(folder / "outputs.json") or os.path.lexists(folder / "inputs"):
            return False
        try:
            outputs = os.open(folder / "outputs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:  # not a folder any more, or without permissions
            return False
        try:
            return not os.listdir(outputs)
        finally:
            os.close(outputs)

    def remove_empty_outputs(self, uuid: str) -> None:
        """Remove the folder of a job's outputs if it is empty, as far as possible. May wait for other writers."""
        with contextlib.suppress(OSError):
            os.rmdir(self.job_folder(uuid) / "outputs")

    def _write_outputs(self, uuid: str, packer: Packer, packed: Iterator[bytes], skip_if_empty: bool) -> Iterator[int]:
        first = next(packed, None)
        is_empty = first is None and not packer.entries and not packer.notes
        if is_empty and skip_if_empty:
            return
        folder = self.make_job_folder(uuid)
        if not is_empty:
            with durable_file(folder / "outputs.tar.gz", "seal") as file:
                file.write(first or b"")
                for piece in packed:
                    file.write(piece)
                    yield packer.packed_bytes
                file.seek(packer.rewind())
                file.truncate()
                for piece in packer.end():
                    file.write(piece)
        write_durably(folder / "outputs.json", "seal-index", lambda file: write_index(file, packer))

    def _disk_bytes(self) -> int:
        status = os.statvfs(self.data_dir)
        return status.f_blocks * status.f_frsize

    def restore_log_in_steps(self, uuid: str) -> Iterator[None]:
        """Make the job's log readable again, or remove in short steps whatever has replaced it.

        A job that runs as the server's account can change the log's mode or put a folder in its place. Idempotent.
        Raises OSError.
        """
        return restoring_file(self.job_log(uuid))

    def sync(self, uuid: str) -> None:
        """fsync the job's log, and the folders that hold the names of its log and sealed outputs. Idempotent.

        A missing log and an empty one are the same to readers, so an empty log is not synced.
        """
        log, folder = self.job_log(uuid), self.job_folder(uuid)
        has_log = log.exists() and log.stat().st_size > 0
        if has_log:
            fsync_path(log)
        if has_log or (folder / "outputs.json").exists():
            fsync_path(folder)
            fsync_path(folder.parent)

    def link_inputs(self, source: str, uuid: str, keep_free: int = 0) -> None:
        """Make the sealed outputs of the job `source` the inputs of the job `uuid`, unless they are empty. Idempotent.

        This makes a hard link. A file system without hard links gets a copy, which can take minutes. Raises Unavailable
        if the copy would leave less than `keep_free` bytes of the disk, or while the same outputs are copied for
        another job.
        """
        tarball = self._sealed_tarball(source)
        if tarball is not None:
            self.make_job_folder(uuid)
            self._link(tarball, self.job_inputs(uuid), keep_free)
            fsync_path(self.job_folder(uuid))
            fsync_path(self.data_dir / "jobs")

    def link_job_outputs(self, source: str, uuid: str, name: str, keep_free: int = 0) -> None:
        """Make the sealed outputs of the job `source` what the job `uuid` finds in a folder of this name. Idempotent.

        Works and raises as `link_inputs`.
        """
        tarball, path = self._sealed_tarball(source), self.job_outputs(uuid, name)
        self._make_inputs_folder(uuid)
        if tarball is None:
            path.touch(0o600)
        else:
            self._link(tarball, path, keep_free)

    def _make_inputs_folder(self, uuid: str) -> None:
        """Create the folder of the outputs of earlier jobs. Accounts that can pass through the job's can list it."""
        folder = self.make_job_folder(uuid) / "inputs"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=PRIVATE_MODE)
        mode = stat.S_IMODE(folder.parent.stat().st_mode)
        folder.chmod(mode | (mode & 0o111) << 2)

    def _sealed_tarball(self, uuid: str) -> Path | None:
        """Return the tarball of a job's sealed outputs; None if they are empty."""
        tarball = self.job_folder(uuid) / "outputs.tar.gz"
        return tarball if self.is_sealed(uuid) and tarball.exists() else None

    def _link(self, tarball: Path, path: Path, keep_free: int) -> None:
        try:
            path.hardlink_to(tarball)
        except FileExistsError:
            pass
        except OSError:  # no hard links on this file system; any other error occurs again in the copy
            self._copy_inputs(tarball, path, keep_free)

    def _copy_inputs(self, source: Path, path: Path, keep_free: int) -> None:
        with source.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps for the same request, which an impatient client has sent again
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
            write_durably(path, "inputs", lambda copy: shutil.copyfileobj(file, copy))


class _BuildLogFile(io.FileIO):
    """The log of a build, open for appending, with the times of what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
        self._length = self.seek(0, os.SEEK_END)
        self._times = LogTimes(str(path))

    def write(self, data: Any, /) -> int:
        if data:
            self._times.record(self._length, now_ms())
        written = super().write(data)
        self._length += written
        return written

    def close(self) -> None:
        self._times.close()
        super().close()


def _copy_mode(folder: Path) -> None:
    """Give a new private folder the mode of the folder that it is in."""
    mode = stat.S_IMODE(os.stat(folder.parent).st_mode)
    if mode != PRIVATE_MODE:
        os.chmod(folder, mode)


def _restrict(folder: Path, mode: int) -> None:
    """Set a folder's mode if this account owns it.

    Raises OSError for another account's folder that everybody can enter.
    """
    try:
        folder.chmod(mode)
    except PermissionError as error:
        if folder.stat().st_mode & stat.S_IRWXO:
            raise OSError(
                None,
                "it belongs to another account and everybody can enter it; set POLYJOB_DATA_DIR to a new folder in it",
            ) from error
