"""Mask the secrets of a job in the log that is fetched from its backend."""

from __future__ import annotations

from collections.abc import Sequence

from runners.base import RemoteRunner
from runners.common.log_times import Times
from runners.common.masking import Masker


class LogMask:
    """The secrets of one job. They are read from the backend once, and stay in memory only."""

    def __init__(self) -> None:
        self._values: Sequence[str] | None = None

    def masker(self, runner: RemoteRunner, handle: str, state: str | None) -> Masker:
        """Return a masker that continues after `state`. Raises what `RemoteRunner.secret_values` raises."""
        if self._values is None:
            self._values = runner.secret_values(handle)
        return Masker(self._values, state)


def mask_piece(masker: Masker, data: bytes, times: Times) -> tuple[bytes, Times]:
    """Return the next piece of a log as masked, with its times at the offsets of the masked bytes."""
    masked = bytearray(masker.feed(data[: times[0][0]] if times else data))
    masked_times = []
    ends = [offset for offset, _ in times[1:]] + [len(data)]
    for (offset, at_ms), end in zip(times, ends, strict=False):
        masked_times.append((len(masked), at_ms))
        masked += masker.feed(data[offset:end])
    return bytes(masked), masked_times
