"""Short requests to this machine's own server are the same as those of `requests`."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
import requests

from polyjob.cli.client import Client
from polyjob.cli.errors import NoServer, ServerError, UsageError
from tests.cli.helpers import scripted_server, send

SHOWN_HEADERS = ("Authorization", "Accept", "Accept-Encoding", "User-Agent", "Content-Type", "Content-Length", "X-Own")


def seen(handler: Any) -> list[Any]:
    return [handler.path, {name: handler.headers.get(name) for name in SHOWN_HEADERS}]


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/x", {}),
        ("GET", "/x?a=1", {"params": {"b": "c d&e", "n": 3, "path": "\udcff/ü".encode("utf-8", "surrogateescape")}}),
        ("GET", "/x", {"params": {"none": None, "several": ["a", "b"]}, "headers": {"X-Own": "v"}}),
        ("POST", "/x", {"json": {"text": "ü", "number": 1.5}}),
        ("POST", "/x", {}),
    ],
)
def test_requests_are_those_of_the_library(
    method: str, path: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    received: list[Any] = []
    responder = {f"{method} /api/v1/x": lambda handler: received.append(seen(handler)) or {"ok": True}}
    with scripted_server(responder) as url:
        for is_local in (True, False):
            response = Client(url, "k", is_local=is_local).send(method, path, **options)
            assert (response.status_code, response.json()) == (200, {"ok": True})
    assert received[0] == received[1]


def test_local_requests_need_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "polyjob.cli.sessions", raising=False)
    with scripted_server({"GET /api/v1/x": lambda handler: {"ok": True}}) as url:
        client = Client(url, "k", is_local=True)
        assert client.get("/x") == client.get("/x") == {"ok": True}
    assert "polyjob.cli.sessions" not in sys.modules


def test_refusal_of_the_local_server_is_reported() -> None:
    responder = {"GET /api/v1/x": lambda handler: send(handler, b'{"detail": "Taken."}', 409)}
    with scripted_server(responder) as url, pytest.raises(ServerError, match="Taken") as raised:
        Client(url, "k", is_local=True).get("/x")
    assert raised.value.status == 409


def test_number_without_json_is_refused() -> None:
    with scripted_server({}) as url, pytest.raises(UsageError, match="JSON cannot hold"):
        Client(url, "k", is_local=True).post("/x", {"a": float("inf")})


def test_broken_connection_repeats_only_what_may_be_repeated() -> None:
    received: list[str] = []

    def answer(handler: Any) -> Any:
        """Close the connection without a response, except at the third request."""
        received.append(handler.command)
        return {"ok": True} if len(received) == 3 else None

    with scripted_server({"GET /api/v1/x": answer, "POST /api/v1/x": answer}) as url:
        assert Client(url, "k", is_local=True).get("/x") == {"ok": True}
        assert received == ["GET"] * 3
        received.clear()
        with pytest.raises(NoServer):
            Client(url, "k", is_local=True).post("/x", {})
        assert received == ["POST"]


def test_second_thread_uses_a_session() -> None:
    began, may_end = threading.Event(), threading.Event()

    def wait(handler: Any) -> dict[str, bool]:
        began.set()
        may_end.wait(10)
        return {"ok": True}

    with scripted_server({"GET /api/v1/slow": wait, "GET /api/v1/x": lambda handler: {"ok": True}}) as url:
        client = Client(url, "k", is_local=True)
        thread = threading.Thread(target=client.get, args=("/slow",))
        thread.start()
        assert began.wait(10)
        assert client.get("/x") == {"ok": True}
        assert isinstance(client.http, requests.Session)
        may_end.set()
        thread.join()
