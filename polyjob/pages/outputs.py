"""A job's outputs for display: a tree with sizes, one folder, or a preview of one file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from polyjob.api.outputs import readable_outputs
from polyjob.db.models import Job
from polyjob.errors import Conflict
from polyjob.pages import markdown
from polyjob.pages.markup import plain_log
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.output_names import escape_name
from polyjob.storage.outputs import Outputs, PathNotFound

MAX_TREE_ENTRIES = 100
MAX_TREE_DEPTH = 4
"""Folders below this depth are closed in the tree on a job's page."""
MAX_FOLDER_ENTRIES = 2000
MAX_PREVIEW_BYTES = 128 << 10
MAX_TABLE_ROWS = 200
MAX_TABLE_COLUMNS = 40
MAX_CELL_CHARACTERS = 200
MAX_JSON_DEPTH = 16
"""Levels of a JSON file that is shown indented."""

IMAGES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "svg": "image/svg+xml",
}
"""File extension → media type of the files shown as images. In an `img` element, browsers run no scripts of an SVG."""
TABLE_DELIMITERS = {"csv": ",", "tsv": "\t"}

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')

ReadableOutputs = Outputs | LiveOutputs


@dataclass(frozen=True)
class Entry:
    """A file, folder or symlink."""

    name: str
    """The displayable form of the name."""
    path: str
    """The path below the outputs, in the form that URLs use."""
    size: int | None = None
    """Bytes; None for a folder."""
    entries: list[Entry] | None = None
    """The content of a folder; None if it was not read."""
    target: str | None = None
    """The displayable target of a symlink. It is never followed."""

    @property
    def content(self) -> tuple[int, int] | None:
        """The number of files in a folder and their bytes; None if not all of it was read."""
        count = size = 0
        for entry in self.entries or []:
            added = entry.content if entry.size is None else (1, entry.size)
            if added is None:
                return None
            count, size = count + added[0], size + added[1]
        return None if self.entries is None else (count, size)


@dataclass
class Tree:
    entries: list[Entry] = field(default_factory=list)
    is_cut: bool = False
    """True if there are more entries than shown."""
    notes: list[str] = field(default_factory=list)
    """Notes about files that could not be saved."""
    problem: str | None = None
    """The reason why the outputs cannot be shown now."""
    remaining: int = 0
    """The number of entries that still fit."""


@dataclass(frozen=True)
class Preview:
    """The preview of one file."""

    kind: str
    """`text`, `markdown`, `table`, `image`, or `none`."""
    size: int
    text: str = ""
    html: Markup = Markup()
    rows: list[list[str]] = field(default_factory=list)
    is_cut: bool = False
    """True if the file is longer than the preview."""
    is_source: bool = False
    """True for a text that can also be shown formatted."""


def overview(job: Job) -> Tree:
    """Return the first MAX_TREE_ENTRIES entries, with folders opened to MAX_TREE_DEPTH."""
    tree = Tree(remaining=MAX_TREE_ENTRIES)
    try:
        outputs = readable_outputs(job)
        tree.notes = outputs.notes if isinstance(outputs, Outputs) else []
        tree.entries = _read_folder(outputs, "", tree, 1)
    except (Conflict, PathNotFound) as error:
        tree.problem = str(error)
    return tree


def folder(outputs: ReadableOutputs, path: str) -> Tree:
    """Return one folder; the folders in it are closed. Raises PathNotFound."""
    tree = Tree(remaining=MAX_FOLDER_ENTRIES)
    tree.entries = _read_folder(outputs, path, tree, MAX_TREE_DEPTH)
    return tree


