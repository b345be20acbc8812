"""Messages of the server's processes on the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO


def say(text: str) -> None:
    """Print to the standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print a message of polyjob to the standard error."""
    _print(f"polyjob: {text}", sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    """Print and flush. A terminal that was closed is not an error."""
    with contextlib.suppress(OSError, ValueError):
        encoding = stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a path may not be valid text
        print(text, file=stream, flush=True)
