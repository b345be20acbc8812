"""The standard streams of a command: closed ones, full disks, and text that must not control a terminal."""

from __future__ import annotations

import errno
import os
import re
import sys
from io import BytesIO, FileIO, RawIOBase
from typing import TextIO

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class OutputFailed(Exception):
    """The command cannot write its output; the text says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The output cannot be written: {error.strerror or error}.")


class Styled(str):
    """Text of polyjob's own that may hold terminal sequences."""


def printable(text: str) -> str:
    r"""Return the text with control characters escaped, such as `\x1b` and `\n`.

    For everything that a user or a job has chosen: names, messages, descriptions. What a job wrote is not touched.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def open_closed_streams() -> None:
    """Make each closed standard stream `/dev/null`, so that the command works the same under cron and daemons."""
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
    """Send what a stream still buffers to /dev/null, so that the interpreter's end does not fail on it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def unbuffered(stream: TextIO) -> FileIO:
    """Return the stream's descriptor as a raw file.

    For threads that a command does not wait for: a buffer whose lock is held when the interpreter ends is fatal.
    """
    stream.flush()
    return FileIO(stream.fileno(), "wb", closefd=False)


def write_all(data: bytes, out: RawIOBase | BytesIO) -> None:
    """Write all of the data to a raw stream. Raises OutputFailed, or BrokenPipeError if the reader has left."""
    view = memoryview(data)
    try:
        while view:
            view = view[out.write(view) or 0 :]
    except OSError as error:
        raise_output_error(error)


def raise_output_error(error: OSError) -> None:
    """Raise BrokenPipeError as it is, and every other error of a write as OutputFailed."""
    if error.errno == errno.EPIPE:
        raise error
    raise OutputFailed(error) from None
