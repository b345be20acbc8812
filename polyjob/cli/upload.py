"""Pack a folder into the tarball of an upload, without the files that `.gitignore` and `.polyaxonignore` exclude."""

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
ALWAYS_IGNORED = (".git", ".polyaxon")
MAX_IGNORE_FILE_BYTES = 1 << 20


class UnusableUpload(Exception):
    """The folder cannot be packed. The text says why."""


def files(folder: Path) -> Iterator[Path]:
    """Yield the regular files and links below `folder` that are not ignored, in order of their names.

    In a git repository that tracks nothing, these are the paths of `git ls-files --others --exclude-standard`, with
    `.polyaxonignore` as a second ignore file of each folder. Raises UnusableUpload if the folder does not exist.
    """
    return (path for path in entries(folder) if path.is_symlink() or not path.is_dir())


def entries(folder: Path) -> Iterator[Path]:
    """Yield the files of `files`, and each folder before its content. Raises UnusableUpload as `files` does."""
    if not folder.is_dir():
        raise UnusableUpload(f"There is no folder `{folder}`.")
    return _entries_below(folder, [])


def _entries_below(folder: Path, ignore_files: list[tuple[Path, IgnoreFile]]) -> Iterator[Path]:
    ignore_files = [*_ignore_files_of(folder), *ignore_files]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_IGNORED or _is_ignored(path, is_folder, ignore_files):
            continue
        if is_folder:
            yield path
            yield from _entries_below(path, ignore_files)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield path


def _ignore_files_of(folder: Path) -> list[tuple[Path, IgnoreFile]]:
    """Return the ignore files of one folder, highest precedence first. Raises UnusableUpload."""
    ignore_files = []
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
                raise UnusableUpload(f"`{path}` is not a regular file.")
            data = file.read(MAX_IGNORE_FILE_BYTES + 1)
        if len(data) > MAX_IGNORE_FILE_BYTES:
            raise UnusableUpload(f"`{path}` is larger than {MAX_IGNORE_FILE_BYTES >> 20} MiB.")
        ignore_files.append((folder, IgnoreFile(data)))
    return ignore_files


def _is_ignored(path: Path, is_folder: bool, ignore_files: list[tuple[Path, IgnoreFile]]) -> bool:
    """Return the verdict of the nearest ignore file that matches the entry; False if none matches."""
    for base, ignore_file in ignore_files:
        verdict = ignore_file.verdict(path.relative_to(base).as_posix(), is_folder)
        if verdict is not None:
            return verdict
    return False


def pack(folder: Path, out: BinaryIO) -> int:
    """Write the tarball of a folder and return the number of files in it.

    The same folder gives the same bytes. Raises UnusableUpload, also for a link that leads out of the folder.
    """
    try:
        return _pack(folder, out)
    except OSError as error:
        subject = f"`{error.filename}`" if error.filename else f"The folder `{folder}`"
        raise UnusableUpload(f"{subject} cannot be read: {error.strerror or error}.") from None


def _pack(folder: Path, out: BinaryIO) -> int:
    root, count = folder.resolve(), 0
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tarball,
    ):
        for path in entries(folder):
            info = tarball.gettarinfo(path, path.relative_to(folder).as_posix())
            if info.isdir():
                info.mtime = 0  # an ignored cache that comes and goes does not change the upload
            elif info.issym():
                info.linkname = _link_target(path, folder, root)
            if info.isreg():
                with path.open("rb") as file:
                    tarball.addfile(info, file)
            else:
                tarball.addfile(info)
            count += not info.isdir()
    return count


def _link_target(link: Path, folder: Path, root: Path) -> str:
    """Return the target of a link in the form that the server accepts: relative, and without `..` after a folder.

    Raises UnusableUpload for a link that leads out of the folder.
    """
    target = os.path.realpath(link)
    if not Path(target).is_relative_to(root):
        raise UnusableUpload(f"The link `{link}` leads out of the folder; ignore it, or replace it with the file.")
    text = os.readlink(link)
    lexical = os.path.normpath(os.path.join(link.parent.relative_to(folder), text))
    is_plain = not os.path.isabs(text) and os.path.normpath(text) == text and not f"{lexical}/".startswith("../")
    return text if is_plain else os.path.relpath(target, os.path.realpath(link.parent))
