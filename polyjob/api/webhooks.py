"""Webhooks of a project, and the deliveries to them."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query
from polyjob.api.path_prefixes import JOB, PROJECT
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_job, find_project, me, settings
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.webhooks import DeliverySchema, NewWebhookSchema, WebhookBody, WebhookSchema
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Delivery, Webhook
from polyjob.errors import Invalid, Problem
from polyjob.services import webhooks

WEBHOOKS = f"{PROJECT}/webhooks"
WEBHOOK = f"{WEBHOOKS}/<int:webhook_id>"

_BODY = WebhookBody()

blp = Blueprint("webhooks", __name__, description="Webhooks: URLs that receive the events of a project's jobs.")


@blp.get(WEBHOOKS)
@blp.page(WebhookSchema)
@requires(Access.MANAGE)
def list_webhooks(username: str, project_name: str) -> dict[str, Any]:
    """List the webhooks of a project, oldest first, without their secrets"""
    return page_of_query(webhooks.list_webhooks(find_project(username, project_name)))


@blp.post(WEBHOOKS)
@blp.reads(WebhookBody, required=True)
@blp.may_conflict
@blp.response(201, NewWebhookSchema)
@requires(Access.MANAGE)
def create_webhook(username: str, project_name: str) -> Webhook:
    """Create a webhook; only this response shows its secret"""
    project = find_project(username, project_name)
    fields = load_body(_BODY, read_body())
    if fields.get("url") is None:
        raise Invalid([Problem("/url", "This field is required.")])
    return webhooks.create(project, me(), fields["url"], fields.get("events"), settings())


@blp.get(WEBHOOK)
@blp.response(200, WebhookSchema)
@requires(Access.MANAGE)
def get_webhook(username: str, project_name: str, webhook_id: int) -> Webhook:
    """Get a webhook, without its secret"""
    return webhooks.find(find_project(username, project_name), webhook_id)


@blp.delete(WEBHOOK)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_webhook(username: str, project_name: str, webhook_id: int) -> Response:
    """Delete a webhook and its deliveries; what was not sent yet is not sent"""
    webhooks.delete(webhooks.find(find_project(username, project_name), webhook_id))
    return empty(204)


@blp.post(f"{WEBHOOK}/test")
@blp.response(201, DeliverySchema)
@requires(Access.MANAGE)
def test_webhook(username: str, project_name: str, webhook_id: int) -> Delivery:
    """Send the event `test` to a webhook; its deliveries show the outcome"""
    webhook = webhooks.find(find_project(username, project_name), webhook_id)
    delivery = webhooks.send_test(webhook, settings())
    delivery.webhook = webhook
    return delivery


@blp.get(f"{WEBHOOK}/deliveries")
@blp.page(DeliverySchema)
@requires(Access.MANAGE)
def list_deliveries(username: str, project_name: str, webhook_id: int) -> dict[str, Any]:
    """List the deliveries to a webhook, latest first"""
    webhook = webhooks.find(find_project(username, project_name), webhook_id)
    return page_of_query(webhooks.list_deliveries(webhook))


@blp.get(f"{JOB}/deliveries")
@blp.page(DeliverySchema)
@requires(Access.SUBMIT)
def list_job_deliveries(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List the deliveries about a job to its own webhook and those of its project, latest first"""
    return page_of_query(webhooks.list_job_deliveries(find_job(username, project_name, job_id)))


@blp.get("/webhooks/deliveries")
@blp.page(DeliverySchema)
@requires(Access.ADMINISTRATOR)
def list_server_deliveries() -> dict[str, Any]:
    """List the deliveries to the server's own webhook, `POLYJOB_NOTIFY_URL`, latest first; for administrators"""
    return page_of_query(webhooks.list_server_deliveries())
