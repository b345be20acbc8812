"""What can go wrong on the way of a request, on demand."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from tests.simulators.kubernetes.answers import Refused


class HangUp(Exception):
    """Close the connection without an answer."""


@dataclass
class Fault:
    """Requests that match meet it, `times` times (None: until it is taken back)."""

    times: int | None
    verb: str | None
    """The verb that rights are given by, such as `list`; None = any."""
    path: re.Pattern[str]
    code: int | None
    """The status that is answered; None = none, the connection is closed."""
    retry_after: int | None
    delay: float
    is_done: bool = False
    """The request is carried out, and only its answer is this one."""
    message: str | None = None
    """None = what such an answer usually says."""


MESSAGES = {
    429: "Too many requests, please try again later.",
    500: "Internal error occurred: etcdserver: request timed out",
    502: "Bad Gateway",
    503: "apiserver is shutting down",
    504: "Timeout: request did not complete within the allotted timeout",
}

PLAIN = {429, 502, 503}
"""What is answered before a request comes to where a `Status` is made."""


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
        """The fault that this request meets, and has then met once more. A slow answer takes its time here."""
        with self._lock:
            found = next(
                (fault for fault in self._faults if fault.verb in (None, verb) and fault.path.search(path)), None
            )
            if found is None:
                return None
            if found.times is not None:
                found.times -= 1
                if found.times <= 0:
                    self._faults.remove(found)
        time.sleep(found.delay)
        return found


def meet(found: Fault) -> None:
    """Raises Refused or HangUp, unless the fault was but a slow answer."""
    code = found.code
    if code == 200:
        return
    if code is None:
        raise HangUp
    headers = {} if found.retry_after is None else {"Retry-After": str(found.retry_after)}
    message = found.message or MESSAGES.get(code, "Internal error occurred")
    raise Refused(code, message, headers=headers, is_plain=code in PLAIN)
