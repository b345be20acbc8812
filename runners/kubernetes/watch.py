"""A watch over the pods of this installation: it wakes the engine. If it breaks, the engine polls without it.

It also shows states that a poll can miss: the last state of a pod before it disappears may be the only one that tells
why.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused, Object, Query, hang_up

WATCH_SECONDS = 240
"""Time after which the API server ends a watch, and the runner begins another."""
SILENCE_SECONDS = 300.0
"""Time without a message, not even a bookmark, after which the connection counts as broken."""
WAKE_PAUSE_SECONDS = 0.1
"""Least time between two wake-ups, because many changes come at once."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Pauses before a broken watch is begun again."""


class PodWatch:
    """The watch of one runner. Its threads end with `close`, and with the process."""

    def __init__(
        self, api: Api, selector: Query, wake: Callable[[], None], note: Callable[[Object, bool], None]
    ) -> None:
        """`note(pod, is_deleted)` is called in another thread for each pod that changes or disappears."""
        self._api = api
        self._selector = list(selector)
        self._wake = wake
        self._note = note
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._response: Any = None
        self._has_begun = False

    def begin(self) -> None:
        """Start the watch. Idempotent."""
        with self._lock:
            if self._has_begun or self._closed.is_set():
                return
            self._has_begun = True
        for name, target in (("kubernetes-watch", self._watch), ("kubernetes-wake", self._wake_engine)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def close(self) -> None:
        """End the watch. Idempotent; returns at once."""
        self._closed.set()
        self._changed.set()
        with self._lock:
            if self._response is not None:
                hang_up(self._response)

    def _wake_engine(self) -> None:
        while self._changed.wait() and not self._closed.is_set():
            self._changed.clear()
            self._wake()
            self._closed.wait(WAKE_PAUSE_SECONDS)

    def _watch(self) -> None:
        version, pause = "", FIRST_PAUSE_SECONDS
        while not self._closed.is_set():
            try:
                if not version:
                    page = self._api.get(self._api.pods(), [*self._selector, ("limit", "1")])
                    version = str(page["metadata"]["resourceVersion"])
                    self._changed.set()  # the watch did not show the changes up to this version
                for next_version in self._versions(version):
                    version, pause = next_version, FIRST_PAUSE_SECONDS
            except ApiRefused:
                version = ""
            except (RunnerUnavailable, ValueError, KeyError):
                pass
            self._closed.wait(pause * random.uniform(0.5, 1.5))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _versions(self, version: str) -> Iterator[str]:
        """Watch from a version on. Yield the version of each event; empty if the server does not know the first."""
        query = [*self._selector, ("watch", "true"), ("allowWatchBookmarks", "true")]
        query += [("resourceVersion", version), ("timeoutSeconds", str(WATCH_SECONDS))]
        with self._api.open("GET", self._api.pods(), query, seconds=SILENCE_SECONDS) as response:
            with self._lock:
                if self._closed.is_set():
                    return
                self._response = response
            try:
                for line in _lines(self._api.chunks(response, 1 << 16)):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        yield ""
                        return
                    if event["type"] != "BOOKMARK":
                        self._note(event["object"], event["type"] == "DELETED")
                        self._changed.set()
                    yield str(event["object"]["metadata"]["resourceVersion"])
            finally:
                with self._lock:
                    self._response = None


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
