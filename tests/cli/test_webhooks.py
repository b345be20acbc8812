"""`polyjob webhook` and `run --notify`, against a real server and a real receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator

import pytest

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server, eventually
from tests.simulators.webhook_receiver import Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Server]:
    """A server that may send webhooks to this machine, and sends its own ones to the receiver."""
    folder = tmp_path_factory.mktemp("webhooks")
    with Server(folder, notify_private="yes", notify_url=f"{receiver.url}-server") as server:
        yield server


def test_webhook_is_told_of_failure_and_fix(server: Server, receiver: Receiver) -> None:
    added = polyjob(server, "webhook", "add", receiver.url, "--on", "failed,fixed")
    secret = added.stdout.decode().strip()
    number = added.stderr.decode().split()[2]
    assert f"Added webhook {number} for failed, fixed" in added.stderr.decode()
    assert polyjob(server, "webhook", "test", number).returncode == 0
    name = str(server.data_dir / "ready")
    assert polyjob(server, "run", "--clean", f"test -e {name}").returncode == 1
    (server.data_dir / "ready").touch()
    assert polyjob(server, "run", "--clean", f"test -e {name}").returncode == 0
    eventually(lambda: len(receiver.received) == 5)
    to_project = [request for request in receiver.received if not request.path.endswith("-server")]
    assert [request.body["event"] for request in to_project] == ["test", "failed", "fixed"]
    assert [body["event"] for body in receiver.bodies if body["event"] != "test"].count("failed") == 2
    request = to_project[1]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join(
        [request.headers["webhook-id"].encode(), request.headers["webhook-timestamp"].encode(), request.content]
    )
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.body["links"]["page"].startswith(f"http://127.0.0.1:{server.port}/root/quick-start/jobs/")
    eventually(lambda: {row["state"] for row in json_of(server, "webhook", "deliveries", "--json")} == {"delivered"})
    shown = json_of(server, "webhook", "show", number, "--json")
    assert [row["event"] for row in shown["deliveries"]] == ["fixed", "failed", "test"]
    assert secret not in str(shown)
    assert (
        b"T0P53CR3T" not in polyjob(server, "webhook", "show", number).stdout + polyjob(server, "webhook", "ls").stdout
    )
    assert polyjob(server, "webhook", "rm", number).returncode == 0
    assert json_of(server, "webhook", "ls", "--json") == []


def test_run_with_notify_tells_the_end(server: Server, receiver: Receiver) -> None:
    url = receiver.url.replace("/hook/", "/one/")
    assert polyjob(server, "run", "--clean", "--notify", url, "true").returncode == 0
    eventually(lambda: [request for request in receiver.received if request.path.startswith("/one/")])
    rows = json_of(server, "webhook", "deliveries", receiver.bodies[-1]["job"]["unique_name"], "--json")
    assert [row["event"] for row in rows] == ["succeeded"]


def test_refused_test_shows_the_response(server: Server, receiver: Receiver) -> None:
    added = json_of(server, "webhook", "add", receiver.url, "--json")
    receiver.status, receiver.response = 403, b"no such channel"
    try:
        done = polyjob(server, "webhook", "test", str(added["id"]))
    finally:
        receiver.status, receiver.response = 204, b""
    assert done.returncode == 1
    assert b"The receiver responded 403." in done.stderr
    assert b"no such channel" in done.stderr


def test_invalid_webhooks_name_the_option(server: Server) -> None:
    assert b"--on" in polyjob(server, "webhook", "add", "https://a.example/", "--on", "broken").stderr
    assert b"URL: " in polyjob(server, "webhook", "add", "ftp://a.example/").stderr
    assert b"--notify: " in polyjob(server, "run", "--notify", "ftp://a.example/", "true").stderr
