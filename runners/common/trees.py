"""Change owners, and remove files, in folders that a job's account can write to.

No other module does this as root; `tests/runners/common/test_trees.py` enforces that. Each entry is reached from the
open folder above it, and never through a link. So nothing outside of the folder is ever changed, even if the account
replaces entries by links at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

FILES_PER_STEP = 256
"""Files that one step removes."""
DEPTH_LIMIT = 1000
"""Levels of folders that a removal descends. Deeper folders are moved to the top first. So a removal that starts again
after each pause finishes, however deep the folder is."""
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, however deep, including read-only folders. Links are not followed.

    Idempotent, also if others remove the same folder. Raises OSError if something is left, for example because others
    write into it.
    """
    deque(removing_tree(folder), maxlen=0)


def removing_tree(folder: Path) -> Iterator[None]:
    """Do the same as `remove_tree` in steps that take milliseconds, so that the caller can pause between them.

    If the iterator is closed early, another removal does the rest.
    """
    try:
        here = _open_to_clear(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        folder.unlink(missing_ok=True)
        return

    try:
        while (yield from _clear_to(DEPTH_LIMIT, here)):
            pass
    finally:
        os.close(here)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _clear_to(deepest: int, top: int) -> Generator[None, None, bool]:
    """Remove the content of an open folder down to a level, and move deeper folders into the folder itself.

    Return whether anything was moved. Raises OSError.
    """
    level, has_moved = 0, False

    def enter(name: str, above: int) -> int:
        nonlocal level, has_moved
        below = _open_to_clear(name, above)
        if level < deepest:
            level += 1
            return below
        os.close(below)
        os.rename(name, secrets.token_hex(16), src_dir_fd=above, dst_dir_fd=top)
        has_moved = True
        raise FileNotFoundError(errno.ENOENT, "it was moved up", name)

    def remove(name: str, above: int) -> None:
        nonlocal level
        level -= 1
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=above)

    yield from _walk(os.open(".", _FLAGS, dir_fd=top), enter, _clear, remove)
    return has_moved


def give_tree(folder: Path, user: int, group: int) -> None:
    """Make an account the owner of a folder and everything in it; links are not followed.

    A folder changes its owner after everything in it, so the account cannot replace entries that are still to be
    changed. Raises OSError, also for a folder that already belongs to another account.
    """
    here = os.open(folder, _FLAGS)
    top = os.dup(here)

    def give(name: str, above: int) -> None:
        os.chown(name, user, group, dir_fd=above, follow_symlinks=False)

    def give_files(here: int) -> list[str]:
        if os.fstat(here).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another account already")
        folders, others = _entries(here)
        for name in others:
            give(name, here)
        return folders

    try:
        deque(_walk(here, lambda name, above: os.open(name, _FLAGS, dir_fd=above), give_files, give), maxlen=0)
        os.fchown(top, user, group)
    finally:
        os.close(top)


def open_to_owner(folder: Path) -> None:
    """Restore this account's permissions on a folder of its own. Never raises."""
    with contextlib.suppress(OSError):
        os.close(_open_to_clear(folder))


