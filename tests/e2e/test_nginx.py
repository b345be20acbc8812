"""polyjob behind nginx with TLS, at the root of a host and below a path, with the block of the cookbook."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests
import websocket

from tests.docs.blocks import ROOT, blocks_of
from tests.e2e.conftest import Server, eventually
from tests.require import require

PROJECT = "root/quick-start"
HTML = {"Accept": "text/html"}
LINKS = ("href", "src", "data-api")
GATED = "echo first; until [ -e {gate} ]; do sleep 0.05; done; echo last"


class Site:
    """The server as users reach it: through nginx, with a browser that keeps cookies."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder = folder
        self.certificate = folder / "certificate.pem"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"https://localhost:{self.port}{path.rstrip('/')}"
        self.server = Server(folder, public_url=self.url, trusted_proxies="1", workers="1", slots="4")
        self.browser = requests.Session()
        self.browser.trust_env = False
        self.browser.verify = str(self.certificate)

    @property
    def token(self) -> dict[str, str]:
        return {"Authorization": f"token {self.server.token}"}

    def get(self, path: str, **headers: str) -> requests.Response:
        return self.browser.get(f"{self.url}{path}", headers=HTML | headers, timeout=30)

    def post(self, page: Html, label: str, **typed: str) -> requests.Response:
        """Submit the form with this button, as a browser does, and follow the redirect."""
        form = next(form for form in page.forms if label in form.labels)
        headers = HTML | {"Origin": "/".join(self.url.split("/")[:3])}
        target = urljoin(page.url, form.action) if form.action else page.url
        return self.browser.post(target, data=form.fields | typed, headers=headers, timeout=30)


class Form:
    def __init__(self, action: str) -> None:
        self.action = action
        self.fields: dict[str, str] = {}
        self.labels: list[str] = []


class Html(HTMLParser):
    """The links and forms of a page."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__()
        self.url = response.url
        self.targets: list[str] = []
        self.posted: set[str] = set()
        """Paths that forms and scripts post to."""
        self.forms: list[Form] = []
        self._is_in_button = False
        self.feed(response.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.targets += [attributes[name] for name in LINKS if name in attributes]
        self.posted |= {attributes[name] for name in ("action", "data-commands") if name in attributes}
        self._is_in_button = tag == "button"
        if tag == "form":
            self.forms.append(Form(attributes.get("action", "")))
        elif tag in ("input", "textarea") and self.forms and "name" in attributes:
            self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")

    def handle_data(self, data: str) -> None:
        if self._is_in_button and self.forms:
            self.forms[-1].labels.append(data.strip())


def configuration(site: Site, location: str) -> str:
    """Return the configuration of nginx: the block of the cookbook, with the ports and files of this test."""
    (block,) = [block.text for block in blocks_of(ROOT / "docs/cookbook.md") if block.language == "nginx"]
    assert len(block.splitlines()) <= 15
    replaced = {
        "listen 443": f"listen 127.0.0.1:{site.port}",
        "/etc/ssl/example.org.pem": str(site.certificate),
        "/etc/ssl/example.org.key": str(site.folder / "key.pem"),
        "127.0.0.1:8000": f"127.0.0.1:{site.server.port}",
        "location /jobs/": f"location {location}",
    }
    for text, replacement in replaced.items():
        assert block.count(text) == 1
        block = block.replace(text, replacement)
    if location == "/":  # both ways of passing on an upload are tested
        block = block.replace("client_max_body_size 0;", "client_max_body_size 0; proxy_request_buffering off;")
    temporary = "".join(f"{name}_temp_path tmp;" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    return f"{user} daemon off; pid nginx.pid; events {{}} http {{ access_log off; {temporary}\n{block}}}\n"


def make_certificate(site: Site) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(site.folder / "key.pem"), "-out", str(site.certificate)]
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", *files], check=True, capture_output=True
    )


@pytest.fixture(scope="module", params=["/", "/jobs/"], ids=["root", "path"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    search_path = f"{os.environ['PATH']}:/usr/sbin"
    nginx = shutil.which("nginx", path=search_path)
    require("nginx", bool(nginx and shutil.which("openssl")), "`nginx` or `openssl` is not on the PATH")
    assert nginx
    site = Site(tmp_path_factory.mktemp("site"), request.param)
    make_certificate(site)
    with site.server:
        (site.folder / "nginx.conf").write_text(configuration(site, request.param))
        command = [nginx, "-p", str(site.folder), "-c", "nginx.conf", "-e", "error.log"]
        process = subprocess.Popen(command)
        try:
            eventually(lambda: is_reached(site), what="nginx")
            yield site
        finally:
            process.terminate()
            process.wait(20)


def is_reached(site: Site) -> bool:
    try:
        return site.get("/healthz").ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def signed_in(site: Site) -> Site:
    """Sign in by the form that a page shows to a visitor, and by the server's token."""
    answer = site.get("/projects")
    assert answer.status_code == 401
    answer = site.post(Html(answer), "Sign in", key=site.server.token)
    assert (answer.status_code, answer.url) == (200, f"{site.url}/projects")
    return site


@pytest.fixture(scope="module")
def finished(site: Site) -> int:
    """A job with a log and outputs."""
    number = site.server.submit(
        "echo hello; mkdir $POLYAXON_RUN_OUTPUTS_PATH/a; echo 1 > $POLYAXON_RUN_OUTPUTS_PATH/a/b"
    )
    site.server.until_done(number["id"])
    return int(number["id"])


