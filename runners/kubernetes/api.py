"""Requests to the Kubernetes API server. The official client reads the credentials; responses are plain dicts.

The client's models are not used: to create them costs more than the request itself if a list has a thousand pods.
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

CONNECT_SECONDS, RESPONSE_SECONDS = 5.0, 30.0
"""Time limits for a connection, and for an ordinary response."""
ATTEMPTS = 4
"""Number of attempts of a request that the server answers with one of `RETRY_STATUSES`."""
LONGEST_PAUSE_SECONDS = 5.0
RETRY_STATUSES = (429, 500, 502, 503, 504)
TOO_LARGE_TEXTS = ("etcdserver: request is too large", "trying to send message larger than max")
PAGE_SIZE = 500
"""Number of objects in one response to a list request."""
POOL_SIZE = 32
RETRY = urllib3.Retry(1, connect=0, read=1, redirect=0, status=0, other=0, respect_retry_after_header=False)
"""One more attempt if a connection that was kept open breaks, for methods that urllib3 considers idempotent."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFIG_ADVICE = "Check POLYJOB_KUBE_CONFIG, which selects the cluster and the account."

_CONFIG: Any = config
"""Untyped, because releases of the client differ in their types."""

_ITEMS = b'"items":['

Query = Sequence[tuple[str, str]]
Object = dict[str, Any]


class ApiRefused(Exception):
    """The API server refused a request. `reason` and the text are the server's own words."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message or reason or f"status {status}")
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.is_clear = status < 500 or self.is_too_large
        """Whether it is certain that no attempt of the request was or will be carried out. After a server error it
        is not."""

    @property
    def is_too_large(self) -> bool:
        """Return whether the object is larger than the cluster can store. Its answer may be a server error."""
        return self.status == 413 or (self.status == 500 and any(text in str(self) for text in TOO_LARGE_TEXTS))


class Api:
    """One API server, and one namespace of it. Reads no file and sends nothing until the first request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: Any = None
        self._namespace = ""

    @property
    def namespace(self) -> str:
        """The namespace's name. Raises RunnerUnavailable."""
        self._load_client()
        return self._namespace

    def close(self) -> None:
        """Close the idle connections. Idempotent."""
        with self._lock:
            if self._client is not None:
                self._client.rest_client.pool_manager.clear()
                self._client = None

    def get(self, path: str, query: Query = ()) -> Object:
        return self.request("GET", path, query)

    def request(self, method: str, path: str, query: Query = (), body: Object | None = None) -> Object:
        """Send a request and return the object in the response.

        Tries again after growing, random pauses if the server is overloaded or has an error. Raises ApiRefused, and
        RunnerUnavailable if it cannot be reached or stays overloaded.
        """
        result: Object = json.loads(self.ask(method, path, query, body))
        return result

    def ask(self, method: str, path: str, query: Query = (), body: Object | None = None) -> bytes:
        """Do as `request`, and return the bytes of the response."""
        is_clear = True
        for remaining in reversed(range(ATTEMPTS)):
            try:
                with self.open(method, path, query, body, RESPONSE_SECONDS) as response:
                    return _read_rest(response)
            except ApiRefused as error:
                is_clear = error.is_clear = is_clear and error.is_clear
                if error.status not in RETRY_STATUSES or error.is_too_large:
                    raise
                if not remaining:
                    raise RunnerUnavailable(f"The Kubernetes API server answers {error.status}: {error}") from None
                pause = error.retry_after or 0.1 * 2 ** (ATTEMPTS - remaining)
            time.sleep(min(LONGEST_PAUSE_SECONDS, pause) * random.uniform(0.5, 1.5))
        raise AssertionError

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, query: Query = (), body: Object | None = None, seconds: float = RESPONSE_SECONDS
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send a request and return the response, whose body is still to be read.

        `seconds` is the time limit for each read. Raises ApiRefused, RunnerUnavailable.
        """
        loaded = self._load_client()
        headers = {"Accept": "application/json, */*", "User-Agent": "polyjob", **self._credentials(loaded)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{loaded.configuration.host}{path}{'?' if query else ''}{urlencode(query)}"
        with _translate_errors():
            response = loaded.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds),
                retries=RETRY,
                preload_content=False,
            )
            try:
                if response.status >= 300:
                    raise self._refusal(response)
                yield response
            finally:
                response.close() if not response.closed else None
                response.release_conn()

    def chunks(self, response: urllib3.BaseHTTPResponse, size: int) -> Iterator[bytes]:
        """Yield the body of a response as it arrives. Raises RunnerUnavailable if the connection breaks."""
        with _translate_errors():
            yield from response.stream(size, decode_content=True)

    def connect(self, pod: str, container: str, command: Sequence[str], has_input: bool) -> Any:
        """Run a command in a container, and return the WebSocket to it. Raises ApiRefused, RunnerUnavailable."""
        loaded = self._load_client()
        query = [("container", container), ("stdout", "true"), ("stderr", "true"), ("stdin", str(has_input).lower())]
        query += [("command", word) for word in command]
        url = f"{loaded.configuration.host.replace('http', 'ws', 1)}{self.pod(pod)}/exec?{urlencode(query)}"
        authorization = self._credentials(loaded).get("authorization")
        with _translate_errors():
            try:
                return open_socket(loaded.configuration, url, authorization, RESPONSE_SECONDS)
            except websocket.WebSocketBadStatusException as error:
                raise _parse_refusal(error.status_code, error.resp_body, error.resp_headers) from None

    def pods(self) -> str:
        """Return the path of all pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def pod(self, name: str) -> str:
        """Return the path of a pod."""
        return f"{self.pods()}/{quote(name)}"

    def secrets(self) -> str:
        """Return the path of the Secrets."""
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    def secret(self, name: str) -> str:
        """Return the path of a Secret."""
        return f"{self.secrets()}/{name}"

    def _load_client(self) -> Any:
        with self._lock:
            if self._client is None:
                with _translate_errors():
                    self._client, self._namespace = _load(self._options)
            return self._client

    def _credentials(self, loaded: Any) -> dict[str, str]:
        """Return the header with the credentials. Read for each request, because tokens of a service account change."""
        with _translate_errors():
            token = loaded.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            return {"authorization": token} if token else {}

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> ApiRefused:
        error = _parse_refusal(response.status, _read_rest(response), response.headers)
        if error.status == 401:
            self.close()  # so that the next request reads the credentials again
        return error


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise RunnerUnavailable for whatever the clients raise."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, websocket.WebSocketException, OSError, ssl.SSLError, ValueError) as error:
        text = f"The Kubernetes API server cannot be reached: {_cause(error)}. {CONFIG_ADVICE}"
        raise RunnerUnavailable(text) from None
    except config.ConfigException as error:
        reason = str(error).rstrip(".")
        raise RunnerUnavailable(f"No Kubernetes cluster is configured: {reason}. {CONFIG_ADVICE}") from None


