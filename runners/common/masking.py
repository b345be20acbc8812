"""Replace secrets in a stream of bytes. Standard library only, because keepers load this module, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = b"***"
MIN_CHARACTERS = 6
"""A shorter line of a secret is not masked, because it would also be part of harmless words."""
_LINE_BREAKS = re.compile(r"[\r\n]+")


def masked_lines(value: str) -> list[str]:
    """Return the parts of a secret that are masked: its lines without surrounding blanks, except short ones."""
    lines = (line.strip() for line in _LINE_BREAKS.split(value))
    return [line for line in lines if len(line) >= MIN_CHARACTERS]


class Masker:
    """Replaces each secret in a stream by `MASK`, also if it arrives in several pieces.

    It holds back only bytes that could be the beginning of a secret. None of them is a line feed, so a complete line is
    never held back. Secrets that overlap or touch each other are replaced together.
    """

    def __init__(self, secrets: Iterable[str], state: str | None = None) -> None:
        """`state` is that of an earlier masker of the same secrets, whose stream this one continues."""
        self._patterns = sorted({line.encode() for secret in secrets for line in masked_lines(secret)})
        self._held = b""
        self._secret_bytes = 0
        """Number of the first bytes of `_held` that are part of a secret which began before them."""
        self._is_in_secret = False
        """Whether the last byte before `_held` is part of a secret."""
        if state is not None:
            pattern, length, self._secret_bytes, is_in_secret = map(int, state.split(","))
            self._held, self._is_in_secret = self._patterns[pattern][:length], bool(is_in_secret)

    @property
    def state(self) -> str | None:
        """The numbers from which the next masker of the stream continues, without a byte of a secret; None if none."""
        if not (self._held or self._is_in_secret):
            return None
        index = next(index for index, pattern in enumerate(self._patterns) if pattern.startswith(self._held))
        return f"{index},{len(self._held)},{self._secret_bytes},{int(self._is_in_secret)}"

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream, and return what is certain now."""
        data = self._held + data
        return self._mask(data, self._undecided_from(data))

    def flush(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        return self._mask(self._held, len(self._held))

    def _mask(self, data: bytes, end: int) -> bytes:
        """Return `data` up to `end`, with its secrets replaced. Hold back the rest."""
        if not end:
            self._held = data
            return b""
        parts, position = [], 0
        for first, last in [(0, self._secret_bytes), *sorted(self._secrets_in(data))]:
            if first >= end:
                break
            if first > position:
                parts.append(data[position:first])
                self._is_in_secret = False
            if last > position:
                if not self._is_in_secret:
                    parts.append(MASK)
                self._is_in_secret = True
                position = last
        if position < end:
            parts.append(data[position:end])
            self._is_in_secret = False
        self._held, self._secret_bytes = data[end:], max(0, position - end)
        return b"".join(parts)

    def _secrets_in(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield parts of `data` that together are all secrets in it, each with its beginning and end. They can overlap.

        Of the places at which a secret overlaps itself, only the last is yielded. Otherwise a line of equal characters
        would be found at each of them.
        """
        for pattern in self._patterns:
            length = len(pattern)
            first = data.find(pattern)
            while first >= 0:
                yield first, first + length
                overlapping = data.rfind(pattern, first + 1, first + 2 * length)
                first = overlapping if overlapping >= 0 else data.find(pattern, first + length)

    def _undecided_from(self, data: bytes) -> int:
        """Return where the longest end of `data` begins that is the beginning of a secret, but not all of it."""
        end = len(data)
        for pattern in self._patterns:
            first = data.find(pattern[:1], max(0, len(data) - len(pattern) + 1), end)
            while first >= 0:
                if pattern.startswith(data[first:]):
                    end = first
                    break
                first = data.find(pattern[:1], first + 1, end)
        return end
