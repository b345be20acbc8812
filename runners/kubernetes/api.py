"""The Kubernetes API server, spoken to by plain requests: credentials from the official client, answers as dicts.

Answers are not turned into the client's models, which would cost more than the requests themselves where a list has a
thousand pods.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import websocket
from kubernetes import client, config

from runners.base import RunnerUnavailable
from runners.kubernetes.options import Options
from runners.kubernetes.websocket import open_socket

CONNECT, CALL = 5.0, 30.0
"""Seconds that a connection, and then a plain answer, may take."""
TRIES = 4
"""How often an answer is asked for that tells of too many requests, or of a server that is not well."""
LONGEST_PAUSE = 5.0
BUSY = (429, 500, 502, 503, 504)
TOO_LARGE = ("etcdserver: request is too large", "trying to send message larger than max")
PAGE = 500
"""Objects of a list in one answer."""
CONNECTIONS = 32
AGAIN = urllib3.Retry(1, connect=0, read=1, redirect=0, status=0, other=0, respect_retry_after_header=False)
"""One more try where a connection that was kept open breaks, of what only asks or deletes."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
HOW_TO_GET_ONE = "POLYJOB_KUBE_CONFIG says which cluster and how to get at it."

_CONFIG: Any = config
"""Its releases are typed in different ways."""

_ITEMS = b'"items":['

Query = Sequence[tuple[str, str]]
Object = dict[str, Any]


