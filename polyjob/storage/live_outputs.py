"""The outputs folder of a job that is still running."""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from polyjob.storage.output_names import escape_name, possible_paths, unescape_name
from polyjob.storage.outputs import PathNotFound
from polyjob.storage.pack import BLOCK, Packer


class LiveOutputs:
    """The outputs folder of a running job. Paths are resolved below the folder only, and links are not followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tree(self, path: str, after: str = "", limit: int | None = None) -> tuple[list[tuple[str, int]], list[str]]:
        """List a folder, as `Outputs.tree` does."""
        files, folders = [], []
        with self._opened(path, os.O_DIRECTORY) as folder:
            for name in _names(folder, after, limit):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(name)
                    else:
                        files.append((name, status.st_size))
        return files, folders

    def links(self, path: str, after: str = "", limit: int | None = None) -> dict[str, str]:
        """Return the targets of symlinks, as `Outputs.links` does."""
        targets = {}
        with contextlib.suppress(PathNotFound), self._opened(path, os.O_DIRECTORY) as folder:
            for name in _names(folder, after, limit):
                with contextlib.suppress(OSError):  # not a link
                    targets[name] = os.readlink(name, dir_fd=folder)
        return targets

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Open a file, as `Outputs.open_file` does. The content has the length that the file had when it was opened.

        If the folder belongs to another account than the server's, only files of that account are served, because a
        hard link can lead to any file of the disk.
        """
        with self._opened(path, os.O_NONBLOCK) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not self._is_servable(status):
                raise PathNotFound(f"there is no file `{escape_name(unescape_name(path.strip('/')))}`")
            content = _Content(os.dup(descriptor), status.st_size)
        return status.st_size, content

    def _is_servable(self, status: os.stat_result) -> bool:
        return self.folder.lstat().st_uid in (os.geteuid(), status.st_uid)

    def tarball(self, prefix: str) -> Iterator[bytes]:
        """Yield a tarball of the folder's present content."""
        packer = Packer(prefix)
        yield from packer.folder(self.folder)
        yield from packer.end()

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        descriptor = self._open(path.strip("/"), flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, path: str, flags: int) -> int:
        for name in possible_paths(path):
            try:
                return _open_beneath(self.folder, [part for part in name.split("/") if part], flags)
            except (FileNotFoundError, ValueError):
                continue
            except OSError:  # it exists but cannot be opened with these flags
                break
        raise PathNotFound(f"there is nothing at `{escape_name(unescape_name(path))}`")


def _open_beneath(folder: Path, parts: list[str], flags: int) -> int:
    """Open a path below `folder` without following links. Raises OSError and ValueError."""
    if any(part in (".", "..") for part in parts):
        raise ValueError("a path must not contain . or ..")
    common_flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, common_flags | os.O_DIRECTORY)
    for number, part in enumerate(parts, 1):
        part_flags = flags if number == len(parts) else os.O_DIRECTORY
        try:
            child = os.open(part, common_flags | part_flags, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = child
    return descriptor


def _names(folder: int, after: str, limit: int | None) -> list[str]:
    """Return the sorted names in a folder that come after `after`; at most `limit`."""
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if entry.name > after)
        return sorted(names) if limit is None else heapq.nsmallest(limit, names)


class _Content:
    """An iterator over the first `size` bytes of an open file. `close` can be called at any time."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._remaining = descriptor, size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = os.read(self._descriptor, min(BLOCK, self._remaining)) if self._remaining else b""
        if not block:
            self.close()
            raise StopIteration
        self._remaining -= len(block)
        return block

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._remaining = -1, 0

    __del__ = close
