"""Errors of the domain. `polyjob.api.problems` maps each to an HTTP response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem in a request."""

    pointer: str
    """JSON pointer of the field, such as `/config/run/cmd`; empty for the whole body; or a query parameter's name."""
    detail: str
    """One sentence."""


class PolyjobError(Exception):
    """Base class of refusals. The message is one sentence for users, without secrets."""


class Invalid(PolyjobError):
    """The request is not valid. `problems` lists every problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = list(problems)


class NotFound(PolyjobError):
    """The object does not exist, or the user may not know that it does."""


class Forbidden(PolyjobError):
    """The user may see the object, but may not do this with it."""


class Conflict(PolyjobError):
    """The state of the object does not allow this."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLarge(PolyjobError):
    """The request or upload is larger than the settings allow."""


class Unavailable(PolyjobError):
    """The server cannot do this now. Nothing was changed; the same request may work in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