def _read_folder(outputs: ReadableOutputs, path: str, tree: Tree, depth: int) -> list[Entry]:
    files, folders = outputs.tree(path, "", tree.remaining + 1)
    links = outputs.links(path, "", tree.remaining + 1)
    tree.is_cut |= len(files) + len(folders) > tree.remaining
    members = [(name, None) for name in folders] + list(files)
    members = members[: tree.remaining]
    tree.remaining -= len(members)
    entries = []
    for name, size in members:
        entry_path = f"{path}/{escape_name(name)}" if path else escape_name(name)
        children = None
        if size is None and depth < MAX_TREE_DEPTH and tree.remaining > 0:
            children = _read_folder(outputs, entry_path, tree, depth + 1)
        target = escape_name(links[name]) if name in links else None
        entries.append(Entry(escape_name(name), entry_path, size, children, target))
    return entries


def preview(
    outputs: ReadableOutputs, path: str, picture_url: Callable[[str], str], *, shows_source: bool = False
) -> Preview:
    """Return the preview of a file, reading no more of it than needed. Raises PathNotFound.

    `picture_url` returns the URL of an image of the outputs, for the images in Markdown. With `shows_source`, Markdown
    is a text.
    """
    size, content = outputs.open_file(path)
    extension = file_extension(path)
    if extension in IMAGES:
        return Preview("image", size)
    data = _read_start(content, MAX_PREVIEW_BYTES)
    is_cut = size > len(data)
    text = _decode(data, is_cut)
    if text is None:
        return Preview("none", size)
    rows = _table_rows(text, TABLE_DELIMITERS[extension], is_cut) if extension in TABLE_DELIMITERS else []
    if rows:
        return Preview("table", size, rows=rows[:MAX_TABLE_ROWS], is_cut=is_cut or len(rows) > MAX_TABLE_ROWS)
    is_markdown = extension in markdown.EXTENSIONS and size <= markdown.MAX_MARKDOWN_BYTES
    if is_markdown and not shows_source:
        try:
            html = markdown.render_markdown(
                text, path, lambda image: picture_url(image) if file_extension(image) in IMAGES else None
            )
        except markdown.TooManyBlocks:
            is_markdown = False
        else:
            return Preview("markdown", size, html=html)
    if extension == "json" and not is_cut:
        text = indent_json(text)
    return Preview("text", size, text=plain_log(text.encode()), is_cut=is_cut, is_source=is_markdown)


def indent_json(text: str) -> str:
    """Return a JSON document with a line for each member, and its numbers and strings as they are written.

    A text that is not JSON is returned unchanged, and so is one whose levels would make it much longer.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    lines, depth, previous = [""], 0, ""
    for token in _JSON_TOKEN.findall(text):
        depth -= token in "]}"
        if (previous and previous in "[{,") if token not in "]}" else (previous not in "[{"):
            lines.append("  " * depth)
        lines[-1] += ": " if token == ":" else token
        depth += token in "[{"
        if depth > MAX_JSON_DEPTH:
            return text
        previous = token
    return "\n".join(lines)


def file_extension(path: str) -> str:
    return path.rsplit("/", 1)[-1].rpartition(".")[2].lower()


def _read_start(content: Iterator[bytes], size: int) -> bytes:
    data = bytearray()
    try:
        for chunk in content:
            data += chunk
            if len(data) >= size:
                break
    finally:
        close: Any = getattr(content, "close", None)
        if close:
            close()
    return bytes(data[:size])


def _decode(data: bytes, is_cut: bool) -> str | None:
    """Return the data as text; None if it has zero bytes or is not UTF-8. A character at the cut may be incomplete."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if is_cut and error.start >= len(data) - 4:
            return data[: error.start].decode()
        return None


def _table_rows(text: str, delimiter: str, is_cut: bool) -> list[list[str]]:
    """Return the rows, at most MAX_TABLE_ROWS + 1; nothing if the text is not a table."""
    rows: list[list[str]] = []
    lines = text.splitlines(keepends=True)
    try:
        for row in csv.reader(io.StringIO("".join(lines[:-1] if is_cut else lines)), delimiter=delimiter):
            rows.append([cell[:MAX_CELL_CHARACTERS] for cell in row[:MAX_TABLE_COLUMNS]])
            if len(rows) > MAX_TABLE_ROWS:
                break
    except csv.Error:
        return []
    return rows
