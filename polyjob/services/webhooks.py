"""Webhooks of projects, of single jobs and of the server: create, list and delete them; list their deliveries."""

from __future__ import annotations

import base64
import datetime
import secrets
from collections.abc import Sequence

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Delivery, Job, Project, User, Webhook
from polyjob.db.prepared import Prepared, insert
from polyjob.engine_link import wake_engine
from polyjob.errors import Conflict, Invalid, NotFound, Problem
from polyjob.services import audit, outbox
from polyjob.services.outbox import Event
from polyjob.settings import Settings
from polyjob.webhook_urls import InvalidUrl, names_private_host, parse_url

MAX_WEBHOOKS = 50
"""Webhooks of one project."""
DEFAULT_EVENTS = (Event.FAILED, Event.FIXED)
SERVER_EVENTS = (Event.FAILED, Event.FIXED)
JOB_EVENTS = (Event.FAILED, Event.SUCCEEDED, Event.STOPPED)
"""A person who submits a job with a URL waits for its end, whichever it is."""
SECRET_BYTES = 32
RETENTION = datetime.timedelta(days=7)
"""Age after which a delivery that has succeeded or was given up is removed."""

_OF_JOB = Prepared(lambda: Webhook.select().where(Webhook.job_id == 0))


def new_secret() -> str:
    """Return a fresh key for signatures, in the form of the Standard Webhooks specification."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"


def check_url(url: str, settings: Settings, pointer: str) -> None:
    """Raise Invalid, at the pointer, if the URL cannot be that of a webhook of a user."""
    try:
        is_refused = names_private_host(parse_url(url)) and not settings.notify_private
    except InvalidUrl as error:
        raise Invalid([Problem(pointer, str(error))]) from None
    if is_refused:
        detail = "The URL has a private address, and this server sends webhooks only to public ones."
        raise Invalid([Problem(pointer, f"{detail} Its administrator can set `POLYJOB_NOTIFY_PRIVATE=yes`.")])


# Webhooks of projects.


def list_webhooks(project: Project) -> ModelSelect[Webhook]:
    """Return the webhooks of the project, oldest first. Those of single jobs are not listed."""
    return _listed(project).order_by(Webhook.id)


def create(project: Project, user: User, url: str, events: Sequence[str] | None, settings: Settings) -> Webhook:
    """Create a webhook of the project. Without `events`, it receives `DEFAULT_EVENTS`.

    Raises Invalid, and Conflict if the project has too many.
    """
    check_url(url, settings, "/url")
    values = {"project_id": project.id, "user": user, "url": url, "secret": new_secret(), "created_at": now()}
    with write("webhook"):
        if _listed(project).count() >= MAX_WEBHOOKS:
            raise Conflict(f"The project has {MAX_WEBHOOKS} webhooks already; remove one first.")
        webhook = insert(Webhook, values | {"events": [str(event) for event in events or DEFAULT_EVENTS]})
        audit.record("create", webhook, events=webhook.events)
    return webhook


def find(project: Project, webhook_id: int) -> Webhook:
    """Return a webhook of the project. Raises NotFound."""
    webhook = _listed(project).where(Webhook.id == webhook_id).first()
    if webhook is None:
        raise NotFound(f"There is no webhook {webhook_id} in this project.")
    return webhook


def delete(webhook: Webhook) -> None:
    """Delete a webhook with its deliveries. What was not sent yet is not sent. Idempotent."""
    with write("webhook"):
        if Webhook.delete().where(Webhook.id == webhook.id).execute():
            audit.record("delete", webhook)


def send_test(webhook: Webhook, settings: Settings) -> Delivery:
    """Send an event `test` to the webhook, and return its delivery."""
    with write("webhook"):
        delivery = outbox.insert_delivery(webhook, Event.TEST, None)
        audit.record("test", webhook)
    wake_engine(settings.data_dir)
    return delivery


def _listed(project: Project) -> ModelSelect[Webhook]:
    return Webhook.select().where(Webhook.project_id == project.id, Webhook.job_id.is_null())


# Webhooks of jobs.


def add_to_job(job: Job, url: str) -> str:
    """Create a webhook of a new job, and return its secret. Must be called inside `database.write`."""
    secret = new_secret()
    values = {"project_id": job.project_id, "job_id": job.id, "user": job.user_id, "url": url, "secret": secret}
    insert(Webhook, values | {"events": [str(event) for event in JOB_EVENTS], "created_at": job.created_at})
    return secret


def copy_to_clone(source: Job, clone: Job) -> None:
    """Give a clone the webhooks of its source. Must be called inside `database.write`."""
    for webhook in _OF_JOB(source.id):
        values = {name: getattr(webhook, name) for name in ("project_id", "url", "events", "secret")}
        insert(Webhook, values | {"job_id": clone.id, "user": clone.user_id, "created_at": clone.created_at})


# The webhook of the server.


def set_server_webhook(settings: Settings) -> None:
    """Make the server's webhook that of the settings, or remove it. Keeps its deliveries. Idempotent."""
    url, secret = settings.notify_url, settings.notify_secret or None
    with write("webhook"):
        webhook = server_webhook()
        if webhook is not None and not url:
            webhook.delete_instance()
        elif webhook is not None and (webhook.url, webhook.secret) != (url, secret):
            Webhook.update(url=url, secret=secret).where(Webhook.id == webhook.id).execute()
        elif webhook is None and url:
            events = [str(event) for event in SERVER_EVENTS]
            insert(Webhook, {"url": url, "secret": secret, "events": events, "created_at": now()})


