"""The number of connections of each web worker, in memory that the workers share.

All workers wait for new connections at one socket, and the kernel wakes all of them. Whichever runs first would accept
most of the connections, and clients that keep them open would share one process while another one is idle.
"""

from __future__ import annotations

import mmap

_SLOTS = 64
"""More than the number of workers. If two workers share a slot, connections are only spread less evenly."""
_ABSENT = -1


class ConnectionCounts:
    """Create it in the arbiter, before it forks workers. A worker's number is its age, which no other worker has."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        for slot in range(_SLOTS):
            self._counts[slot] = _ABSENT

    def publish(self, number: int, count: int) -> None:
        """Publish the number of connections of a worker."""
        self._counts[number % _SLOTS] = count

    def withdraw(self, number: int) -> None:
        """Remove a worker that accepts no more connections. Idempotent."""
        self._counts[number % _SLOTS] = _ABSENT

    def has_fewest(self, number: int) -> bool:
        """Return whether no other worker has fewer connections."""
        own = self._counts[number % _SLOTS]
        return not any(0 <= count < own for count in self._counts)


counts = ConnectionCounts()
