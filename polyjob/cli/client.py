"""The server as commands see it: where it is, who asks, and its answers or what went wrong in words."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click
import requests
import urllib3

from polyjob.cli import STOPPED
from polyjob.first_names import ADDRESS_FILE, PROJECT, TOKEN_FILE
from polyjob.settings import SettingError, Settings, read_settings

CONNECT, READ = 5.0, 90.0
"""Seconds."""
TRIES = 4
PAGE = 100
_KEY = re.compile(r"[!-~]+\Z")


class ServerError(Exception):
    """The server has refused. The text is for people."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NoServer(Exception):
    """Nobody answers; the text says so, and what to do."""


class Wrong(Exception):
    """What was given to the command cannot be used. The text is for people."""


class _Key(requests.auth.AuthBase):
    """Stands in for a `~/.netrc`, whose password would go to the server in place of the key."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"token {self._key}"
        return request


class Client:
    """Speaks to one server with one key."""

    def __init__(self, url: str, token: str | None, local: bool) -> None:
        """Raises Wrong for a key that is none."""
        token = (token or "").strip() or None
        if token and not _KEY.match(token):
            raise Wrong("POLYJOB_TOKEN holds no key: a key is printable characters without blanks.")
        self.url = url.rstrip("/")
        self.is_local = local
        self.http = requests.Session()
        self.http.trust_env = not local
        self.http.headers["User-Agent"] = "polyjob"
        self.http.auth = _Key(token)
        self.patience = 0.0
        """Seconds for which whatever may be sent again is, also where nobody listens or the server says «not now»: for
        commands that have begun something."""
        self._me: str | None = None
        self._token = token

    def another(self) -> Client:
        """The same server, key and patience, for another thread."""
        other = Client(self.url, self._token, self.is_local)
        other.patience = self.patience
        return other

    @property
    def me(self) -> str:
        """The name of the user whose key it is."""
        if self._me is None:
            self._me = str(self.get("/users")["username"])
        return self._me

    def send(self, method: str, path: str, *, once: bool = False, **options: Any) -> requests.Response:
        """The answer to a request below /api/v1, or to the address that `path` is.

        A GET, and a POST that acts `once` whatever becomes of its answer, is sent again where the connection breaks.
        Raises ServerError, NoServer.
        """
        address = path if path.startswith("http") else f"{self.url}/api/v1{path}"
        if once:
            options["headers"] = {"Idempotency-Key": str(uuid.uuid4())} | options.get("headers", {})
        may_repeat = once or method == "GET"
        number, begun = 0, time.monotonic()
        while True:
            number += 1
            patient = may_repeat and time.monotonic() - begun < self.patience
            try:
                answer = self.http.request(method, address, timeout=(CONNECT, READ), **options)
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise NoServer(f"`{self.url}` is no address of a server: {error}.") from None
            except (requests.exceptions.InvalidJSONError, UnicodeError):
                raise Wrong("What was given holds text that is not UTF-8, or a number that JSON has not.") from None
            except requests.RequestException as error:
                if not patient and not (may_repeat and number < TRIES and _is_passing(error)):
                    raise self.no_server(error) from None
            else:
                if answer.status_code < 400:
                    return answer
                if answer.status_code != 503 or not patient:
                    raise ServerError(answer.status_code, _in_words(answer))
            time.sleep(min(2.0, 0.2 * number**2))

    def no_server(self, error: requests.RequestException) -> NoServer:
        """What a request that found nobody says to people."""
        if self.is_local:
            return NoServer(f"No server answers at {self.url}. Start one with `polyjob serve`, or set POLYJOB_URL.")
        reason = "it does not answer in time" if isinstance(error, requests.Timeout) else "nobody answers there"
        return NoServer(f"{self.url} cannot be reached: {reason}. Is POLYJOB_URL right?")

    def get(self, path: str, /, **parameters: Any) -> Any:
        """The document; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self.document(self.send("GET", path, params=given))

    def document(self, answer: requests.Response) -> Any:
        """What a JSON answer says. Raises NoServer where whoever answers is no polyjob."""
        try:
            return answer.json()
        except ValueError:
            raise NoServer(f"What answers at {self.url} is no polyjob. Is POLYJOB_URL right?") from None

    def post(self, path: str, body: Any = None, *, once: bool = False) -> Any:
        """The document in the answer; None where there is none."""
        answer = self.send("POST", path, json=body if body is not None else {}, once=once)
        return self.document(answer) if answer.content else None

    def walk(self, path: str, limit: int | None, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page; at most `limit`."""
        size = min(limit or PAGE, PAGE)
        page = self.get(path, limit=size, **parameters)
        count = 0
        while True:
            for item in page["results"]:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield item
            if not page["next"]:
                return
            page = self.get(f"{self.url}/api/v1{_below_api(page['next'])}")


def _below_api(address: str) -> str:
    """Addresses of pages name the server as it knows itself; we ask where we asked before."""
    return address.partition("/api/v1")[2]


def _is_passing(error: requests.RequestException) -> bool:
    """Whether the connection broke, or was refused for the moment; not where nobody listens at all."""
    return isinstance(error, requests.ConnectionError | requests.Timeout) and "refused" not in str(error).lower()


def _in_words(answer: requests.Response) -> str:
    try:
        problem = answer.json()
        wrong = problem.get("errors") or []
    except (ValueError, AttributeError):
        return f"{answer.status_code} {answer.reason}"
    if not wrong:
        return str(problem.get("detail") or f"{answer.status_code} {answer.reason}")
    return "\n".join(
        f"{where}: {item['detail']}" if (where := item.get("pointer") or item.get("parameter")) else item["detail"]
        for item in wrong
    )


def connect() -> Client:
    """The server that POLYJOB_URL names, with POLYJOB_TOKEN; else the one of this machine's data folder, with its own
    key. Raises Wrong where a setting is."""
    url, token = os.environ.get("POLYJOB_URL"), os.environ.get("POLYJOB_TOKEN")
    if url:
        url = re.sub("/api/v1/*$", "", url)
        return Client(url if "://" in url else f"http://{url}", token, False)
    settings = local_settings()
    return Client(_kept(settings.data_dir / ADDRESS_FILE) or settings.url, token or _local_token(settings), True)


def local_settings() -> Settings:
    """Raises Wrong where one is wrong."""
    try:
        return read_settings(os.environ)
    except SettingError as error:
        raise Wrong(error) from None


def _local_token(settings: Settings) -> str | None:
    return _kept(settings.data_dir / TOKEN_FILE)


def _kept(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None


def say(text: object) -> None:
    """To the person, never into what is piped on."""
    click.echo(text, err=True)


def fail(error: object, code: int = 1) -> NoReturn:
    """The error, each line of it, on the terminal; ends the command."""
    lines = str(error).splitlines() or ["it failed"]
    for number, line in enumerate(lines):
        say(click.style("polyjob: ", fg="red") + line if number == 0 else f"         {line}")
    raise SystemExit(code)


class Failing:
    """What goes wrong within it is said, and ends the command with `code`."""

    def __init__(self, code: int = 1) -> None:
        self._code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ServerError) and error.status == 401:
            fail(f"{error}\nSet POLYJOB_TOKEN to a key of yours (`polyjob token create` makes one).", self._code)
        if isinstance(error, ServerError | NoServer | Wrong):
            fail(error, self._code)
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            fail("The connection broke off.", self._code)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(STOPPED)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1)


# What commands name.


def project_path(client: Client, name: str | None) -> str:
    """`/user/project` of `project`, `user/project` or `user.project`; if none, POLYJOB_PROJECT or the first start's.
    Raises Wrong."""
    name = name or os.environ.get("POLYJOB_PROJECT") or PROJECT
    parts = name.replace(".", "/").strip("/").split("/")
    if len(parts) > 2 or not all(parts):
        raise Wrong(f"`{name}` names no project; it takes `project` or `user/project`.")
    whole = parts if len(parts) == 2 else [client.me, *parts]
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in whole)


def run_path(client: Client, name: str, project: str | None, kind: str = "jobs") -> str:
    """`/user/project/jobs/7` of `7`, `project/7`, `user/project/7` or `user.project.jobs.7`. Raises Wrong."""
    parts = [part for part in name.replace(".", "/").split("/") if part not in ("jobs", "builds")]
    if not parts or not parts[-1].isdecimal() or len(parts) > 3:
        raise Wrong(f"`{name}` names no {kind[:-1]}; it takes a number, `project/7` or `user.project.{kind}.7`.")
    if f".{'builds' if kind == 'jobs' else 'jobs'}." in name:
        raise Wrong(f"`{name}` is not one of the {kind}.")
    of = "/".join(parts[:-1]) or project
    return f"{project_path(client, of)}/{kind}/{parts[-1]}"
