"""Requests to registries: open ones, with a password, and with a token."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runners.kubernetes.registry import RegistryUnavailable, image_digest, repository_name

DIGEST = f"sha256:{'0a' * 32}"
SECRET = base64.b64encode(b"ana:secret").decode()


@pytest.fixture
def make_registry() -> Iterator[Callable[[str], str]]:
    """Return a function that starts a registry with one image, `team/it:1`, and returns its host.

    Kinds: `open`, `basic`, `bearer`, `broken`.
    """
    servers: list[ThreadingHTTPServer] = []

    def make(kind: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                credentials = self.headers.get("Authorization")
                expected = {"open": None, "basic": f"Basic {SECRET}", "bearer": "Bearer a-token"}.get(kind)
                if kind == "broken":
                    self.answer(500)
                elif expected and credentials != expected:
                    self.answer(401, self.challenge())
                else:
                    is_there = self.path in ("/v2/team/it/manifests/1", f"/v2/team/it/manifests/{DIGEST}")
                    self.answer(200 if is_there else 404)

            def challenge(self) -> str:
                if kind == "basic":
                    return 'Basic realm="registry"'
                return f'Bearer realm="http://{self.headers["Host"]}/token",service="s",scope="repository:team/it:pull"'

            def do_GET(self) -> None:
                is_right = self.path == "/token?service=s&scope=repository%3Ateam%2Fit%3Apull"
                is_authorized = self.headers.get("Authorization") == f"Basic {SECRET}"
                self.answer(200 if is_right and is_authorized else 401, body=json.dumps({"token": "a-token"}).encode())

            def answer(self, status: int, challenge: str = "", body: bytes = b"") -> None:
                self.send_response(status)
                if status == 200 and kind != "bearer":
                    self.send_header("Docker-Content-Digest", DIGEST if kind == "open" else "md5:0")
                if challenge:
                    self.send_header("WWW-Authenticate", challenge)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"127.0.0.1:{server.server_address[1]}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


HELPER = """#!/bin/sh
read -r host
[ "$host" = "$KNOWN_HOST" ] || { echo 'credentials not found in native keychain'; exit 1; }
echo '{"Username": "ana", "Secret": "secret"}'
"""


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: Any) -> Callable[[str, str], None]:
    """Return a function that stores ana's password for a host in the file of `docker login`, or in a helper."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def keep(host: str, where: str) -> None:
        helper = tmp_path / "docker-credential-test"
        helper.write_text(HELPER)
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("KNOWN_HOST", host)
        config = {
            "auths": {"auths": {host: {"auth": SECRET}}},
            "credHelpers": {"credHelpers": {host: "test"}},
            "credsStore": {"auths": {host: {}}, "credsStore": "test"},
        }
        (tmp_path / "config.json").write_text(json.dumps(config[where]))

    return keep


@pytest.mark.parametrize("kind", ["open", "basic", "bearer"])
@pytest.mark.parametrize("where", ["auths", "credHelpers", "credsStore"])
def test_digest_of_an_existing_image_is_found(make_registry: Any, log_in: Any, kind: str, where: str) -> None:
    host = make_registry(kind)
    log_in(host, where)
    expected = DIGEST if kind == "open" else ""
    assert image_digest(f"{host}/team/it:1", insecure=True) == expected
    assert image_digest(f"{host}/team/it@{DIGEST}", insecure=True) == expected
    assert image_digest(f"{host}/team/it:2", insecure=True) is None


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("registry.example.org/team/polyjob:1", "registry.example.org/team/polyjob"),
        ("Registry.Example.org:443/team/polyjob", "registry.example.org/team/polyjob"),
        (f"registry:5000/polyjob:1@{DIGEST}", "registry:5000/polyjob"),
        (f"registry:5000/polyjob@{DIGEST}", "registry:5000/polyjob"),
        ("docker.io/team/polyjob:1", "team/polyjob"),
        ("team/polyjob", "team/polyjob"),
        ("polyjob:1", "polyjob"),
    ],
)
def test_names_of_one_repository_are_equal(image: str, repository: str) -> None:
    assert repository_name(image) == repository


@pytest.mark.parametrize("kind", ["basic", "bearer", "broken"])
def test_refusing_registry_is_unavailable(make_registry: Any, log_in: Any, kind: str) -> None:
    host = make_registry(kind)
    with pytest.raises(RegistryUnavailable, match=host):
        image_digest(f"{host}/team/it:1", insecure=True)


@pytest.mark.filterwarnings("ignore:docker-credential-missing")
@pytest.mark.parametrize("problem", ["auths", "credsStore"])
def test_unreadable_credentials_are_named(make_registry: Any, log_in: Any, tmp_path: Path, problem: str) -> None:
    host = make_registry("basic")
    config = {"auths": {"auths": {host: {"auth": "not base64"}}}, "credsStore": {"credsStore": "missing"}}
    (tmp_path / "config.json").write_text(json.dumps(config[problem]))
    with pytest.raises(RegistryUnavailable, match=f"credentials for {host} cannot be read"):
        image_digest(f"{host}/team/it:1", insecure=True)


def test_unreachable_registry_is_unavailable(log_in: Any) -> None:
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        image_digest("127.0.0.1:1/team/it:1", insecure=False)
