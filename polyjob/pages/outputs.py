"""A job's outputs as pages show them: a tree with sizes, one folder, or a look into one file. Nothing is executed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from polyjob.api.outputs import readable
from polyjob.db.models import Job
from polyjob.errors import Conflict
from polyjob.pages import formatting
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.output_names import escape_name
from polyjob.storage.outputs import Outputs, PathNotFound

MOST = 100
"""Entries of the tree on a job's page."""
MOST_IN_FOLDER = 2000
DEEPEST = 4
TEXT_BYTES = 128 << 10
TABLE_ROWS, TABLE_COLUMNS, CELL = 200, 40, 200

IMAGES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "svg": "image/svg+xml",
}
"""What a browser may show as a picture: no script of it runs there."""
TABLES = {"csv": ",", "tsv": "\t"}

Kept = Outputs | LiveOutputs


@dataclass(frozen=True)
class Entry:
    """A file or folder."""

    name: str
    """As it can be shown."""
    path: str
    """Below the outputs, as it can be asked for."""
    size: int | None = None
    """Bytes; None for a folder."""
    entries: list[Entry] | None = None
    """What is in a folder; None where that was not looked at."""
    target: str | None = None
    """Where a symlink leads, as it can be shown. It is never followed."""


@dataclass
class Tree:
    entries: list[Entry] = field(default_factory=list)
    is_cut: bool = False
    """There is more than is shown."""
    notes: list[str] = field(default_factory=list)
    """What could not be kept."""
    problem: str | None = None
    """Why they cannot be shown now."""
    left: int = 0
    """Entries that still have room."""


@dataclass(frozen=True)
class Look:
    """What is shown of a file: text, a table, a picture, or nothing."""

    kind: str
    size: int
    text: str = ""
    rows: list[list[str]] = field(default_factory=list)
    is_cut: bool = False
    """There is more of it than is shown."""


def overview(job: Job) -> Tree:
    """The first MOST entries, folders opened as far as that goes."""
    tree = Tree(left=MOST)
    try:
        kept = readable(job)
        tree.notes = kept.notes if isinstance(kept, Outputs) else []
        tree.entries = _branch(kept, "", tree, 1)
    except (Conflict, PathNotFound) as error:
        tree.problem = str(error)
    return tree


def folder(kept: Kept, path: str) -> Tree:
    """One folder, closed ones in it. Raises NotThere."""
    tree = Tree(left=MOST_IN_FOLDER)
    tree.entries = _branch(kept, path, tree, DEEPEST)
    return tree


def _branch(kept: Kept, path: str, tree: Tree, depth: int) -> list[Entry]:
    files, folders = kept.tree(path, "", tree.left + 1)
    links = kept.links(path, "", tree.left + 1)
    there = len(files) + len(folders)
    tree.is_cut |= there > tree.left
    names = [(name, None) for name in folders] + list(files)
    names = names[: tree.left]
    tree.left -= len(names)
    found = []
    for name, size in names:
        below = f"{path}/{escape_name(name)}" if path else escape_name(name)
        inner = None
        if size is None and depth < DEEPEST and tree.left > 0:
            inner = _branch(kept, below, tree, depth + 1)
        target = escape_name(links[name]) if name in links else None
        found.append(Entry(escape_name(name), below, size, inner, target))
    return found


def look(kept: Kept, path: str) -> Look:
    """What can be shown of a file, read no further than that takes. Raises NotThere."""
    size, content = kept.open_file(path)
    kind = ending(path)
    if kind in IMAGES:
        return Look("image", size)
    data = _beginning(content, TEXT_BYTES)
    is_cut = size > len(data)
    text = _as_text(data, is_cut)
    if text is None:
        return Look("none", size)
    rows = _rows(text, TABLES[kind], is_cut) if kind in TABLES else []
    if rows:
        return Look("table", size, rows=rows[:TABLE_ROWS], is_cut=is_cut or len(rows) > TABLE_ROWS)
    return Look("text", size, text=formatting.log_text(text.encode()), is_cut=is_cut)


def ending(path: str) -> str:
    return path.rsplit("/", 1)[-1].rpartition(".")[2].lower()


def _beginning(content: Iterator[bytes], most: int) -> bytes:
    found = bytearray()
    try:
        for piece in content:
            found += piece
            if len(found) >= most:
                break
    finally:
        close: Any = getattr(content, "close", None)
        if close:
            close()
    return bytes(found[:most])


def _as_text(data: bytes, is_cut: bool) -> str | None:
    """None for what is no text: bytes that are not UTF-8, or zeros."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if is_cut and error.start >= len(data) - 4:
            return data[: error.start].decode()
        return None


def _rows(text: str, separator: str, is_cut: bool) -> list[list[str]]:
    """One more than TABLE_ROWS where there are more; none of what is no table."""
    found: list[list[str]] = []
    lines = text.splitlines(keepends=True)
    try:
        for row in csv.reader(io.StringIO("".join(lines[:-1] if is_cut else lines)), delimiter=separator):
            found.append([cell[:CELL] for cell in row[:TABLE_COLUMNS]])
            if len(found) > TABLE_ROWS:
                break
    except csv.Error:
        return []
    return found
