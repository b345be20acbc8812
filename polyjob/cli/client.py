"""The server as commands see it: where it is, who asks, and its answers or what went wrong in words."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlsplit

import click
import requests
import urllib3

from polyjob.cli import LOST_SERVER, STOPPED
from polyjob.cli.streams import OutputFailed, printable
from polyjob.server.bootstrap_names import ADDRESS_FILE, PROJECT, TOKEN_FILE
from polyjob.settings import SettingError, Settings, read_settings

CONNECT, READ = 5.0, 90.0
"""Seconds."""
TRIES = 4
PAGE = 100
PASSING = (502, 503, 504)
"""Statuses of a server that is busy, and of a proxy before one that is away."""
NOT_FOUND = "Not found."
HOW_TO_GET_A_TOKEN = (
    "Set POLYJOB_TOKEN to your token. On the server's machine, the first one is in the file `root-token` of the data "
    "folder. Everybody else asks an administrator for a user, signs in with a browser and creates a token there."
)
_KEY = re.compile(r"[!-~]+\Z")


class ServerError(Exception):
    """The server refused the request. The text is for people.

    `problems` has (JSON pointer or name of a parameter, detail) of each field that was refused.
    """

    def __init__(self, status: int, text: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.problems = tuple(problems)


class NoServer(Exception):
    """The server does not answer. The text says so, and what to do."""


class LostServer(NoServer):
    """The server stopped answering while the command followed a job, and did not come back in time."""


class UsageError(Exception):
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
            raise UsageError("POLYJOB_TOKEN holds no key: a key is printable characters without blanks.")
        self.url = url.rstrip("/")
        self.is_local = local
        self.http = requests.Session()
        self.http.trust_env = not local
        self.http.headers.update({"User-Agent": "polyjob", "Accept": "application/problem+json, */*"})
        self.http.auth = _Key(token)
        self.http.headers["Accept-Encoding"] = "identity"  # offsets of a log count the job's own bytes
        self.patience = 0.0
        """Seconds for which requests that can be repeated are repeated, also where nobody listens or a proxy answers
        for a server that is away. For commands that have started something."""
        self.on_outage: Callable[[str], None] = lambda text: None
        """Called once when such a wait begins, and once when the server answers again."""
        self._is_away = False
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
        """Return the answer to a request below /api/v1, or to the address that `path` is.

        A GET, and a POST that acts `once` however often it is sent, is repeated where the connection breaks.
        Raises ServerError, NoServer; LostServer once `patience` has passed.
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
                answer = self._request(method, address, **options)
            except requests.RequestException as error:
                if not patient and not (may_repeat and number < TRIES and _is_passing(error)):
                    raise (LostServer if self._is_away else NoServer)(self.describe(error)) from None
            else:
                if answer.status_code < 400:
                    self._note_answer()
                    return answer
                if answer.status_code == 504 and patient and options.get("params", {}).get("wait", 0) > 1:
                    options["params"]["wait"] /= 2  # a proxy on the way waits less long than this
                    continue
                if answer.status_code not in PASSING or not patient:
                    self._note_answer()
                    raise _refusal(answer)
            if patient and not self._is_away:
                self._is_away = True
                self.on_outage(f"No answer from {self.url}; trying again for {self.patience:.0f} seconds.")
            time.sleep(min(2.0, 0.2 * number**2))

    def _request(self, method: str, address: str, **options: Any) -> requests.Response:
        """Send one request. Raises RequestException for what can pass, NoServer or Wrong for what cannot."""
        try:
            answer = self.http.request(method, address, timeout=(CONNECT, READ), **options)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise NoServer(f"`{self.url}` is not the address of a server: {error}.") from None
        except (requests.exceptions.InvalidJSONError, UnicodeError):
            raise UsageError("The request has text that is not UTF-8, or a number that JSON cannot hold.") from None
        except requests.exceptions.SSLError as error:
            raise NoServer(self.describe(error)) from None
        except requests.RequestException:
            raise
        except OSError as error:  # requests checks the file of certificates before it connects
            raise NoServer(f"{error}. Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.") from None
        if options.get("stream") and answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise NoServer(
                f"A proxy before {self.url} compresses answers although the request refuses that. Switch it off for "
                "polyjob: it would change what a job wrote."
            )
        return answer

    def _note_answer(self) -> None:
        if self._is_away:
            self._is_away = False
            self.on_outage("The server answers again.")

    def describe(self, error: requests.RequestException) -> str:
        """Return the sentence for people about a request that got no answer."""
        if isinstance(error, requests.exceptions.SSLError):
            return (
                f"The certificate of {self.url} is not trusted ({_tls_reason(error)}). If it is the right one, save "
                "the certificate of its authority in a file and set REQUESTS_CA_BUNDLE to that file."
            )
        if self.is_local:
            return f"No server answers at {self.url}. Start one with `polyjob serve`, or set POLYJOB_URL."
        reason = "it does not answer in time" if isinstance(error, requests.Timeout) else "nobody answers there"
        return f"{self.url} cannot be reached: {reason}. Is POLYJOB_URL right?"

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

    def parts(self, path: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the parts of an answer that comes in several, each of which has the address of the `next`."""
        part = self.get(path, **parameters)
        yield part
        while part.get("next"):
            part = self.get(f"{self.url}/api/v1{_below_api(part['next'])}")
            yield part

    def walk(self, path: str, limit: int | None, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page; at most `limit`."""
        size = min(limit or PAGE, PAGE)
        count = 0
        for page in self.parts(path, limit=size, **parameters):
            for item in page["results"]:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield item


def _below_api(address: str) -> str:
    """Addresses of pages name the server as it knows itself; we ask where we asked before."""
    return address.partition("/api/v1")[2]


def _is_passing(error: requests.RequestException) -> bool:
    """Whether the connection broke, or was refused for the moment; not where nobody listens at all."""
    return isinstance(error, requests.ConnectionError | requests.Timeout) and "refused" not in str(error).lower()


def _tls_reason(error: requests.exceptions.SSLError) -> str:
    """Return what the TLS library says, without the layers that carry it."""
    found = re.search(r"certificate verify failed: ([^(\]']+)|\[SSL[^\]]*\] ([^('\"]+)", str(error))
    return next((group.strip() for group in found.groups() if group), "TLS error") if found else "TLS error"


def _refusal(answer: requests.Response) -> ServerError:
    """Return the error for an answer with a status of 400 or more."""
    status = answer.status_code
    plain = f"{status} {answer.reason}"
    try:
        document = answer.json()
        problems = [
            (str(item.get("pointer") or item.get("parameter") or ""), str(item["detail"]))
            for item in document.get("errors") or []
        ]
    except (ValueError, AttributeError, TypeError, KeyError):
        return ServerError(status, plain)
    if not problems:
        detail = str(document.get("detail") or plain)
        return ServerError(status, _missing(answer.url) or detail if detail == NOT_FOUND else detail)
    return ServerError(status, in_lines(problems), problems)


def in_lines(problems: Iterable[tuple[str, str]]) -> str:
    """Return one line for each (field, detail)."""
    named = ((field_name(field), detail) for field, detail in problems)
    return "\n".join(f"{field}: {detail}" if field else detail for field, detail in named)


def field_name(pointer: str) -> str:
    """Return the name that a JSON pointer, or the name of a parameter, reads as: `config.tags` for `/config/tags`."""
    return pointer.removeprefix("/").replace("/", ".")


def _missing(address: str) -> str | None:
    """Return the sentence about the object that an address below /api/v1 names, or None if it names none."""
    parts = [unquote(part) for part in urlsplit(address).path.partition("/api/v1/")[2].split("/") if part]
    if len(parts) == 1:
        return f"There is no user `{parts[0]}`, or you may not see that user's projects."
    if len(parts) == 2 or (len(parts) == 3 and not parts[2].isdecimal()):
        project = f"{parts[0]}/{parts[1]}"
        return (
            f"There is no project `{project}`, or you may not see it. `polyjob projects ls` lists yours, and "
            "`polyjob run` creates one of yours that is missing."
        )
    if len(parts) >= 4 and parts[2] in ("jobs", "builds"):
        return f"There is no {parts[2][:-1]} {parts[3]} in the project `{parts[0]}/{parts[1]}`, or you may not see it."
    return None


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
        raise UsageError(error) from None


def _local_token(settings: Settings) -> str | None:
    return _kept(settings.data_dir / TOKEN_FILE)


def _kept(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None


def say(text: object) -> None:
    """Write to the standard error. What cannot be written there changes nothing: no exit code depends on it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def fail(error: object, code: int = 1) -> NoReturn:
    """The error, each line of it, on the terminal; ends the command."""
    lines = str(error).splitlines() or ["it failed"]
    for number, line in enumerate(map(printable, lines)):
        say(click.style("polyjob: ", fg="red") + line if number == 0 else f"         {line}")
    raise SystemExit(code)


class exit_on_error:
    """Report an error raised inside the block, and end the command with `code`.

    A server that is lost while the command follows a job has an exit code of its own.
    """

    def __init__(self, code: int = 1) -> None:
        self._code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ServerError) and error.status == 401:
            fail(f"{error}\n{HOW_TO_GET_A_TOKEN}", self._code)
        if isinstance(error, LostServer):
            fail(f"{error}\nJobs are not affected. Give the same command again to come back.", LOST_SERVER)
        if isinstance(error, ServerError | NoServer | UsageError | OutputFailed):
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
        raise UsageError(f"`{name}` names no project; it takes `project` or `user/project`.")
    whole = parts if len(parts) == 2 else [client.me, *parts]
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in whole)


def run_path(client: Client, name: str, project: str | None, kind: str = "jobs") -> str:
    """`/user/project/jobs/7` of `7`, `project/7`, `user/project/7` or `user.project.jobs.7`. Raises Wrong."""
    parts = name.replace(".", "/").split("/")
    if len(parts) == 4 and parts[2] in ("jobs", "builds") and parts.pop(2) != kind:
        raise UsageError(f"`{name}` is not one of the {kind}.")
    if not parts[-1].isdecimal() or len(parts) > 3:
        raise UsageError(f"`{name}` is not a {kind[:-1]}: give a number, `project/7` or `user.project.{kind}.7`.")
    of = "/".join(parts[:-1]) or project
    return f"{project_path(client, of)}/{kind}/{parts[-1]}"
