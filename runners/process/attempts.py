"""The file `attempt` in the private folder of a job: it gives the job to at most one keeper.

The keeper server creates the file, locks it, and passes the lock to a keeper. The keeper empties the file when it takes
the job, and holds the lock for as long as it lives:

| content | locked | meaning |
|---|---|---|
| id of this boot | yes | a keeper server is giving the job to a keeper |
| id of this boot | no | the keeper server died before a keeper took the job; the next start continues here |
| empty | yes | a keeper has the job |
| empty, or id of another boot | no | the keeper has ended |
| `fenced` | no | no keeper may ever get the job |

The file appears complete: with its folder, which the keeper server has prepared and gives the job's name, or by a hard
link from `attempt.part`. On a file system without hard links it is empty for a moment. Then `attempt.part`, which
exists until the attempt has the id, shows that no keeper has emptied it.

Standard library only: the keeper server loads this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

FENCED = b"fenced"
"""Content of the attempt of a job that must not start any more."""
HANDOVER_SECONDS = 2.0
"""Time within which a living keeper has taken its job, or has ended because its server died."""
CONTENT_BYTES = 100


def begin(path: str, boot_id: str) -> int | None:
    """Create the attempt of a job, or continue with one that no keeper has taken.

    Return its locked file, or None if a keeper has or had the job, or if the job is fenced. Raises OSError.
    """
    if not os.path.exists(path):  # otherwise `attempt.part` would make an emptied attempt look unused
        with contextlib.suppress(FileExistsError):  # a fence was faster
            create(path, boot_id)
    attempt = lock_unused(path, boot_id)
    try:
        with contextlib.suppress(FileNotFoundError):  # a fence has cleared the folder
            os.unlink(f"{path}.part")
    except OSError:
        if attempt is not None:
            os.close(attempt)
        raise
    return attempt


def create(path: str, boot_id: str) -> None:
    """Create an attempt that no keeper has taken.

    Raises FileExistsError if there is one, and FileNotFoundError if `clean` or a fence removes its files meanwhile.
    """
    part = f"{path}.part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)  # it may be another name of an existing attempt, so it is never written to
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, boot_id.encode())
    finally:
        os.close(file)
    try:
        os.link(part, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # hard links are not supported here; any other error occurs again in the next line
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def create_locked(path: str, boot_id: str) -> int:
    """Create the attempt of a job that is not known yet, in a folder that no one else uses. Return its locked file.

    Raises OSError.
    """
    attempt = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(attempt, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(attempt, boot_id.encode())
    except OSError:
        os.close(attempt)
        raise
    return attempt


def lock_unused(path: str, boot_id: str) -> int | None:
    """Lock an attempt that no keeper has taken, write this boot's id into it, and return its file.

    Return None if there is no such attempt: a keeper has or had the job, the job is fenced, or the attempt is from
    another boot. Waits up to HANDOVER_SECONDS for a keeper that is about to take the job, or to end because its server
    died. Raises OSError.
    """
    try:
        attempt = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    deadline = time.monotonic() + HANDOVER_SECONDS
    try:
        while _is_unused(attempt, path, boot_id) and time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(attempt, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_unused(attempt, path, boot_id):
                    os.pwrite(attempt, boot_id.encode(), 0)
                    return attempt
            time.sleep(0.01)
    except OSError:
        os.close(attempt)
        raise
    os.close(attempt)
    return None


def take(attempt: int) -> None:
    """In the keeper: take the job. From now on, no other keeper gets it."""
    os.ftruncate(attempt, 0)


def is_locked(path: str) -> bool:
    """Return whether a keeper server or a keeper holds the attempt. Raises OSError."""
    try:
        attempt = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(attempt, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(attempt)


def fence(path: str, boot_id: str) -> bool:
    """Fence a job, so that no start of it has an effect any more.

    Return whether it is fenced now. It is not if a keeper has or had the job. Raises OSError; another call can then
    still fence it.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, FENCED)
        except BlockingIOError:  # a start found the new file and locked it first
            raise
        except OSError:  # an empty file would look as if a keeper had taken the job
            os.unlink(path)
            raise
        finally:
            os.close(file)
    except (FileExistsError, BlockingIOError):
        return is_fenced(path) or _fence_unused(path, boot_id)
    return True


def is_fenced(path: str) -> bool:
    """Return whether a job is fenced. Raises FileNotFoundError if it has no attempt."""
    with open(path, "rb") as file:
        return file.read() == FENCED


def _fence_unused(path: str, boot_id: str) -> bool:
    """Fence an attempt that no keeper has taken, because its start was cut off. Return whether it was one."""
    attempt = lock_unused(path, boot_id)
    if attempt is None:
        return False
    try:
        os.pwrite(attempt, FENCED, 0)  # on a full disk this fails, and the attempt keeps the boot's id
        os.ftruncate(attempt, len(FENCED))
        folder, attempt_name = os.path.split(path)
        for name in os.listdir(folder):
            if name != attempt_name:
                with contextlib.suppress(FileNotFoundError):  # a keeper server may be starting the job
                    os.unlink(f"{folder}/{name}")
        return True
    finally:
        os.close(attempt)


def _is_unused(attempt: int, path: str, boot_id: str) -> bool:
    try:
        if not os.path.samestat(os.fstat(attempt), os.stat(path)):
            return False
    except FileNotFoundError:  # removed by `clean`, or by a fence that failed
        return False
    content = os.pread(attempt, CONTENT_BYTES, 0)
    if content:
        return content == boot_id.encode()
    try:
        with open(f"{path}.part", "rb") as part:
            return part.read() == boot_id.encode()
    except FileNotFoundError:
        return False
