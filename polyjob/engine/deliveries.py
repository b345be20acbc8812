"""Send the outbox of webhooks: which delivery is due, and what its outcome means.

A pass in which nothing is due costs nothing but a comparison. The requests run in a pool of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from polyjob.db.models import Delivery
from polyjob.engine.call_pools import POOLS, FunctionCall, Result
from polyjob.engine.context import Context
from polyjob.engine.writes import Write
from polyjob.services import outbox
from polyjob.services.outbox import Attempt, Event
from polyjob.webhook_urls import parse_url

MAX_REQUESTS_AT_ONCE = POOLS["notify"]
"""Events that are sent at once."""
MAX_REQUESTS_PER_HOST = 2
"""Events that are sent at once to one host, so that a hanging one does not hold up others."""
LOOK_INTERVAL_SECONDS = 1.0
"""Seconds after which the outbox is read although no wake-up came."""
UNRECORDED_PAUSE_SECONDS = 10.0
"""Seconds without requests after a try that could not be recorded, as on a full disk. It is still due."""


class Deliveries:
    """Sends each due row of the outbox. Memory holds only what runs, so after a crash a row is sent again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running: dict[int, str] = {}
        """Id of a delivery → its origin."""
        self._sent: dict[int, int] = {}
        """Id of a delivery that was sent since the outbox was last empty → the number of its tries before."""
        self._look_at = self._paused_until = 0.0

    def look(self) -> None:
        """Read the outbox in this pass: another process may have written to it."""
        self._look_at = 0.0

    def submit_calls(self) -> None:
        """Begin to send what is due. Must be called after the writes of the pass were committed."""
        seconds = self._context.clock.seconds()
        if outbox.take_news():
            self.look()
        if seconds < max(self._look_at, self._paused_until):
            return
        self._look_at = seconds + LOOK_INTERVAL_SECONDS
        moment = self._context.clock.wall()
        while len(self._running) < MAX_REQUESTS_AT_ONCE:
            per_origin = Counter(self._running.values())
            full = [origin for origin, count in per_origin.items() if count >= MAX_REQUESTS_PER_HOST]
            delivery = outbox.due_delivery(moment, full, self._running)
            if delivery is None:
                self._sent.clear()
                return
            if self._sent.get(delivery.id) == delivery.attempts:
                self._sent.clear()
                self._paused_until = seconds + UNRECORDED_PAUSE_SECONDS
                return
            self._submit(delivery)

    def close(self) -> None:
        """End the running requests. The next engine sends their events again."""
        if self._running:
            from polyjob.engine.webhook_client import interrupt_all

            interrupt_all()

    def _submit(self, delivery: Delivery) -> None:
        self._running[delivery.id] = delivery.origin
        call = FunctionCall(
            "notify",
            ("delivery", delivery.id),
            "deliver",
            lambda: self._send(delivery),
            lambda result: self._on_done(delivery, result),
        )
        self._context.calls.submit(call)

    def _send(self, delivery: Delivery) -> Attempt:
        # HTTP and TLS, which an engine without webhooks never needs.
        from polyjob.engine.webhook_client import send

        settings, webhook = self._context.settings, delivery.webhook
        is_of_server = webhook.project_id is None
        body = json.dumps(payload(delivery, settings.url), ensure_ascii=False).encode()
        allow_private = is_of_server or settings.notify_private
        return send(parse_url(webhook.url), delivery.uuid, body, webhook.secret, allow_private=allow_private)

    def _on_done(self, delivery: Delivery, result: Result) -> Write:
        del self._running[delivery.id]
        self._sent[delivery.id] = delivery.attempts
        self.look()
        attempt = result.value or Attempt(error=f"The event could not be sent: {type(result.error).__name__}.")
        moment = self._context.clock.wall()
        return Write("delivered", lambda: outbox.record_attempt(delivery, attempt, moment))


# The body of a request.

_VERBS = {
    Event.STARTED: "has started",
    Event.FAILED: "failed",
    Event.SUCCEEDED: "succeeded",
    Event.STOPPED: "was stopped",
    Event.FIXED: "succeeded again",
}
SHOWN_COMMAND_LENGTH = 80
"""Characters of a command in the text of an event."""
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""The characters that Slack and Mattermost interpret in a text."""


def payload(delivery: Delivery, root: str) -> dict[str, Any]:
    """Return the body of a delivery. `root` is the address of the server, without a final slash."""
    job, links = delivery.job, {}
    if job is not None:
        owner, project = job["project"].split(".")
        path = f"{owner}/{project}/jobs/{job['id']}"
        api = f"{root}/api/v1/{path}"
        links = {"page": f"{root}/{path}", "job": api, "log": f"{api}/logs"}
    return {
        "id": delivery.uuid,
        "event": delivery.event,
        "time": delivery.created_at.isoformat(timespec="microseconds"),
        "text": _text(delivery, links.get("page")),
        "job": job,
        "links": links,
    }


def _text(delivery: Delivery, page: str | None) -> str:
    """Return a message for people, which Slack and Mattermost show. No text of the job can mention anyone in it."""
    job = delivery.job
    if job is None:
        return "This is a test of a webhook of polyjob."
    subject = f"Job {job['id']}" + (f" {job['name']}" if job["name"] else "") + f" of {job['project']}"
    command = " ".join((job["command"] or "").replace("`", "'").split())
    if len(command) > SHOWN_COMMAND_LENGTH:
        command = f"{command[: SHOWN_COMMAND_LENGTH - 1]}…"
    shown_command = f" `{command.translate(_ESCAPES)}`" if command else ""
    verb = "was skipped" if job["last_status"] == "skipped" else _VERBS[Event(delivery.event)]
    reason = f": {job['reason'].translate(_ESCAPES)}" if job["reason"] else ""
    return f"{subject}{shown_command} {verb}{reason}\n{page}"