def test_greeting_shows_the_public_address(site: Site) -> None:
    text = "".join(site.server.lines)
    assert f"polyjob is running on {site.url}\n" in text
    assert f"{site.url}/sign-in/" in text


def test_session_cookie_is_only_for_this_server(signed_in: Site) -> None:
    (cookie,) = signed_in.browser.cookies
    assert (cookie.path, cookie.secure) == (urlsplit(signed_in.url).path or "/", True)


def test_every_link_stays_below_the_path(signed_in: Site, finished: int) -> None:
    base = urlsplit(signed_in.url).path
    urls, seen = [f"{signed_in.url}/"], set()
    while urls:
        path = urlsplit(url := urls.pop()).path
        assert url.startswith(f"{signed_in.url}/"), url
        if path in seen:
            continue
        seen.add(path)
        answer = signed_in.get(url.removeprefix(signed_in.url))
        assert answer.status_code == 200, url
        assert answer.url.startswith(f"{signed_in.url}/"), url
        if answer.headers["Content-Type"].startswith("text/html"):
            page = Html(answer)
            assert all(path.startswith(f"{base}/") for path in page.posted), page.posted
            targets = {urljoin(url, target).partition("#")[0] for target in page.targets}
            urls += sorted(target for target in targets if urlsplit(target).path not in page.posted)
    job, api = f"{base}/{PROJECT}/jobs/{finished}", f"{base}/api/v1/{PROJECT}/jobs/{finished}"
    assert {f"{job}{part}" for part in ("", "/log", "/outputs", "/outputs/a/b", "/clone", "/delete")} <= seen
    assert {f"{api}/logs", f"{api}/outputs", f"{base}/status", f"{base}/docs/api", f"{base}/static/log.js"} <= seen


def test_form_submits_a_job(signed_in: Site) -> None:
    page = Html(signed_in.get(f"/{PROJECT}/submit"))
    answer = signed_in.post(page, "Submit", cmd="echo from a form")
    number = re.fullmatch(rf"{signed_in.url}/{PROJECT}/jobs/(\d+)", answer.url)
    assert number, answer.url
    assert signed_in.server.until_done(int(number[1]))["last_status"] == "succeeded"


def test_addresses_in_documents_have_the_path(site: Site, finished: int) -> None:
    site.server.submit("true")
    answer = site.get(f"/api/v1/{PROJECT}/jobs?limit=1", **site.token).json()
    assert answer["next"].startswith(f"{site.url}/api/v1/{PROJECT}/jobs?")
    assert requests.get(answer["next"], headers=site.token, verify=site.certificate, timeout=30).ok
    urls = site.get(f"/api/v1/{PROJECT}/jobs/{finished}", **site.token).json()["urls"]
    assert urls["page"] == f"{site.url}/{PROJECT}/jobs/{finished}"
    assert site.get("/openapi.json").json()["servers"] == [{"url": site.url}]


@pytest.mark.parametrize("kind", ["events", "bytes", "page"])
def test_log_arrives_while_it_is_written(signed_in: Site, kind: str, tmp_path: Path) -> None:
    number = signed_in.server.submit(GATED.format(gate=tmp_path / "gate"))["id"]
    path = f"/{PROJECT}/jobs/{number}/log?plain=1"
    if kind != "page":
        path = f"/api/v1/{PROJECT}/jobs/{number}/logs?follow=true"
    headers = {"Accept": "text/event-stream"} if kind == "events" else HTML
    with signed_in.browser.get(f"{signed_in.url}{path}", headers=headers, stream=True, timeout=30) as answer:
        received = b""
        for chunk in answer.iter_content(None):
            received += chunk
            if b"first" in received:
                (tmp_path / "gate").touch()
    assert b"last" in received


def test_log_arrives_by_websocket(site: Site, finished: int) -> None:
    url = f"{site.url.replace('https', 'wss', 1)}/ws/v1/{PROJECT}/jobs/{finished}/logs/"
    options = {"ca_certs": str(site.certificate), "cert_reqs": ssl.CERT_REQUIRED}
    client = websocket.create_connection(url, header=site.token, sslopt=options, timeout=30)
    messages = [json.loads(text) for text in iter(client.recv, "")]
    client.shutdown()
    assert ["hello"] in [message["log_lines"] for message in messages]


def test_upload_passes(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(5 << 20))
    subprocess.run(["tar", "czf", "upload.tar.gz", "data"], cwd=tmp_path, check=True)
    with (tmp_path / "upload.tar.gz").open("rb") as file:
        url = f"{site.url}/api/v1/{PROJECT}/repo/upload"
        answer = site.browser.put(url, headers=site.token, files={"repo": file}, timeout=60)
    assert answer.status_code == 200, answer.text


def test_command_line_uses_the_address_with_its_path(site: Site, finished: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}

    def polyjob(*arguments: str, text: str = "") -> str:
        command = [sys.executable, "-m", "polyjob", *arguments]
        done = subprocess.run(command, input=text, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    polyjob("--ca-file", str(site.certificate), "login", site.url, text=site.server.token)
    assert "hello" in polyjob("logs", "-f", str(finished))
    assert polyjob("open", str(finished)) == f"{site.url}/{PROJECT}/jobs/{finished}\n"
