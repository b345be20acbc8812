"""The receiver of webhooks in a soak test: it fails and hangs at times, and knows which events it has to get."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from polyjob.services.outbox import Event
from tests.e2e.conftest import eventually
from tests.simulators.webhook_receiver import Receiver

EVENTS = (Event.STARTED, Event.SUCCEEDED, Event.FAILED, Event.STOPPED)
"""The events that the webhook receives: one for the start of a job, and one for its end."""
END_EVENTS = {
    "succeeded": Event.SUCCEEDED,
    "failed": Event.FAILED,
    "upstream_failed": Event.FAILED,
    "stopped": Event.STOPPED,
    "skipped": Event.STOPPED,
}
REFUSED_PART = 0.03
"""The part of the requests that get an error as the response."""
HANGING_PART = 0.003
"""The part of the requests that get no response."""
HANGING_SECONDS = 12.0
"""Longer than polyjob waits for a response."""
DELIVERY_SECONDS = 120.0
"""Seconds after the last event until all have to be delivered."""


@dataclasses.dataclass(frozen=True)
class SentEvent:
    """A request about a job."""

    identity: str
    job: int
    event: str


class SoakReceiver:
    """Receives the events of all jobs, and fails at times until `heal` is called. A context manager."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"receiver {seed}")
        self._is_healed = threading.Event()
        self._lock = threading.Lock()
        self._accepted: set[str] = set()
        self._expected: dict[int, tuple[str, ...]] = {}
        self._sent: list[SentEvent] = []
        self._receiver = Receiver()
        self._receiver.act = self._act
        self.url = self._receiver.url

    def __enter__(self) -> SoakReceiver:
        self._receiver.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_healed.set()
        self._receiver.__exit__(kind, error, trace)

    def _act(self, handler: BaseHTTPRequestHandler) -> bool:
        with self._lock:
            number = 1.0 if self._is_healed.is_set() else self._random.random()
            if number >= REFUSED_PART + HANGING_PART:
                self._accepted.add(handler.headers["webhook-id"])
                return True
        if number < HANGING_PART:
            self._is_healed.wait(HANGING_SECONDS)
            return False
        handler.send_response(500)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return False

    def expect(self, job: int, statuses: Sequence[str], *, is_retried: bool) -> None:
        """Expect the events of a job that is done."""
        events = (Event.STARTED,) if "running" in statuses else ()
        end = () if is_retried else (END_EVENTS[statuses[-1]],)
        with self._lock:
            self._expected[job] = tuple(map(str, (*events, *end)))

    def losses(self) -> list[str]:
        """Return a line for each expected event that does not arrive, and each that came twice with different ids."""
        self._is_healed.set()
        losses = []
        try:
            eventually(lambda: not self._missing(), DELIVERY_SECONDS)
        except AssertionError:
            losses += [f"event {event} of job {job} was not delivered" for job, event in self._missing()]
        sent = self._read()
        names: dict[str, set[SentEvent]] = defaultdict(set)
        for one in sent:
            names[one.identity].add(one)
        losses += [f"event id {identity} names {found}" for identity, found in names.items() if len(found) > 1]
        for job, expected in self._expected.items():
            ids = {one.identity: one.event for one in sent if one.job == job}
            if sorted(ids.values()) != sorted(expected):
                losses.append(f"job {job}: events {sorted(ids.values())} instead of {sorted(expected)}, by their ids")
        return losses

    def counts(self) -> str:
        sent = self._read()
        return f"{len({one.identity for one in sent})} events in {len(sent)} requests"

    def _missing(self) -> list[tuple[int, str]]:
        with self._lock:
            accepted = set(self._accepted)
        delivered = {(one.job, one.event) for one in self._read() if one.identity in accepted}
        expected = [(job, event) for job, events in self._expected.items() for event in events]
        return [pair for pair in expected if pair not in delivered]

    def _read(self) -> list[SentEvent]:
        """Return all requests until now."""
        with self._lock:
            for request in self._receiver.received[len(self._sent) :]:
                body = request.body
                identity = request.headers["webhook-id"]
                assert identity == body["id"], "the header and the body of a request differ"
                self._sent.append(SentEvent(identity, body["job"]["id"], body["event"]))
            return list(self._sent)
