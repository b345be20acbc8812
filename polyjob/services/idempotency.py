"""Requests that may be sent twice and act once: the first answer to each Idempotency-Key, kept for a day.

The key is kept in the very transaction that makes what was asked for. So a key that is there means that the thing is,
and a twin that comes at the same moment waits for the write lock and then finds the first one's answer.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from polyjob.clock import now
from polyjob.db.models import Idempotency, Project, User
from polyjob.errors import PolyjobError

KEY_LIFETIME = datetime.timedelta(hours=24)


class ReplayedResponse(Exception):
    """The request was answered before: `answer` is the body of that answer."""

    def __init__(self, answer: str) -> None:
        super().__init__("This request was answered before.")
        self.answer = answer


class KeyReused(PolyjobError):
    """The key was sent before, with another request."""


class IdempotentRequest:
    """One request with its key, which counts in its project. `digest` stands for everything that was asked; `show`
    makes the answer's body."""

    def __init__(self, user: User, project: Project, key: str, digest: str, show: Callable[[Any], str]) -> None:
        self._user, self._key, self._digest, self._show = user, key, digest, show
        self._kept_as = f"{project.id} {key}"

    def check(self) -> None:
        """Raises Answered where this request was answered within a day, KeyReused where the key was another's."""
        kept = Idempotency.get_or_none(
            Idempotency.user == self._user,
            Idempotency.key == self._kept_as,
            Idempotency.created_at > now() - KEY_LIFETIME,
        )
        if kept is None:
            return
        if kept.digest != self._digest:
            raise KeyReused(f"The Idempotency-Key `{self._key}` was used with another request before.")
        raise ReplayedResponse(kept.answer)

    def keep(self, made: Any) -> None:
        """Keep the answer that shows `made`. Must be called in the transaction that makes it, after `check`."""
        moment = now()
        Idempotency.delete().where(Idempotency.created_at <= moment - KEY_LIFETIME).execute()
        Idempotency.insert(
            user=self._user, key=self._kept_as, digest=self._digest, answer=self._show(made), created_at=moment
        ).execute()


def check_replay(once: IdempotentRequest | None) -> Callable[[Any], None]:
    """Refuse what was answered before; what is returned keeps the answer that shows what is made now. Must be called
    inside `database.write`. Raises as `IdempotentRequest.check`; with None nothing is refused and nothing kept."""
    if once is None:
        return lambda made: None
    once.check()
    return once.keep
