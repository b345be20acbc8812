"""Idempotent requests: store the first response to each Idempotency-Key for a day.

The key is stored in the same transaction as the object that the request creates. So if the key exists, the object
exists. A duplicate that arrives at the same moment waits for the write lock, and then finds the stored response.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from polyjob.clock import now, to_microseconds
from polyjob.db.database import database
from polyjob.db.models import Idempotency, Project, User
from polyjob.db.prepared import Prepared, insert
from polyjob.errors import PolyjobError

KEY_LIFETIME = datetime.timedelta(hours=24)

_STORED = Prepared(
    lambda: Idempotency.select().where(Idempotency.user == 0, Idempotency.key == "", Idempotency.created_at > now())
)
_DELETE_OLD = "DELETE FROM idempotency WHERE created_at <= ?"


class ReplayedResponse(Exception):
    """The request was answered before; `body` is the body of that response."""

    def __init__(self, body: str) -> None:
        super().__init__("This request was answered before.")
        self.body = body


class KeyReused(PolyjobError):
    """The key was sent before with a different request."""


class IdempotentRequest:
    """One request with its key. A key is valid within one project.

    `digest` identifies the content of the request. `render` makes the body of the response from the created object.
    """

    def __init__(self, user: User, project: Project, key: str, digest: str, render: Callable[[Any], str]) -> None:
        self._user, self._key, self._digest, self._render = user, key, digest, render
        self._stored_key = f"{project.id} {key}"

    def check(self) -> None:
        """Raise ReplayedResponse if this request was answered within a day, KeyReused if the key belongs to another
        request."""
        stored = _STORED.first(self._user.id, self._stored_key, to_microseconds(now() - KEY_LIFETIME))
        if stored is None:
            return
        if stored.digest != self._digest:
            raise KeyReused(f"The Idempotency-Key `{self._key}` was used with another request before; send a new key.")
        raise ReplayedResponse(stored.answer)

    def store_response(self, created: Any) -> None:
        """Store the response for the created object. Must be called in the transaction that creates it, after
        `check`."""
        moment = now()
        database.execute_sql(_DELETE_OLD, (to_microseconds(moment - KEY_LIFETIME),))
        values = {"user": self._user, "key": self._stored_key, "digest": self._digest, "created_at": moment}
        insert(Idempotency, values | {"answer": self._render(created)})


def check_replay(once: IdempotentRequest | None) -> Callable[[Any], None]:
    """Refuse a request that was answered before. Return a function that stores the response for the created object.

    Must be called inside `database.write`. Raises what `IdempotentRequest.check` raises. Without a key (None), nothing
    is refused or stored.
    """
    if once is None:
        return lambda created: None
    once.check()
    return once.store_response
