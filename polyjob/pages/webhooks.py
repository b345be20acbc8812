"""The webhooks of a project, and the deliveries to them and about a job."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, make_response, render_template
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.path_prefixes import JOB
from polyjob.api.problems import status_of
from polyjob.api.request_context import find_job, find_project, me, settings
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.webhooks import DeliverySchema, WebhookBody
from polyjob.api.webhooks import WEBHOOK, WEBHOOKS
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project, Webhook
from polyjob.errors import Conflict, Invalid
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form
from polyjob.pages.urls import own_path, project_url
from polyjob.services import webhooks
from polyjob.services.outbox import EVENTS
from polyjob.webhook_urls import shown_url

MAX_DELIVERIES_SHOWN = 20
"""Deliveries to one webhook, or about one job."""

_BODY, _DELIVERY = WebhookBody(), DeliverySchema()

blp = Blueprint("webhooks", __name__)
blp.add_app_template_global(shown_url)


@blp.app_template_global()
def delivery_states(deliveries: Any) -> list[tuple[Any, str]]:
    """Return each row with its state."""
    return [(row, _DELIVERY.fields["state"].serialize("state", row)) for row in deliveries]


@blp.get(WEBHOOKS, strict_slashes=False)
@requires(Access.MANAGE)
def list_webhooks(username: str, project_name: str) -> AnyResponse:
    return _page(find_project(username, project_name), Form({"events": ", ".join(webhooks.DEFAULT_EVENTS)}))


@blp.post(WEBHOOKS)
@requires(Access.MANAGE)
def create_webhook(username: str, project_name: str) -> AnyResponse:
    """Create a webhook and show its secret. It is not shown again."""
    project, form = find_project(username, project_name), read_form(keep_stale=True)
    if form.is_stale:
        return _page(project, form, {"": [STALE_FORM]}, 403)
    body = {"url": form.word("url"), "events": form.text("events").replace(",", " ").split()}
    try:
        fields = load_body(_BODY, body)
        created = webhooks.create(project, me(), fields["url"], fields["events"], settings())
    except (Invalid, Conflict) as error:
        problems = getattr(error, "problems", [])
        errors = group_by_field(problems, _field_of) if problems else {"": [str(error)]}
        return _page(project, form, errors, status_of(error))
    return _page(project, Form({"events": ", ".join(webhooks.DEFAULT_EVENTS)}), status=201, created=created)


@blp.post(f"{WEBHOOK}/test")
@requires(Access.MANAGE)
def test_webhook(username: str, project_name: str, webhook_id: int) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    webhooks.send_test(webhooks.find(project, webhook_id), settings())
    return done(_path(project), "A test is being sent. Reload this page to see the outcome.")


@blp.get(f"{WEBHOOK}/remove")
@requires(Access.MANAGE)
def ask_remove(username: str, project_name: str, webhook_id: int) -> str:
    project = find_project(username, project_name)
    webhook = webhooks.find(project, webhook_id)
    return render_template(
        "confirm.html",
        title=f"Remove the webhook {shown_url(webhook.url)}?",
        lines=["What was not sent yet is not sent. The list of its deliveries is removed."],
        path=own_path(),
        label="Remove webhook",
        back=_path(project),
    )


@blp.post(f"{WEBHOOK}/remove")
@requires(Access.MANAGE)
def remove_webhook(username: str, project_name: str, webhook_id: int) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    webhook = webhooks.find(project, webhook_id)
    webhooks.delete(webhook)
    return done(_path(project), f"The webhook {shown_url(webhook.url)} was removed.")


@blp.get(f"{JOB}/deliveries", strict_slashes=False)
@requires(Access.SUBMIT)
def job_deliveries(username: str, project_name: str, job_id: int) -> str:
    job = find_job(username, project_name, job_id)
    deliveries = list(webhooks.list_job_deliveries(job).limit(MAX_DELIVERIES_SHOWN))
    return render_template("deliveries.html", job=job, deliveries=deliveries)


def _path(project: Project) -> str:
    return f"{project_url(project)}/webhooks"


def _field_of(pointer: str) -> str:
    return pointer.strip("/").split("/")[0]


def _page(
    project: Project,
    form: Form,
    errors: dict[str, list[str]] | None = None,
    status: int = 200,
    *,
    created: Webhook | None = None,
) -> AnyResponse:
    rows = list(webhooks.list_webhooks(project))
    page = render_template(
        "webhooks.html",
        project=project,
        form=form,
        errors=errors or {},
        created=created,
        webhooks=[(row, list(webhooks.list_deliveries(row).limit(MAX_DELIVERIES_SHOWN))) for row in rows],
        events=", ".join(f"`{event}`" for event in EVENTS),
        path=_path(project),
    )
    return make_response(page, status)