def server_webhook() -> Webhook | None:
    """Return the webhook of the setting `POLYJOB_NOTIFY_URL`, or None."""
    return Webhook.get_or_none(Webhook.project_id.is_null(), Webhook.job_id.is_null())


# Deliveries.


def list_deliveries(webhook: Webhook) -> ModelSelect[Delivery]:
    """Return the deliveries to a webhook, latest first."""
    return _with_webhook().where(Delivery.webhook == webhook.id).order_by(Delivery.id.desc())


def list_server_deliveries() -> ModelSelect[Delivery]:
    """Return the deliveries to the server's webhook, latest first."""
    is_of_server = Webhook.project_id.is_null() & Webhook.job_id.is_null()
    return _with_webhook().where(is_of_server).order_by(Delivery.id.desc())


def list_job_deliveries(job: Job) -> ModelSelect[Delivery]:
    """Return the deliveries about a job to its own webhooks and those of its project, latest first."""
    is_visible = (Delivery.job_id == job.id) & Webhook.project_id.is_null(False)
    return _with_webhook().where(is_visible).order_by(Delivery.id.desc())


def _with_webhook() -> ModelSelect[Delivery]:
    return Delivery.select(Delivery, Webhook).join(Webhook)


def remove_old(moment: datetime.datetime, limit: int) -> int:
    """Remove up to `limit` old deliveries, and the webhooks of removed jobs and projects.

    Return the number of removed deliveries. Must be called inside `database.write`.
    """
    old = Delivery.select(Delivery.id).where(Delivery.created_at < moment - RETENTION, Delivery.next_try_at.is_null())
    count = Delivery.delete().where(Delivery.id.in_(old.order_by(Delivery.created_at).limit(limit))).execute()
    pending = Delivery.select(Delivery.webhook).where(Delivery.next_try_at.is_null(False))
    is_orphan = (Webhook.job_id.is_null(False) & Webhook.job_id.not_in(Job.select(Job.id))) | (
        Webhook.project_id.is_null(False) & Webhook.project_id.not_in(Project.select(Project.id))
    )
    Webhook.delete().where(is_orphan, Webhook.id.not_in(pending)).execute()
    return int(count)
