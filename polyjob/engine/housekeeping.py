"""What the engine clears away now and then: rows that nobody needs any more, a few at a time."""

from __future__ import annotations

import datetime

from polyjob import audit
from polyjob.engine.context import Context
from polyjob.engine.steps import Step
from polyjob.idempotency import LIFE
from polyjob.models import Idempotency, SignInLink, Token

EVERY = 3600.0
MOST = 2000
"""Lines of the audit trail removed at once; where there are more, the next pass goes on."""


class Housekeeping:
    """See the module. What it removes is found by its age alone, so that a crash loses nothing and repeats nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._at = context.clock.seconds()

    def steps(self) -> list[Step]:
        if self._context.clock.seconds() < self._at:
            return []
        self._at = self._context.clock.seconds() + EVERY
        return [Step("clear", self._clear)]

    def _clear(self) -> None:
        moment = self._context.clock.wall()
        Token.delete().where(Token.expires_at < moment - datetime.timedelta(days=1)).execute()
        SignInLink.delete().where(SignInLink.expires_at < moment).execute()
        Idempotency.delete().where(Idempotency.created_at < moment - LIFE).execute()
        if audit.prune(self._context.settings.audit_days, MOST) == MOST:
            self._at = 0.0
