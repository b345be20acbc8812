"""Read a form with files as it arrives: its fields, and its files as one tar.gz. Files are spooled to disk.

The result is as untrusted as any upload: `polyjob.storage.uploads` checks every name in it before it is stored.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from flask import request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge

from polyjob.api.multipart import MalformedBody, Piece, TooManyParts, read_pieces
from polyjob.errors import Invalid, Problem, TooLarge
from polyjob.pages.upload_tar import files_to_tar, zip_to_tar
from polyjob.storage.uploads import Limits

MAX_FIELD_PARTS = 100
"""Parts of a form besides its files."""


@dataclass
class ReceivedForm:
    """A form with its files. The block that received it closes `tarball` at its end."""

    fields: MultiDict[str, str] = field(default_factory=MultiDict)
    tarball: BinaryIO | None = None
    """The files as one tar.gz; None if no file was chosen or the files have a fault."""
    fault: Invalid | None = None
    """The error of files that could not be packed."""

    @property
    def has_files(self) -> bool:
        return self.tarball is not None or self.fault is not None


@contextlib.contextmanager
def receive_form(folder: Path, fields_limit: int, limits: Limits) -> Iterator[ReceivedForm]:
    """Read the form of the request. Its files are spooled in `folder`, as files without a name.

    Raises Invalid for a malformed form, and TooLarge for one beyond the limits or `request.max_content_length`.
    """
    if request.mimetype != "multipart/form-data":
        yield ReceivedForm(MultiDict(request.form))
        return
    boundary = request.mimetype_params.get("boundary")
    if not boundary:
        raise Invalid([Problem("", "The form is incomplete.")])
    with contextlib.ExitStack() as stack:
        received = ReceivedForm()
        spools = [_temporary_file(folder, stack) for _ in range(2)]
        try:
            pieces = read_pieces(request.stream, boundary.encode(), limits.members + MAX_FIELD_PARTS)
            files = _spool_files(pieces, spools, received.fields, fields_limit)
            first, second = next(files, None), next(files, None)
            if first and second:
                all_files = itertools.chain([first, second], files)
                received.tarball = files_to_tar(all_files, _temporary_file(folder, stack))
        except (TooManyParts, RequestEntityTooLarge):
            message = f"The upload is larger than {limits.size} bytes or has more than {limits.members} files."
            raise TooLarge(message) from None
        except MalformedBody as error:
            raise Invalid([Problem("", "The form is incomplete.")]) from error
        if first and not second:
            try:
                received.tarball = _single_file_to_tar(*first, _temporary_file(folder, stack), limits)
            except Invalid as error:
                received.fault = error
        yield received


def _spool_files(
    pieces: Iterator[Piece], spools: list[BinaryIO], fields: MultiDict[str, str], fields_limit: int
) -> Iterator[tuple[str, BinaryIO]]:
    """Yield each file of the form as (filename, content), and add the form's fields to `fields`.

    The spools are used in turn: a content is valid until the file after the next is read.
    """
    text, remaining = bytearray(), fields_limit
    free_spools = itertools.cycle(spools)
    part, spool = None, spools[0]
    for piece in pieces:
        if piece.part.filename is None:
            remaining -= len(piece.data)
            if remaining < 0:
                raise TooLarge(f"The fields of the form are larger than {fields_limit} bytes.")
            text += piece.data
            if piece.is_last:
                fields.add(piece.part.name, text.decode("utf-8", "replace"))
                text.clear()
            continue
        if piece.part is not part:
            part, spool = piece.part, next(free_spools)
            spool.seek(0)
            spool.truncate()
        spool.write(piece.data)
        if piece.is_last and (
            piece.part.filename or spool.tell()
        ):  # without a chosen file, browsers send an empty part
            yield piece.part.filename, spool


def _single_file_to_tar(filename: str, content: BinaryIO, output: BinaryIO, limits: Limits) -> BinaryIO:
    """Return the file itself if it is a tarball; otherwise pack it, or the content of a zip file, as one."""
    content.seek(0)
    magic = content.read(4)
    content.seek(0)
    if filename.lower().endswith((".tar.gz", ".tgz")) or magic[:2] == b"\x1f\x8b":
        return content
    if magic == b"PK\3\4" and filename.lower().endswith(".zip"):
        return zip_to_tar(content, output, limits)
    return files_to_tar([(filename, content)], output)


def _temporary_file(folder: Path, stack: contextlib.ExitStack) -> BinaryIO:
    return cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=folder)))
