"""The HTTP client of the command line."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from polyjob.cli.errors import LostServer, NoServer, UsageError
from polyjob.cli.plain_http import NotSent, PlainConnection
from polyjob.cli.refusals import refusal

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT_SECONDS = 1.5
"""Shorter than the two seconds within which a lost server is reported. A lost packet is sent again after one."""
READ_TIMEOUT_SECONDS = 90.0
RESPONSE_SECONDS = 1.4
"""Time after which the response to a short request is overdue, while a command follows a job."""
REQUEST_TRIES = 4
PAGE_SIZE = 100
REDIRECTS = (301, 302, 303, 307, 308)
TEMPORARY_STATUSES = (502, 503, 504)
"""Statuses of a busy server, and of a proxy whose server is down."""
_TOKEN = re.compile(r"[!-~]+\Z")


def _tcp_options(**values: int) -> list[tuple[int, int, int]]:
    """Return the options of these names that this system has."""
    names = (name for name in values if hasattr(socket, name))
    return [(socket.IPPROTO_TCP, getattr(socket, name), values[name]) for name in names]


_UPLOAD_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *_tcp_options(TCP_NODELAY=1, TCP_KEEPIDLE=1, TCP_KEEPINTVL=1, TCP_KEEPCNT=1),
]
"""A silent connection to a machine that is switched off or unplugged breaks within two seconds: a packet that asks for
an answer is sent after one second of silence, and the connection ends if none has come one second later."""
_SOCKET_OPTIONS = [*_UPLOAD_OPTIONS, *_tcp_options(TCP_USER_TIMEOUT=1500)]
"""The same, and the connection ends if the machine has not confirmed a request for so many milliseconds. Not for
uploads: a server may take longer until it goes on reading."""
LOST_MACHINE_ERRNOS = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
"""Errors of a connection whose other end does not answer at all."""


class Client:
    """A client of one server with one token."""

    def __init__(self, url: str, token: str | None, is_local: bool, ca_file: str | None = None) -> None:
        """`ca_file` has the certificate of the server's authority. Raises UsageError for a malformed token."""
        token = (token or "").strip() or None
        if token and not _TOKEN.match(token):
            raise UsageError("POLYJOB_TOKEN is not a token: a token has printable ASCII characters and no blanks.")
        self.ca_file = ca_file
        self.url = url.rstrip("/")
        self.is_local = is_local
        self._headers = {
            "User-Agent": "polyjob",
            "Accept": "application/problem+json, */*",
            "Accept-Encoding": "identity",  # offsets of a log count uncompressed bytes
        }
        own = {"Authorization": f"token {token}"} if token else {}
        timeouts = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        self._plain = PlainConnection(self._headers | own, timeouts, _SOCKET_OPTIONS) if is_local else None
        self.patience = 0.0
        """Seconds for which a repeatable request is retried while the server is down. For commands that have started
        something."""
        self.on_outage: Callable[[str], None] = lambda text: None
        """Called once when the server stops answering, and once when it answers again."""
        self._is_down = False
        self._me: str | None = None
        self._token = token

    @functools.cached_property
    def http(self) -> requests.Session:
        """The session for everything but short requests to this machine's own server."""
        from polyjob.cli.sessions import make_session

        return make_session(self._token, self._headers, _SOCKET_OPTIONS, trust_env=not self.is_local)

    @functools.cached_property
    def _http_for_uploads(self) -> requests.Session:
        from polyjob.cli.sessions import make_session

        return make_session(self._token, self._headers, _UPLOAD_OPTIONS, trust_env=not self.is_local)

    def clone(self) -> Client:
        """Return a client of the same server, token and patience for another thread."""
        other = Client(self.url, self._token, self.is_local, self.ca_file)
        other.patience = self.patience
        return other

    @property
    def me(self) -> str:
        """The username of the token."""
        if self._me is None:
            self._me = str(self.get("/users")["username"])
        return self._me

    def send(self, method: str, path: str, *, is_idempotent: bool = False, **options: Any) -> requests.Response:
        """Return the response to a request. `path` is below /api/v1, or a complete URL.

        A GET is retried if the connection breaks. A POST with `is_idempotent` gets an idempotency key and is retried,
        too. Raises ServerError, NoServer, and LostServer once `patience` has passed.
        """
        url = path if path.startswith("http") else f"{self.url}/api/v1{path}"
        if is_idempotent:
            options["headers"] = {"Idempotency-Key": str(uuid.uuid4())} | options.get("headers", {})
        may_repeat = is_idempotent or method == "GET"
        tries, began_at = 0, time.monotonic()
        while True:
            tries += 1
            is_patient = may_repeat and time.monotonic() - began_at < self.patience
            try:
                with self._reporting_silence(options):
                    response = self._request(method, url, **options)
            except OSError as error:  # always a RequestException
                if not is_patient and not (may_repeat and tries < REQUEST_TRIES and _is_temporary(error)):
                    raise (LostServer if self._is_down else NoServer)(self.describe(error)) from None
            else:
                if response.status_code < 400:
                    self._note_response()
                    return response
                if response.status_code == 504 and is_patient and options.get("params", {}).get("wait", 0) > 1:
                    options["params"]["wait"] /= 2  # a proxy on the way has a shorter timeout
                    continue
                if response.status_code not in TEMPORARY_STATUSES or not is_patient:
                    self._note_response()
                    raise refusal(response)
            if is_patient:
                self.report_outage()
            time.sleep(min(2.0, 0.2 * tries**2))

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send one request. Raises RequestException for a temporary error, NoServer or UsageError for a lasting one."""
        if self._plain is not None:
            try:
                response = self._plain.request(method, url, **options)
            except NotSent:
                pass
            except (OSError, http.client.HTTPException) as error:
                import requests

                kind = requests.ReadTimeout if isinstance(error, TimeoutError) else requests.ConnectionError
                raise kind(error) from None
            else:
                if method != "GET" or response.status_code not in REDIRECTS:
                    return cast("requests.Response", response)
        return self._request_by_session(method, url, **options)

    def _request_by_session(self, method: str, url: str, **options: Any) -> requests.Response:
        import requests

        timeouts = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        session = self._http_for_uploads if "files" in options else self.http
        if self.ca_file:
            options["verify"] = self.ca_file  # for a session, REQUESTS_CA_BUNDLE would take precedence
        try:
            response = session.request(method, url, timeout=timeouts, **options)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise NoServer(f"`{self.url}` is not the address of a server: {error}.") from None
        except (requests.exceptions.InvalidJSONError, UnicodeError):
            raise UsageError("The request has text that is not UTF-8, or a number that JSON cannot hold.") from None
        except requests.exceptions.SSLError as error:
            raise NoServer(self.describe(error)) from None
        except requests.RequestException:
            raise
        except OSError as error:  # requests checks the certificate file before it connects
            raise NoServer(f"{error}. Check --ca-file, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.") from None
        if options.get("stream") and response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise NoServer(
                f"A proxy in front of {self.url} compresses responses although the request forbids it. Switch that "
                "off for polyjob: it changes the bytes of a log."
            )
        return response

    @contextlib.contextmanager
    def _reporting_silence(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Report an outage while the response of the block's request is overdue, if a command follows a job.

        The request goes on, because a busy server may still answer it.
        """
        if not self.patience or options.get("params", {}).get("wait"):
            yield
            return
        timer = threading.Timer(RESPONSE_SECONDS, self.report_outage)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def report_outage(self) -> None:
        """Call `on_outage`, unless it has been called since the last response."""
        if not self._is_down:
            self._is_down = True
            self.on_outage(f"No answer from {self.url}; retrying for {self.patience:.0f} seconds.")

    def _note_response(self) -> None:
        if self._is_down:
            self._is_down = False
            self.on_outage("The server answers again.")

    def describe(self, error: OSError) -> str:
        """Return a sentence for users about the RequestException of a request without a response."""
        import requests

        if isinstance(error, requests.exceptions.SSLError):
            return self._describe_tls(error)
        if self.is_local:
            return f"No server answers at {self.url}. Start one with `polyjob serve`, or set POLYJOB_URL."
        reason = "the server does not answer in time" if isinstance(error, requests.Timeout) else "no server answers"
        return f"{self.url} cannot be reached: {reason}. Check POLYJOB_URL."

    def _describe_tls(self, error: requests.exceptions.SSLError) -> str:
        reason = _tls_reason(error)
        if "WRONG_VERSION_NUMBER" in str(error) or "HTTP_REQUEST" in str(error):
            plain_url = self.url.replace("https:", "http:", 1)
            return f"The server at {self.url} does not speak TLS ({reason}). Try {plain_url}."
        if "certificate verify failed" in str(error):
            return (
                f"The certificate of {self.url} is not trusted ({reason}). If it is the right one, save the "
                "certificate of its authority in a file, and use `--ca-file FILE` or set REQUESTS_CA_BUNDLE."
            )
        return f"TLS with {self.url} failed: {reason}. Check --ca-file and REQUESTS_CA_BUNDLE."

    def get(self, path: str, /, **parameters: Any) -> Any:
        """Return the JSON document of a GET. Parameters that are None are not sent."""
        params = {name: value for name, value in parameters.items() if value is not None}
        return self.document(self.send("GET", path, params=params))

    def document(self, response: requests.Response) -> Any:
        """Return the JSON document of a response. Raises NoServer for a server that is not polyjob."""
        try:
            return response.json()
        except ValueError:
            raise NoServer(f"The server at {self.url} is not polyjob. Check POLYJOB_URL.") from None

    def post(self, path: str, body: Any = None, *, is_idempotent: bool = False) -> Any:
        """Return the JSON document in the response to a POST, or None for an empty response."""
        response = self.send("POST", path, json=body if body is not None else {}, is_idempotent=is_idempotent)
        return self.document(response) if response.content else None

    def pages(self, path: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a response that has several. Each has the address of the `next` one."""
        page = self.get(path, **parameters)
        yield page
        while page.get("next"):
            page = self.get(f"{self.url}/api/v1{_below_api(page['next'])}")
            yield page

    def items(self, path: str, limit: int | None, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, at most `limit`."""
        page_size = min(limit or PAGE_SIZE, PAGE_SIZE)
        count = 0
        for page in self.pages(path, limit=page_size, **parameters):
            for item in page["results"]:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield item


def _below_api(address: str) -> str:
    """Return the part of a page's address that does not depend on the host.

    The server may know itself by another address than the one that this client uses.
    """
    return address.partition("/api/v1")[2]


def _is_temporary(error: OSError) -> bool:
    """Return whether the connection broke or timed out; a refused connection means that no server is there."""
    import requests

    return isinstance(error, requests.ConnectionError | requests.Timeout) and "refused" not in str(error).lower()


def _tls_reason(error: requests.exceptions.SSLError) -> str:
    """Return the message of the TLS library without the exceptions around it."""
    text = str(error)
    match = re.search(r"certificate verify failed: ([^(\]']+)", text) or re.search(r"\[SSL[^\]]*\] ([^('\"]+)", text)
    return match[1].strip() if match else "TLS error"