class Refused(Exception):
    """The API server's answer is no success: `status` is HTTP's, `reason` and the text are its own words."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message or reason or f"status {status}")
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.is_clear = status < 500 or self.is_too_large
        """Whether it is certain that no try of the request was or will be carried out. After a server error it is
        not."""

    @property
    def is_too_large(self) -> bool:
        """Whether what was sent is more than the cluster can keep; it says so as if it were not well."""
        return self.status == 413 or (self.status == 500 and any(words in str(self) for words in TOO_LARGE))


class Api:
    """One API server, and one namespace of it. Touches nothing until the first request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: Any = None
        self._namespace = ""

    @property
    def namespace(self) -> str:
        """Raises RunnerUnavailable."""
        self._connected()
        return self._namespace

    def close(self) -> None:
        """Let go of the idle connections. Idempotent."""
        with self._lock:
            if self._client is not None:
                self._client.rest_client.pool_manager.clear()
                self._client = None

    def get(self, path: str, query: Query = ()) -> Object:
        return self.request("GET", path, query)

    def request(self, method: str, path: str, query: Query = (), body: Object | None = None) -> Object:
        """The answer's object. Asks again, after a while that grows and varies, where the server is busy or not well.

        Raises Refused, and RunnerUnavailable where it cannot be reached or stays busy."""
        found: Object = json.loads(self.ask(method, path, query, body))
        return found

    def ask(self, method: str, path: str, query: Query = (), body: Object | None = None) -> bytes:
        """As `request`; the answer as it came."""
        is_clear = True
        for left in reversed(range(TRIES)):
            try:
                with self.open(method, path, query, body, CALL) as answer:
                    return _rest_of(answer)
            except Refused as error:
                is_clear = error.is_clear = is_clear and error.is_clear
                if error.status not in BUSY or error.is_too_large:
                    raise
                if not left:
                    raise RunnerUnavailable(f"The Kubernetes API server answers {error.status}: {error}") from None
                pause = error.retry_after or 0.1 * 2 ** (TRIES - left)
            time.sleep(min(LONGEST_PAUSE, pause) * random.uniform(0.5, 1.5))
        raise AssertionError

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, query: Query = (), body: Object | None = None, seconds: float = CALL
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer, whose bytes are read as they come, each within `seconds`. Raises Refused, RunnerUnavailable."""
        made = self._connected()
        headers = {"Accept": "application/json, */*", "User-Agent": "polyjob", **self._credentials(made)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{made.configuration.host}{path}{'?' if query else ''}{urlencode(query)}"
        with self._said():
            answer = made.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT, read=seconds),
                retries=AGAIN,
                preload_content=False,
            )
            try:
                if answer.status >= 300:
                    raise self._refused(answer)
                yield answer
            finally:
                answer.close() if not answer.closed else None
                answer.release_conn()

    def pieces(self, answer: urllib3.BaseHTTPResponse, size: int) -> Iterator[bytes]:
        """The bytes of an answer as they come. Raises RunnerUnavailable where it breaks off."""
        with self._said():
            yield from answer.stream(size, decode_content=True)

    def connect(self, pod: str, container: str, command: Sequence[str], has_input: bool) -> Any:
        """A WebSocket to a command that is run in a container. Raises Refused, RunnerUnavailable."""
        made = self._connected()
        query = [("container", container), ("stdout", "true"), ("stderr", "true"), ("stdin", str(has_input).lower())]
        query += [("command", word) for word in command]
        url = f"{made.configuration.host.replace('http', 'ws', 1)}{self.pod(pod)}/exec?{urlencode(query)}"
        authorization = self._credentials(made).get("authorization")
        with self._said():
            try:
                return open_socket(made.configuration, url, authorization, CALL)
            except websocket.WebSocketBadStatusException as error:
                raise _told(error.status_code, error.resp_body, error.resp_headers) from None

    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def pod(self, name: str) -> str:
        return f"{self.pods()}/{quote(name)}"

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                with self._said():
                    self._client, self._namespace = _load(self._options)
            return self._client

    def _credentials(self, made: Any) -> dict[str, str]:
        """Asked for anew each time: tokens of a service account change."""
        with self._said():
            key = made.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            return {"authorization": key} if key else {}

    def _refused(self, answer: urllib3.BaseHTTPResponse) -> Refused:
        error = _told(answer.status, _rest_of(answer), answer.headers)
        if error.status == 401:
            self.close()  # the credentials are read anew
        return error

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Whatever the clients raise, in the contract's words."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, websocket.WebSocketException, OSError, ssl.SSLError, ValueError) as error:
            text = f"The Kubernetes API server cannot be reached: {_cause(error)}. {HOW_TO_GET_ONE}"
            raise RunnerUnavailable(text) from None
        except config.ConfigException as error:
            reason = str(error).rstrip(".")
            raise RunnerUnavailable(f"There is no way to a Kubernetes cluster: {reason}. {HOW_TO_GET_ONE}") from None


class Listing:
    """Lists the same again and again. A page that is the same as the last time, to the byte, is not read anew, and its
    objects are the very same: most objects do not change from second to second."""

    def __init__(self, api: Api, path: Callable[[], str], query: Query = ()) -> None:
        self._api = api
        self._path = path
        self._query = list(query)
        self._pages: list[tuple[bytes, list[Object]]] = []

    def objects(self) -> list[Object]:
        """All of them, in pages that show one moment; a list whose moment has gone by while it was read is begun anew.
        Raises as `Api.request`."""
        pages: list[tuple[bytes, list[Object]]] = []
        token = ""
        while True:
            more = [("continue", token)] if token else []
            try:
                body = self._api.ask("GET", self._path(), [*self._query, ("limit", str(PAGE)), *more])
            except Refused as error:
                if error.status != 410 or not token:
                    raise
                pages, token = [], ""
                continue
            head, items, last = *_parted(body), self._pages[len(pages) : len(pages) + 1]
            if items and last and last[0][0] == items:
                pages.append(last[0])
                metadata = json.loads(head + b"[]}")["metadata"]
            else:
                page = json.loads(body)
                metadata = page["metadata"]
                pages.append((items, page.get("items") or []))
            token = metadata.get("continue") or ""
            if not token:
                self._pages = pages
                return [item for _, found in pages for item in found]


def _parted(body: bytes) -> tuple[bytes, bytes]:
    """A list, parted before its objects; all in the first part where the server tells them in another order."""
    place = body.find(_ITEMS)
    metadata = body.find(b'"metadata":')
    if place < 0 or not 0 <= metadata < place:
        return body, b""
    return body[: place + len(_ITEMS) - 1], body[place:]


def hang_up(answer: urllib3.BaseHTTPResponse) -> None:
    """End an answer that another thread is reading. Fine if it has ended."""
    connection = getattr(answer, "connection", None) or getattr(answer, "_connection", None)
    held = getattr(connection, "sock", None)
    if held is not None:
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)


def _load(options: Options) -> tuple[Any, str]:
    """(the official client, the namespace). Raises ConfigException."""
    try:
        return _loaded(options)
    except config.ConfigException:
        raise
    except Exception as error:  # the client's loader passes on whatever it comes by in the file
        raise config.ConfigException(f"the kubeconfig cannot be read: {error!r}") from error


def _loaded(options: Options) -> tuple[Any, str]:
    settings = client.Configuration()
    namespace = ""
    if options.kubeconfig or options.context or not NAMESPACE_FILE.exists():
        file = options.kubeconfig or None
        contexts, active = _CONFIG.list_kube_config_contexts(config_file=file)
        chosen = next((item for item in contexts if item["name"] == options.context), active)
        if options.context and (chosen is None or chosen["name"] != options.context):
            raise config.ConfigException(f"there is no context `{options.context}`")
        _CONFIG.load_kube_config(file, context=options.context or None, client_configuration=settings)
        namespace = (chosen or {}).get("context", {}).get("namespace") or "default"
    else:
        _CONFIG.load_incluster_config(client_configuration=settings)
        namespace = NAMESPACE_FILE.read_text().strip()
    settings.connection_pool_maxsize = CONNECTIONS
    return client.ApiClient(settings), options.namespace or namespace


def _rest_of(answer: urllib3.BaseHTTPResponse) -> bytes:
    return answer.read(decode_content=True)


def _told(status: int, body: bytes | None, headers: Any) -> Refused:
    told: Object = {}
    with contextlib.suppress(ValueError):
        loaded = json.loads(body or b"{}")
        told = loaded if isinstance(loaded, dict) else {}
    message = str(told.get("message") or (body or b"").decode(errors="replace")[:500])
    retry_after = None
    with contextlib.suppress(ValueError):
        retry_after = float((headers or {}).get("Retry-After") or (headers or {}).get("retry-after") or "")
    return Refused(status, str(told.get("reason", "")), message, retry_after)


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error)
