"""One watch over our pods: it wakes the engine, and where it breaks, the engine's own tick does.

What it shows between two ticks may be the last that is seen of a pod, and say why that goes.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, Object, Query, Refused, hang_up

LASTS = 240
"""Seconds after which the API server ends a watch, which is then begun anew."""
SILENCE = 300.0
"""Seconds without a word, not even a bookmark, after which nobody is believed to be there."""
APART = 0.1
"""Seconds between two wake-ups: changes come in crowds."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Hints:
    """See the module. Its threads end with `close`, and with the process."""

    def __init__(
        self, api: Api, selector: Query, wake: Callable[[], None], show: Callable[[Object, bool], None]
    ) -> None:
        """`show` is called with each pod that changes or goes, as it is then, and whether it is gone; from another
        thread."""
        self._api = api
        self._selector = list(selector)
        self._wake = wake
        self._show = show
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._answer: Any = None
        self._has_begun = False

    def begin(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._has_begun or self._closed.is_set():
                return
            self._has_begun = True
        for name, target in (("kubernetes-watch", self._listen), ("kubernetes-wake", self._pass_on)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def close(self) -> None:
        """Idempotent; returns at once."""
        self._closed.set()
        self._changed.set()
        with self._lock:
            if self._answer is not None:
                hang_up(self._answer)

    def _pass_on(self) -> None:
        while self._changed.wait() and not self._closed.is_set():
            self._changed.clear()
            self._wake()
            self._closed.wait(APART)

    def _listen(self) -> None:
        version, pause = "", FIRST_PAUSE
        while not self._closed.is_set():
            try:
                if not version:
                    page = self._api.get(self._api.pods(), [*self._selector, ("limit", "1")])
                    version = str(page["metadata"]["resourceVersion"])
                    self._changed.set()  # of what came in between nobody has told
                for seen in self._versions(version):
                    version, pause = seen, FIRST_PAUSE
            except Refused:
                version = ""
            except (RunnerUnavailable, ValueError, KeyError):
                pass
            self._closed.wait(pause * random.uniform(0.5, 1.5))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _versions(self, version: str) -> Iterator[str]:
        """The version behind each event, as it comes; empty where the server has forgotten that one."""
        query = [*self._selector, ("watch", "true"), ("allowWatchBookmarks", "true")]
        query += [("resourceVersion", version), ("timeoutSeconds", str(LASTS))]
        with self._api.open("GET", self._api.pods(), query, seconds=SILENCE) as answer:
            with self._lock:
                if self._closed.is_set():
                    return
                self._answer = answer
            try:
                for line in _lines(self._api.pieces(answer, 1 << 16)):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        yield ""
                        return
                    if event["type"] != "BOOKMARK":
                        self._show(event["object"], event["type"] == "DELETED")
                        self._changed.set()
                    yield str(event["object"]["metadata"]["resourceVersion"])
            finally:
                with self._lock:
                    self._answer = None


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())