def restoring_file(path: Path) -> Iterator[None]:
    """Restore this account's permissions on a file of its own. Remove anything else at that path, in short steps.

    Idempotent. Raises OSError.
    """
    try:
        entry = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(entry)
        needed_mode = stat.S_IMODE(status.st_mode) | stat.S_IRUSR | stat.S_IWUSR
        is_file = stat.S_ISREG(status.st_mode)
        if is_file and needed_mode != stat.S_IMODE(status.st_mode) and status.st_uid == os.geteuid():
            os.chmod(f"/proc/self/fd/{entry}", needed_mode)
    finally:
        os.close(entry)
    if stat.S_ISDIR(status.st_mode):
        yield from removing_tree(path)
    elif not is_file:
        path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Return the total size of a folder in bytes. Links are not followed; entries that disappear count 0."""
    total = 0

    def add(here: int) -> list[str]:
        nonlocal total
        folders, others = _entries(here)
        for name in others:
            with contextlib.suppress(OSError):
                total += os.stat(name, dir_fd=here, follow_symlinks=False).st_size
        return folders

    def enter(name: str, above: int) -> int:
        try:
            return os.open(name, _FLAGS, dir_fd=above)
        except PermissionError as error:
            raise FileNotFoundError from error  # its files cannot be counted

    with contextlib.suppress(OSError):
        deque(_walk(os.open(folder, _FLAGS), enter, add, lambda name, above: None), maxlen=0)
    return total


@contextlib.contextmanager
def made_readable(name: str | Path, above: int | None = None) -> Iterator[None]:
    """Make a file or folder of this account readable inside the block, whatever its mode, and restore the mode.

    Entries of other accounts are not changed. Raises OSError if there is no such entry.
    """
    entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        status = os.fstat(entry)
        is_folder, mode = stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode)
        needed = mode | stat.S_IRUSR | (stat.S_IXUSR if is_folder else 0)
        is_closed = (is_folder or stat.S_ISREG(status.st_mode)) and mode != needed and status.st_uid == os.geteuid()
        if is_closed:
            os.chmod(f"/proc/self/fd/{entry}", needed)
        try:
            yield
        finally:
            if is_closed:
                os.chmod(f"/proc/self/fd/{entry}", mode)
    finally:
        os.close(entry)


def _walk(
    here: int,
    enter: Callable[[str, int], int],
    visit: Callable[[int], Iterable[str | None]],
    leave: Callable[[str, int], None],
) -> Iterator[None]:
    """Walk through an open folder, without recursion and with three descriptors at most, and close it at the end.

    * `visit` receives each folder's descriptor, and yields the names of the folders to enter.
    * `enter` opens one of them. If it raises FileNotFoundError, the folder is skipped.
    * `leave` receives its name and the folder above it, once everything in it has been visited.

    Yields after each folder, and whenever `visit` yields None. Raises OSError if a folder is moved during its visit.
    """
    above: list[tuple[str, tuple[int, int], list[str]]] = []
    try:
        inner = yield from _folders(visit(here))
        while inner or above:
            if inner:
                name = inner.pop()
                with contextlib.suppress(FileNotFoundError):
                    below = enter(name, here)
                    above.append((name, _identity(here), inner))
                    os.close(here)
                    here = below
                    inner = yield from _folders(visit(here))
            else:
                name, identity, inner = above.pop()
                parent = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = parent
                if _identity(here) != identity:
                    raise OSError(errno.EBUSY, f"the folder {name} was moved meanwhile")
                leave(name, here)
            yield
    finally:
        os.close(here)


def _folders(visited: Iterable[str | None]) -> Generator[None, None, list[str]]:
    """Return the names, and yield once for each None."""
    folders = []
    for name in visited:
        if name is None:
            yield
        else:
            folders.append(name)
    return folders


def _open_to_clear(name: str | Path, above: int | None = None) -> int:
    """Open a folder, after making it writable if it belongs to this account. Raises NotADirectoryError."""
    entry = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        status = os.fstat(entry)
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU and status.st_uid == os.geteuid():
            os.chmod(f"/proc/self/fd/{entry}", stat.S_IRWXU)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=entry)
    finally:
        os.close(entry)


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _clear(folder: int) -> Iterator[str | None]:
    """Remove everything except folders, with a None after each step, and then yield the names of the folders."""
    folders, others = _entries(folder)
    for count, name in enumerate(others, 1):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        if count % FILES_PER_STEP == 0:
            yield None
    yield from folders


def _entries(folder: int) -> tuple[list[str], list[str]]:
    """Return the names of a folder's folders, and of its other entries."""
    with os.scandir(folder) as entries:
        kinds = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    return [name for name, is_folder in kinds if is_folder], [name for name, is_folder in kinds if not is_folder]
