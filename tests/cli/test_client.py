"""The HTTP client against a scripted server: tokens, proxies, certificates, errors."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from polyjob.cli.client import Client
from polyjob.cli.errors import NoServer
from tests.cli.helpers import Responder, invoke, polyjob, scripted_server, send, server_tls
from tests.e2e.conftest import Server


def test_token_is_sent_instead_of_a_netrc_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin a\npassword b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    headers: list[str | None] = []
    responders: dict[str, Responder] = {
        "GET /api/v1/x": lambda handler: headers.append(handler.headers["Authorization"]) or {}
    }
    with scripted_server(responders) as url:
        Client(url, "the-token", is_local=False).get("/x")
        Client(url, None, is_local=False).get("/x")
    assert headers == ["token the-token", None]


def test_other_server_is_reported() -> None:
    responders: dict[str, Responder] = {"GET /api/v1/x": lambda handler: send(handler, b"<html>")}
    with scripted_server(responders) as url, pytest.raises(NoServer, match="is not polyjob"):
        Client(url, None, is_local=True).get("/x")


def test_malformed_token_is_refused_without_showing_it() -> None:
    result = invoke("ls", POLYJOB_URL="http://127.0.0.1:1", POLYJOB_TOKEN="secret\nkey")
    assert result.exit_code == 1
    assert "POLYJOB_TOKEN is not a token" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://[::"])
def test_malformed_address_is_refused(address: str) -> None:
    result = invoke("ls", POLYJOB_URL=address)
    assert (result.exit_code, "not the address of a server" in result.stderr) == (1, True)


def test_server_without_tls_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        client = Client(f"https://127.0.0.1:{listener.getsockname()[1]}", "k", is_local=False)
        with pytest.raises(NoServer, match="does not speak TLS"):
            client.get("/x")
        thread.join()


def test_certificate_is_trusted_with_its_file(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server({"GET /api/v1/users": lambda _: {"username": "ana"}}, server_tls(certificate)) as url:
        with pytest.raises(NoServer, match=r"not trusted \(self.signed certificate\).*--ca-file"):
            Client(url, "k", is_local=False).get("/users")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing/bundle.pem")
        assert Client(url, "k", is_local=False, ca_file=str(certificate)).me == "ana"


def test_missing_certificate_file_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing/bundle.pem")
    with pytest.raises(NoServer, match=r"/missing/bundle\.pem"):
        Client("https://127.0.0.1:1", "k", is_local=False).get("/x")


@pytest.mark.parametrize(
    ("words", "code"), [(["ls"], 1), (["run", "--", "x"], 125), (["wait", "1"], 125), (["doctor"], 1)]
)
def test_missing_server_error_suggests_serve(words: list[str], code: int, tmp_path: Path) -> None:
    result = invoke(*words, POLYJOB_DATA_DIR=str(tmp_path), POLYJOB_PORT="1")
    assert result.exit_code == code
    assert "polyjob serve" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_unreachable_server_error_suggests_the_variable() -> None:
    assert "Check POLYJOB_URL" in invoke("ls", POLYJOB_URL="127.0.0.1:1").stderr


def test_missing_token_error_says_how_to_get_one(server: Server) -> None:
    assert b"set POLYJOB_TOKEN" in polyjob(server, "ls", POLYJOB_TOKEN="x").stderr


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (["ls", "-p", "nope"], "project `root/nope`"),
        (["run", "-p", "nobody/x", "true"], "project `nobody/x`"),
        (["projects", "delete", "-y", "nope"], "project `root/nope`"),
        (["show", "98765"], "job 98765"),
        (["logs", "-b", "98765"], "build 98765"),
        (["projects", "ls", "--user", "nobody"], "user `nobody`"),
    ],
)
def test_missing_object_is_named(server: Server, words: list[str], subject: str) -> None:
    done = polyjob(server, *words)
    assert done.returncode in (1, 125)
    assert subject in done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["projects", "create", "a b"], "name"),
        (["token", "create", ""], "name"),
        (["user", "create", "a b"], "username"),
        (["ls", "--query", "statuss:failed"], "--query"),
    ],
)
def test_refused_field_is_named_without_json_pointer(server: Server, words: list[str], field: str) -> None:
    assert polyjob(server, *words).stderr.startswith(f"polyjob: {field}: ".encode())


def test_list_ends_at_its_limit() -> None:
    requests: list[Any] = []

    def list_page(handler: Any) -> dict[str, Any]:
        requests.append(handler.path)
        return {"results": [1, 2], "next": "http://elsewhere/api/v1/x?page=2"}

    with scripted_server({"GET /api/v1/x": list_page}) as url:
        assert list(Client(url, None, is_local=True).items("/x", 3)) == [1, 2, 1]
    assert requests == ["/api/v1/x?limit=3", "/api/v1/x?page=2"]


def options_of(session: requests.Session) -> dict[tuple[int, int], int]:
    adapter = session.get_adapter("http://x")
    assert isinstance(adapter, HTTPAdapter)
    return {(level, name): value for level, name, value in adapter.poolmanager.connection_pool_kw["socket_options"]}


def test_connection_notices_a_dead_machine_within_two_seconds() -> None:
    options = options_of(Client("http://x", "k", is_local=True).http)
    assert options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    idle, interval, count = (
        options[socket.IPPROTO_TCP, name] for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + interval * count <= 2
    assert options[socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT] < 2000


def test_upload_may_pause_longer_than_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[dict[tuple[int, int], int]] = []

    def request(self: requests.Session, *arguments: Any, **options: Any) -> Any:
        used.append(options_of(self))
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(requests.Session, "request", request)
    with pytest.raises(NoServer):
        Client("http://x", "k", is_local=False).send("PUT", "/x", files={"repo": ("code.tar.gz", b"", "x")})
    assert [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) in options for options in used] == [False]
