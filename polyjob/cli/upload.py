"""A folder of code as the tar.gz that is uploaded: what `.gitignore` and `.polyaxonignore` leave of it."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".polyaxonignore")
ALWAYS_OUT = (".git", ".polyaxon")


class Unusable(Exception):
    """The folder cannot be packed; the text says why."""


def files(folder: Path) -> Iterator[Path]:
    """The regular files and links below `folder` that are not ignored, in order of their names.

    An ignore file counts for its own folder and what is below; as with git, a folder that is ignored is not looked
    into. Raises Unusable where there is no such folder.
    """
    if not folder.is_dir():
        raise Unusable(f"There is no folder `{folder}`.")
    yield from _below(folder, [])


def _below(folder: Path, specs: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    specs = [*specs, *_specs(folder)]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_OUT or _is_ignored(path, is_folder, specs):
            continue
        if is_folder:
            yield from _below(path, specs)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield path


def _specs(folder: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    found = []
    for name in IGNORE_FILES:
        try:
            lines = (folder / name).read_text(errors="surrogateescape").splitlines()
        except (FileNotFoundError, IsADirectoryError):
            continue
        found.append((folder, GitIgnoreSpec.from_lines(filter(_is_pattern, lines))))
    return found


def _is_pattern(line: str) -> bool:
    """As with git, a line that is none counts for nothing."""
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _is_ignored(path: Path, is_folder: bool, specs: list[tuple[Path, GitIgnoreSpec]]) -> bool:
    """The last file that has a word on it decides."""
    ignored = False
    for base, spec in specs:
        name = path.relative_to(base).as_posix() + ("/" if is_folder else "")
        word = spec.check_file(name).include
        if word is not None:
            ignored = word
    return ignored


def pack(folder: Path, out: BinaryIO) -> int:
    """Write the tar.gz; how many files are in it. Raises Unusable, also for a link that leads out of the folder."""
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
        for path in files(folder):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise Unusable(f"The link `{path}` leads out of the folder; ignore it, or put the file in its place.")
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
            count += 1
    return count
