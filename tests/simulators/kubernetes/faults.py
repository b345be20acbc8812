"""Faults of requests, on demand."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from tests.simulators.kubernetes.answers import RequestRefused


class HangUp(Exception):
    """Close the connection without an answer."""


@dataclass
class Fault:
    """A fault of matching requests: the next `times` ones (None: until it is cleared)."""

    times: int | None
    verb: str | None
    """The verb of a permission, such as `list`; None = any."""
    path: re.Pattern[str]
    code: int | None
    """The status of the response; None = the connection is closed without a response."""
    retry_after: int | None
    delay: float
    is_done: bool = False
    """The request is carried out, and only its response is faulty."""
    message: str | None = None
    """None = the usual message for that status."""


MESSAGES = {
    429: "Too many requests, please try again later.",
    500: "Internal error occurred: etcdserver: request timed out",
    502: "Bad Gateway",
    503: "apiserver is shutting down",
    504: "Timeout: request did not complete within the allotted timeout",
}

PLAIN = {429, 502, 503}
"""Statuses of responses without a `Status` object, because they come from in front of the API server."""


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def find(self, verb: str, path: str) -> Fault | None:
        """Return the fault of this request, and count it. Blocks for the delay of a slow response."""
        with self._lock:
            fault = next(
                (fault for fault in self._faults if fault.verb in (None, verb) and fault.path.search(path)), None
            )
            if fault is None:
                return None
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
        time.sleep(fault.delay)
        return fault


def raise_fault(fault: Fault) -> None:
    """Raise RequestRefused or HangUp, unless the fault was only a slow response."""
    code = fault.code
    if code == 200:
        return
    if code is None:
        raise HangUp
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = fault.message or MESSAGES.get(code, "Internal error occurred")
    raise RequestRefused(code, message, headers=headers, is_plain=code in PLAIN)
