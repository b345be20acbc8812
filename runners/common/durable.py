"""Replace files so that a reader sees the old content or the new content, never a part.

Standard library only: the keeper server loads this module as well, see `runners.process.launch`.
"""

from __future__ import annotations

import os


def replace_file(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> None:
    """Write a temporary file in the same folder and rename it to `path`.

    With `sync`, content and name are on disk when this returns. Without it, a power failure may undo the change.
    """
    temporary = f"{os.fspath(path)}.part"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, data)
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
    os.rename(temporary, path)
    if sync:
        sync_folder(os.path.dirname(path) or ".")


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Write the names in a folder to disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to a file descriptor, in as many calls as it takes."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]
