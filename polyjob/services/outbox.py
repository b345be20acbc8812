"""The outbox of webhooks: a row for each event and webhook, written in the transaction of the event.

The engine sends the rows. So an event is sent if and only if its status was committed.
"""

from __future__ import annotations

import datetime
import enum
import json
import random
import threading
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from polyjob.clock import EPOCH, from_microseconds, now, to_microseconds
from polyjob.db.database import database
from polyjob.db.models import LISTED, PENDING, Delivery, Job, Webhook
from polyjob.db.prepared import Prepared, insert, update
from polyjob.services.list_rows import job_items
from polyjob.statuses import Status
from polyjob.webhook_urls import parse_url

FIRST_DELAY_SECONDS = 10.0
"""Seconds between the first try and the second; doubles with each further try."""
LONGEST_DELAY_SECONDS = 3600.0
PATIENCE = datetime.timedelta(hours=24)
"""Time after the event during which a delivery is tried."""
MAX_COMPARED_JOBS = 1000
"""Ended jobs of the project among which the previous run of a command is looked for."""
MAX_RESPONSE_BYTES = 500
"""Bytes of a response's body that are kept."""


class Event(enum.StrEnum):
    """The events that a webhook can receive. `TEST` is sent on request only."""

    STARTED = "started"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FIXED = "fixed"
    TEST = "test"


EVENTS = tuple(event for event in Event if event is not Event.TEST)

_EVENT_OF_END = {
    Status.SUCCEEDED: Event.SUCCEEDED,
    Status.FAILED: Event.FAILED,
    Status.UPSTREAM_FAILED: Event.FAILED,
    Status.STOPPED: Event.STOPPED,
    Status.SKIPPED: Event.STOPPED,
}

_WEBHOOKS = Prepared(
    lambda: (
        Webhook.select()
        .where(
            (Webhook.job_id == 0)
            | (Webhook.job_id.is_null() & (Webhook.project_id == 0))
            | (Webhook.job_id.is_null() & Webhook.project_id.is_null())
        )
        .order_by(Webhook.id)
    )
)
_PREVIOUS_END = (
    "SELECT status FROM (SELECT status, command, finished_at FROM job"
    f" WHERE project_id = ? AND coalesce(first_attempt_id, id) <> ? AND finished_at IS NOT NULL AND {LISTED.sql}"
    f" ORDER BY finished_at DESC LIMIT {MAX_COMPARED_JOBS})"
    " WHERE command = ? AND status IN ('succeeded', 'failed', 'upstream_failed') ORDER BY finished_at DESC LIMIT 1"
)
_written = threading.Event()


# Events.


def record_start(job: Job) -> None:
    """Record that a job runs. Must be called inside `database.write`, after the status was written."""
    _record(job, Event.STARTED)


def record_end(job: Job, status: Status, *, is_retried: bool) -> None:
    """Record the end of a job, unless it is tried again: nobody has to be told of a failure before the last attempt.

    Must be called inside `database.write`, after the status was written.
    """
    if not is_retried:
        _record(job, _EVENT_OF_END[status])


def _record(job: Job, event: Event) -> None:
    """Write a row for each webhook that receives the event. A job without webhooks costs one query."""
    webhooks = _WEBHOOKS(job.id, job.project_id)
    takes_fixed = event is Event.SUCCEEDED and any(Event.FIXED in webhook.events for webhook in webhooks)
    is_fixed = takes_fixed and _follows_failure(job)
    for webhook in webhooks:
        if is_fixed and Event.FIXED in webhook.events:
            insert_delivery(webhook, Event.FIXED, job)
        elif event in webhook.events:
            insert_delivery(webhook, event, job)


def _follows_failure(job: Job) -> bool:
    """Return whether the last job of the project with the same command that succeeded or failed has failed.

    Earlier attempts of the same job do not count.
    """
    row = database.execute_sql(_PREVIOUS_END, (job.project_id, job.first_attempt_id or job.id, job.command)).fetchone()
    return row is not None and row[0] != Status.SUCCEEDED


def insert_delivery(webhook: Webhook, event: Event, job: Job | None) -> Delivery:
    """Write a row of the outbox. Must be called inside `database.write`."""
    values = {
        "uuid": uuid.uuid4().hex,
        "webhook": webhook.id,
        "event": str(event),
        "origin": parse_url(webhook.url).origin,
    }
    values |= {"created_at": now(), "next_try_at": EPOCH}  # at once, whatever the wall clock does
    if job is not None:
        item = job_items([job.id], 0)[0]
        del item["bookmarked"]  # it depends on who reads the job
        values |= {"job_id": job.id, "job": item}
    _written.set()
    return insert(Delivery, values)


def take_news() -> bool:
    """Return whether this process has written rows since the last call."""
    is_set = _written.is_set()
    _written.clear()
    return is_set


# Sending.

_DUE = (
    f"SELECT id, next_try_at FROM delivery d WHERE {PENDING.sql} AND next_try_at <= ?"
    " AND origin NOT IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.job_id = d.job_id AND e.webhook_id = d.webhook_id"
    " AND e.id < d.id AND e.next_try_at IS NOT NULL)"
    " ORDER BY next_try_at, id LIMIT 1"
)
_NEXT = f"SELECT MIN(next_try_at) FROM delivery WHERE {PENDING.sql} AND next_try_at > ?"


def due_delivery(
    moment: datetime.datetime, busy_origins: Collection[str], busy_ids: Collection[int]
) -> Delivery | None:
    """Return the delivery that has been due for the longest time, with its webhook loaded, or None.

    Leaves out these origins and deliveries, and those that follow an unsent one about the same job to the same webhook.
    """
    row = database.execute_sql(_DUE, (to_microseconds(moment), _json(busy_origins), _json(busy_ids))).fetchone()
    if row is None:
        return None
    return Delivery.select(Delivery, Webhook).join(Webhook).where(Delivery.id == row[0]).first()


def next_try_after(moment: datetime.datetime) -> datetime.datetime | None:
    """Return when the next delivery becomes due, or None."""
    value = database.execute_sql(_NEXT, (to_microseconds(moment),)).fetchone()[0]
    return None if value is None else from_microseconds(value)


@dataclass(frozen=True)
class Attempt:
    """The outcome of one try."""

    status_code: int | None = None
    """None if there was no response."""
    response: str | None = None
    error: str | None = None
    """None if the receiver has accepted the event."""


def record_attempt(delivery: Delivery, attempt: Attempt, moment: datetime.datetime) -> None:
    """Record a try, and when the next one is due. Must be called inside `database.write`.

    Does nothing if the webhook was deleted meanwhile.
    """
    attempts = delivery.attempts + 1
    next_try_at = moment + _delay(attempts) if attempt.error else None
    if next_try_at is not None and next_try_at > delivery.created_at + PATIENCE:
        next_try_at = None
    columns = {
        "attempts": attempts,
        "tried_at": moment,
        "next_try_at": next_try_at,
        "delivered_at": None if attempt.error else moment,
        "status_code": attempt.status_code,
        "response": attempt.response,
        "error": attempt.error,
    }
    update(Delivery, delivery.id, columns)


def _delay(attempts: int) -> datetime.timedelta:
    """Return the pause after this many tries: doubling, and different each time, so that receivers are not flooded."""
    seconds = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 30))
    return datetime.timedelta(seconds=seconds * random.uniform(0.75, 1.25))


def _json(values: Collection[object]) -> str:
    return json.dumps(list(values))
