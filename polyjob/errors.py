"""What the domain refuses, in its own words; `polyjob.api.problems` gives each its HTTP answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what was sent."""

    pointer: str
    """JSON pointer of the field, such as `/config/run/cmd`; empty for the whole body."""
    detail: str
    """One sentence."""


class PolyjobError(Exception):
    """Base of the refusals below. The text is one sentence for people, without secrets."""


class Invalid(PolyjobError):
    """What was sent cannot be taken; every problem at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = list(problems)


class NotFound(PolyjobError):
    """There is no such thing, or none that the asker may know of."""


class Forbidden(PolyjobError):
    """The asker may see the thing, and may not do this with it."""


class Conflict(PolyjobError):
    """The thing is in a state that does not allow this."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLarge(PolyjobError):
    """More bytes than the settings take."""


class Unavailable(PolyjobError):
    """Not now; nothing was changed and the same request may work in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
