"""The standard streams of a command: closed streams, full disks, and text that must not control the terminal."""

from __future__ import annotations

import errno
import os
import re
import sys
from io import BytesIO, FileIO, RawIOBase
from typing import TextIO

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class OutputFailed(Exception):
    """The command cannot write its output. The text says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The output cannot be written: {error.strerror or error}.")


class Styled(str):
    """Text of polyjob itself, which may contain terminal sequences."""


def printable(text: str) -> str:
    r"""Return the text with control characters escaped, such as `\x1b` and `\n`.

    For text that a user or a job has chosen: names, messages, descriptions. The output of jobs is never changed.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def open_closed_streams() -> None:
    """Open `/dev/null` as each closed standard stream, so that commands work the same under cron and daemons."""
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115


def silence(stream: TextIO) -> None:
    """Discard the buffer of a stream, so that the interpreter does not fail on it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def unbuffered(stream: TextIO) -> FileIO:
    """Return the stream's descriptor as a raw file.

    For threads that may still write when the command ends: the interpreter aborts if a buffer is locked at its end.
    """
    stream.flush()
    return FileIO(stream.fileno(), "wb", closefd=False)


def write_all(data: bytes, out: RawIOBase | BytesIO) -> None:
    """Write all data to a raw stream. Raises OutputFailed, or BrokenPipeError if the reader has closed it."""
    view = memoryview(data)
    try:
        while view:
            view = view[out.write(view) or 0 :]
    except OSError as error:
        raise_output_error(error)


def raise_output_error(error: OSError) -> None:
    """Raise an error of a write: BrokenPipeError unchanged, every other one as OutputFailed."""
    if error.errno == errno.EPIPE:
        raise error
    raise OutputFailed(error) from None
