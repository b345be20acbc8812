"""A folder of code as the tar.gz that is uploaded: what `.gitignore` and `.polyaxonignore` leave of it."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from polyjob.cli.gitignore import IgnoreFile

IGNORE_FILES = (".gitignore", ".polyaxonignore")
ALWAYS_OUT = (".git", ".polyaxon")
MAX_IGNORE_FILE = 1 << 20
"""Bytes of an ignore file."""


class Unusable(Exception):
    """The folder cannot be packed; the text says why."""


def files(folder: Path) -> Iterator[Path]:
    """Yield the regular files and links below `folder` that are not ignored, in order of their names.

    In a git repository that tracks nothing, these are the paths of `git ls-files --others --exclude-standard`, with
    `.polyaxonignore` files as a second kind of ignore file. Raises Unusable if the folder does not exist.
    """
    return (path for path in entries(folder) if path.is_symlink() or not path.is_dir())


def entries(folder: Path) -> Iterator[Path]:
    """Yield what `files` yields, and each folder before what is in it. Raises Unusable as `files` does."""
    if not folder.is_dir():
        raise Unusable(f"There is no folder `{folder}`.")
    return _below(folder, [])


def _below(folder: Path, ignore_files: list[tuple[Path, IgnoreFile]]) -> Iterator[Path]:
    ignore_files = [*_ignore_files_of(folder), *ignore_files]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_OUT or _is_ignored(path, is_folder, ignore_files):
            continue
        if is_folder:
            yield path
            yield from _below(path, ignore_files)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield path


def _ignore_files_of(folder: Path) -> list[tuple[Path, IgnoreFile]]:
    """Return the ignore files of one folder, the one that decides first at the front. Raises Unusable."""
    found = []
    for name in reversed(IGNORE_FILES):
        path = folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise Unusable(f"`{path}` is not a regular file.")
            data = file.read(MAX_IGNORE_FILE + 1)
        if len(data) > MAX_IGNORE_FILE:
            raise Unusable(f"`{path}` is larger than {MAX_IGNORE_FILE >> 20} MiB.")
        found.append((folder, IgnoreFile(data)))
    return found


def _is_ignored(path: Path, is_folder: bool, ignore_files: list[tuple[Path, IgnoreFile]]) -> bool:
    """Return the verdict of the nearest ignore file that names the entry; an entry that none names is kept."""
    for base, ignore_file in ignore_files:
        verdict = ignore_file.verdict(path.relative_to(base).as_posix(), is_folder)
        if verdict is not None:
            return verdict
    return False


def pack(folder: Path, out: BinaryIO) -> int:
    """Write the tar.gz and return the number of files in it.

    The same folder gives the same bytes. Raises Unusable, also for a link that leads out of the folder.
    """
    try:
        return _pack(folder, out)
    except OSError as error:
        where = f"`{error.filename}`" if error.filename else f"The folder `{folder}`"
        raise Unusable(f"{where} cannot be read: {error.strerror or error}.") from None


def _pack(folder: Path, out: BinaryIO) -> int:
    root, count = folder.resolve(), 0
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in entries(folder):
            info = archive.gettarinfo(path, path.relative_to(folder).as_posix())
            if info.isdir():
                info.mtime = 0  # a cache that comes and goes in it makes no new upload
            elif info.issym():
                info.linkname = _target(path, folder, root)
            if info.isreg():
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
            count += not info.isdir()
    return count


def _target(link: Path, folder: Path, root: Path) -> str:
    """Return a link's target as the server takes it: relative, and never down and up again.

    Raises Unusable for a link that leads out of the folder.
    """
    target = os.path.realpath(link)
    if not Path(target).is_relative_to(root):
        raise Unusable(f"The link `{link}` leads out of the folder; ignore it, or put the file in its place.")
    text = os.readlink(link)
    lexical = os.path.normpath(os.path.join(link.parent.relative_to(folder), text))
    is_plain = not os.path.isabs(text) and os.path.normpath(text) == text and not f"{lexical}/".startswith("../")
    return text if is_plain else os.path.relpath(target, os.path.realpath(link.parent))
