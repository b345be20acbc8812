"""Webhooks and deliveries in responses, and the body that creates a webhook."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant
from polyjob.db.models import Delivery
from polyjob.services.outbox import EVENTS
from polyjob.webhook_urls import MAX_URL_LENGTH, shown_url

_EVENT_NAMES = [str(event) for event in EVENTS]


class WebhookSchema(Schema):
    """A webhook, without its secret."""

    id = fields.Integer()
    url = fields.Function(
        lambda webhook: shown_url(webhook.url),
        metadata={"type": "string", "description": "The URL without its path, which may be a secret."},
    )
    events = fields.List(fields.String())
    user = fields.String(attribute="user.username", dump_default=None, allow_none=True)
    created_at = Instant()


class NewWebhookSchema(WebhookSchema):
    """A new webhook."""

    secret = fields.String(metadata={"description": "The key of its signatures. Only this response shows it."})


class WebhookBody(Body):
    url = fields.String(
        validate=validate.Length(1, MAX_URL_LENGTH), metadata={"description": "It begins with `http(s)://`."}
    )
    events = fields.List(
        fields.String(validate=validate.OneOf(_EVENT_NAMES)),
        validate=validate.Length(min=1, error="Name at least one event."),
        metadata={"description": "The events to receive; `failed` and `fixed` by default."},
    )


def _state(delivery: Delivery) -> str:
    if delivery.delivered_at is not None:
        return "delivered"
    return "pending" if delivery.next_try_at is not None else "failed"


def _job_name(delivery: Delivery) -> Any:
    return delivery.job["unique_name"] if delivery.job else None


class DeliverySchema(Schema):
    """An event that is sent to a webhook."""

    id = fields.String(attribute="uuid", metadata={"description": "The id that every try sends as `webhook-id`."})
    event = fields.String()
    job = fields.Function(_job_name, metadata={"type": ["string", "null"]})
    url = fields.Function(lambda delivery: shown_url(delivery.webhook.url), metadata={"type": "string"})
    created_at = Instant()
    state = fields.Function(
        _state,
        metadata={
            "type": "string",
            "enum": ["pending", "delivered", "failed"],
            "description": "`pending` while it is tried; `failed` once it was given up.",
        },
    )
    attempts = fields.Integer()
    tried_at = Instant(allow_none=True)
    next_try_at = Instant(attribute="retry_at", allow_none=True)
    status_code = fields.Integer(allow_none=True, metadata={"description": "HTTP status of the last response."})
    response = fields.String(allow_none=True, metadata={"description": "The beginning of the last response's body."})
    error = fields.String(allow_none=True, metadata={"description": "The reason why the last try failed."})