class Listing:
    """Lists the same objects again and again.

    A page whose bytes are the same as in the last list is not parsed again, and its objects are identical. Most objects
    do not change from second to second.
    """

    def __init__(self, api: Api, path: Callable[[], str], query: Query = ()) -> None:
        self._api = api
        self._path = path
        self._query = list(query)
        self._pages: list[tuple[bytes, list[Object]]] = []

    def objects(self) -> list[Object]:
        """Return all objects. All pages show the same moment; if it expires meanwhile, the list begins again.

        Raises as `Api.request`.
        """
        pages: list[tuple[bytes, list[Object]]] = []
        token = ""
        while True:
            more = [("continue", token)] if token else []
            try:
                body = self._api.ask("GET", self._path(), [*self._query, ("limit", str(PAGE_SIZE)), *more])
            except ApiRefused as error:
                if error.status != 410 or not token:
                    raise
                pages, token = [], ""
                continue
            head, items = _split(body)
            last = self._pages[len(pages)] if len(pages) < len(self._pages) else None
            if items and last is not None and last[0] == items:
                pages.append(last)
                metadata = json.loads(head + b"[]}")["metadata"]
            else:
                page = json.loads(body)
                metadata = page["metadata"]
                pages.append((items, page.get("items") or []))
            token = metadata.get("continue") or ""
            if not token:
                self._pages = pages
                return [item for _, objects in pages for item in objects]


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Split a list before its objects. All is in the first part if the metadata does not come before the objects."""
    start = body.find(_ITEMS)
    metadata = body.find(b'"metadata":')
    if start < 0 or not 0 <= metadata < start:
        return body, b""
    return body[: start + len(_ITEMS) - 1], body[start:]


def hang_up(response: urllib3.BaseHTTPResponse) -> None:
    """Break the connection of a response that another thread is reading. It is fine if the response has ended."""
    connection = getattr(response, "connection", None) or getattr(response, "_connection", None)
    sock = getattr(connection, "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _load(options: Options) -> tuple[Any, str]:
    """Return (the official client, the namespace). Raises ConfigException."""
    try:
        return _load_config(options)
    except config.ConfigException:
        raise
    except Exception as error:  # the client's loader raises errors of many types for an invalid file
        raise config.ConfigException(f"the kubeconfig cannot be read: {error!r}") from error


def _load_config(options: Options) -> tuple[Any, str]:
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
    settings.connection_pool_maxsize = POOL_SIZE
    return client.ApiClient(settings), options.namespace or namespace


def _read_rest(response: urllib3.BaseHTTPResponse) -> bytes:
    return response.read(decode_content=True)


def _parse_refusal(status: int, body: bytes | None, headers: Any) -> ApiRefused:
    fields: Object = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(body or b"{}")
        fields = parsed if isinstance(parsed, dict) else {}
    message = str(fields.get("message") or (body or b"").decode(errors="replace")[:500])
    retry_after = None
    with contextlib.suppress(ValueError):
        retry_after = float((headers or {}).get("Retry-After") or (headers or {}).get("retry-after") or "")
    return ApiRefused(status, str(fields.get("reason", "")), message, retry_after)


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error)
