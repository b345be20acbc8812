"""The files of a job that its keeper creates: folders, the unpacked upload and inputs, `exit.json`.

Standard library only, with `runners.common.durable` and `runners.common.tar_names`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from runners.common.durable import write_all
from runners.common.tar_names import path_below
from runners.process.linux import PR_SET_PDEATHSIG, prctl
from runners.process.spawn import Account
from runners.process.supervisor import FORCE, TERM, Supervisor

BLOCK_BYTES = 1 << 16
"""A block of this size that has only zeros becomes a hole in an unpacked file."""
ERROR_BYTES = 2000


class ExitFile:
    """The file `exit.json`.

    Its space on the disk is reserved when the job starts. So the exit can be written even if the job fills the disk.
    """

    RESERVED_BYTES = 4096

    def __init__(self, path: str, file: int) -> None:
        """Use the space that `reserve` has reserved; `file` is its descriptor."""
        self._path = path
        self.file = file

    @classmethod
    def reserve(cls, path: str) -> ExitFile:
        """Reserve the space. Raises OSError if the disk is full."""
        file = os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, cls.RESERVED_BYTES)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                os.close(file)
                raise  # other errors: this file system cannot reserve space, so the disk needs space at the end
        return cls(path, file)

    def write(self, end: dict[str, Any]) -> None:
        """Write `end` and give the file its name. Long lists and messages are shortened to the reserved space."""
        data = json.dumps(end).encode()
        if len(data) > self.RESERVED_BYTES:
            data = json.dumps(end | {"stragglers": [], "message": str(end.get("message", ""))[:500]}).encode()
        os.pwrite(self.file, data, 0)
        os.ftruncate(self.file, len(data))
        os.rename(f"{self._path}.part", self._path)

    def await_signals(self) -> None:
        """After `write`: wait until no one signals this process for this job any more. Raises OSError.

        Whoever signals a keeper holds a lock on this file, and only does so while the file does not have its name.
        """
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def close(self) -> None:
        os.close(self.file)


@contextlib.contextmanager
def holding_keeper(path: str) -> Iterator[bool]:
    """Yield whether the keeper still has the job with this `exit.json`. If so, it takes no other job inside the block.

    So a signal that is sent there reaches it for this job, or has no effect. Raises OSError.
    """
    file = -1
    try:
        file = os.open(f"{path}.part", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        has_job = os.path.exists(f"{path}.part")
    except (FileNotFoundError, BlockingIOError):  # the exit is written
        has_job = False
    try:
        yield has_job
    finally:
        if file >= 0:
            os.close(file)


class PreparedFiles:
    """The empty log and folders of a keeper's next job, which the keeper creates while it waits for the job.

    Each gets its place by a rename, which takes a fraction of the time of a creation.
    """

    FOLDERS = ("work", "outputs", "tmp")

    def __init__(self, path: str) -> None:
        """`path` is a folder of this keeper. It does not have to exist."""
        self._path = path

    def prepare(self) -> None:
        """Create what is missing, as far as possible. The job's own keeper creates the rest."""
        with contextlib.suppress(OSError):
            for path in (self._path, *(f"{self._path}/{name}" for name in self.FOLDERS)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
            os.close(os.open(f"{self._path}/log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def give(self, name: str, path: str) -> bool:
        """Move one of the folders, or the log, to its place. Return False if it is not prepared or the place is taken.

        No other process creates anything at that place.
        """
        if name == "log" and os.path.lexists(path):
            return False
        try:
            os.rename(f"{self._path}/{name}", path)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Remove what no job has received, as far as possible."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self._path}/log")
        for path in (*(f"{self._path}/{name}" for name in self.FOLDERS), self._path):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def make_folder(path: str, account: Account | None) -> None:
    """Create a folder of the job and give it to the account. One that exists already is used. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    _give_folder(path, account)


def make_temporary_folder(spec: dict[str, Any], account: Account | None, prepared: PreparedFiles) -> None:
    """Create the job's own TMPDIR. If that fails, the job uses the parent folder, as other processes do."""
    try:
        if not prepared.give("tmp", spec["tmp"]):
            os.mkdir(spec["tmp"], 0o700)
        _give_folder(spec["tmp"], account)
    except OSError:
        if spec["env"].get("TMPDIR") == spec["tmp"]:
            spec["env"]["TMPDIR"] = os.path.dirname(spec["tmp"])


def _give_folder(path: str, account: Account | None) -> None:
    """Make the account the owner of a folder that belongs to this process. Links are not followed."""
    if account is None:
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            os.fchown(folder, account.user, account.group)
    finally:
        os.close(folder)


def unpack(
    spec: dict[str, Any], work: str, outputs: str, account: Account | None, supervisor: Supervisor
) -> str | None:
    """Unpack the upload into `work`, the inputs into `outputs`, and outputs of earlier jobs into folders of their own.

    Return an error message, or None. A child process does this, as the account of the job, so that `supervisor` can
    stop it. Raises OSError.
    """
    # Imported before the account changes, because it may not be able to read Python's folder.
    import gzip  # noqa: F401
    import tarfile  # noqa: F401

    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    # Opened before the account changes, because it cannot read the data folder.
    tarballs = [(spec["code"], work, 0), (spec["inputs"], outputs, 1)]
    for name, path in spec["job_outputs"]:
        folder = f"{spec['folder']}/inputs/{name}"
        os.makedirs(os.path.dirname(folder), 0o711, exist_ok=True)  # the job cannot change it if it runs as an account
        make_folder(folder, account)
        tarballs.append((path, folder, 1))
    files = [(os.open(path, os.O_RDONLY | os.O_CLOEXEC), folder, strip) for path, folder, strip in tarballs if path]
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _prepare_child(keeper, account)
            for file, folder, strip in files:
                extract(file, folder, strip)
            os._exit(0)
        except BaseException as error:
            reason = getattr(error, "strerror", None) or str(error)
            message = f"The job's files cannot be unpacked: {reason}"
            os.write(error_write, message.encode(errors="replace")[:ERROR_BYTES])
        finally:
            os._exit(1)
    for descriptor in (error_write, *(file for file, _, _ in files)):
        os.close(descriptor)
    status = supervisor.wait(pid)
    with open(error_read, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    return message or (None if status == 0 else "The job's files cannot be unpacked: the unpacking was killed")


def _prepare_child(keeper: int, account: Account | None) -> None:
    """In the unpacking process: react to signals by ending, become the account, and end with the keeper."""
    signal.set_wakeup_fd(-1)
    for signal_number in (TERM, FORCE):
        signal.signal(signal_number, signal.SIG_DFL)
    if account:
        account.become()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # last, because a change of account resets it
    if os.getppid() != keeper:
        os._exit(1)


def extract(file: int, folder: str, strip: int) -> None:
    """Unpack an open .tar.gz file without the `strip` topmost folders of its names.

    The tarball was checked when it was received. Raises OSError and tarfile.TarError.
    """
    import tarfile

    def members(tarball: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tarball:
            name = path_below(member.name, strip)
            if not name or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                continue
            member.name = name
            if member.islnk():
                member.linkname = path_below(member.linkname, strip) or ""
            member.mode = (member.mode & 0o777) | (0o700 if member.isdir() else 0o600)
            member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
            yield member

    class SparseTarFile(tarfile.TarFile):
        """Writes blocks of zeros as holes, so that a file needs no more disk space than before it was packed."""

        def makefile(self, member: tarfile.TarInfo, path: Any) -> None:
            source = self.extractfile(member)
            if member.issparse() or source is None:
                super().makefile(member, path)
                return
            with open(path, "wb", buffering=0) as target:
                while block := source.read(BLOCK_BYTES):
                    if block.count(0) == len(block):
                        target.seek(len(block), os.SEEK_CUR)
                    else:
                        write_all(target.fileno(), block)
                target.truncate(member.size)

    # The names are made safe above, because older Pythons have no filters. Newer ones warn unless a filter is named.
    options: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    with SparseTarFile.open(fileobj=open(file, "rb"), mode="r:gz", errors="surrogateescape") as tarball:
        tarball.extractall(folder, members(tarball), **options)
