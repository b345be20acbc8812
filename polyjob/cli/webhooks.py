"""`polyjob webhook`: the webhooks of a project, and the deliveries to them."""

from __future__ import annotations

import time
from typing import Any

import click

from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import project_path, run_path
from polyjob.cli.options import json_option, project_option
from polyjob.cli.output import ago, fail, local_time, print_facts, print_json, print_table, say
from polyjob.cli.refusals import name_options

TEST_PATIENCE_SECONDS = 20.0
"""Seconds that `webhook test` waits for the outcome: the time limit of one try, and some more."""
POLL_SECONDS = 0.2

webhook_argument = click.argument("webhook_id", metavar="ID", type=int)
limit_option = click.option(
    "--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of deliveries."
)


@click.group()
def webhook() -> None:
    """Send events of a project's jobs to a URL.

    The events are started, failed, succeeded, stopped, and fixed: a success after a failure of the same command.
    """


@webhook.command()
@click.argument("url")
@click.option(
    "--on", "events", metavar="EVENTS", default="failed,fixed", show_default=True, help="Events, with commas."
)
@project_option
@json_option
def add(url: str, events: str, project: str | None, is_json: bool) -> None:
    """Add a webhook, and print the secret that signs what it receives. It cannot be shown again."""
    names = [name.strip() for name in events.split(",") if name.strip()]
    options = {"url": "URL", "events": "--on"} | {f"events.{i}": f"--on {name}" for i, name in enumerate(names)}
    with exit_on_error(), name_options(options):
        client = connect()
        created = client.post(f"{project_path(client, project)}/webhooks", {"url": url, "events": names})
    if is_json:
        print_json(created)
        return
    say(f"Added webhook {created['id']} for {', '.join(created['events'])}. Its secret is not shown again:")
    click.echo(created["secret"])


@webhook.command()
@project_option
@json_option
def ls(project: str | None, is_json: bool) -> None:
    """List the webhooks of a project."""
    with exit_on_error():
        client = connect()
        rows = list(client.items(f"{project_path(client, project)}/webhooks", None))
    if is_json:
        print_json(rows)
        return
    cells = [
        [str(row["id"]), row["url"], ",".join(row["events"]), row["user"] or "", ago(row["created_at"])] for row in rows
    ]
    print_table(["ID", "URL", "EVENTS", "USER", "CREATED"], cells)


@webhook.command()
@webhook_argument
@project_option
@limit_option
@json_option
def show(webhook_id: int, project: str | None, limit: int, is_json: bool) -> None:
    """Show a webhook and its latest deliveries."""
    with exit_on_error():
        client = connect()
        path = _path(client, webhook_id, project)
        view = client.get(path)
        rows = list(client.items(f"{path}/deliveries", limit))
    if is_json:
        print_json(view | {"deliveries": rows})
        return
    print_facts(
        [
            ("webhook", view["id"]),
            ("url", view["url"]),
            ("events", ", ".join(view["events"])),
            ("user", view["user"]),
            ("created", local_time(view["created_at"])),
        ]
    )
    if rows:
        click.echo()
        _print_deliveries(rows)


@webhook.command()
@click.argument("job", required=False)
@project_option
@limit_option
@json_option
def deliveries(job: str | None, project: str | None, limit: int, is_json: bool) -> None:
    """List the deliveries about JOB. Without JOB, list those to POLYJOB_NOTIFY_URL, for administrators."""
    with exit_on_error():
        client = connect()
        path = run_path(client, job, project) if job else "/webhooks"
        rows = list(client.items(f"{path}/deliveries", limit))
    if is_json:
        print_json(rows)
    elif rows:
        _print_deliveries(rows)
    else:
        say("There are no deliveries." if job else "There are no deliveries to POLYJOB_NOTIFY_URL.")


@webhook.command()
@webhook_argument
@project_option
def rm(webhook_id: int, project: str | None) -> None:
    """Remove a webhook. What was not sent yet is not sent."""
    with exit_on_error():
        client = connect()
        client.send("DELETE", _path(client, webhook_id, project))


@webhook.command()
@webhook_argument
@project_option
@json_option
def test(webhook_id: int, project: str | None, is_json: bool) -> None:
    """Send an event `test`, and wait for the response. The exit code is 1 if the receiver does not accept it."""
    with exit_on_error():
        client = connect()
        path = _path(client, webhook_id, project)
        delivery = _wait_for(client, path, client.post(f"{path}/test"))
    if is_json:
        print_json(delivery)
    if delivery["state"] == "delivered":
        say(f"{delivery['url']} accepted the event with status {delivery['status_code']}.")
        return
    reason = delivery["error"] or "The event was not sent yet. Is the engine running?"
    response = f"\n{delivery['response']}" if delivery["response"] else ""
    fail(f"{reason}{response}")


def _wait_for(client: Client, path: str, delivery: dict[str, Any]) -> dict[str, Any]:
    """Return the delivery once it was tried, or after `TEST_PATIENCE_SECONDS`."""
    deadline = time.monotonic() + TEST_PATIENCE_SECONDS
    while not delivery["attempts"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        latest = client.items(f"{path}/deliveries", 100)
        delivery = next((row for row in latest if row["id"] == delivery["id"]), delivery)
    return delivery


def _path(client: Client, webhook_id: int, project: str | None) -> str:
    return f"{project_path(client, project)}/webhooks/{webhook_id}"


def _print_deliveries(rows: list[dict[str, Any]]) -> None:
    cells = [
        [
            local_time(row["created_at"]),
            row["event"],
            row["job"] or "",
            row["state"],
            str(row["attempts"]),
            str(row["status_code"] or ""),
            local_time(row["next_try_at"]) if row["attempts"] else "",
            row["error"] or row["response"] or "",
        ]
        for row in rows
    ]
    print_table(["WHEN", "EVENT", "JOB", "STATE", "TRIES", "STATUS", "NEXT TRY", "RESPONSE"], cells)


commands = {"webhook": webhook}
