"""Send one event to the URL of a webhook: signed, to a checked address, within time limits, without redirects."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache

import polyjob
from polyjob.services.outbox import MAX_RESPONSE_BYTES, Attempt
from polyjob.webhook_urls import WebhookUrl, is_private

CONNECT_TIMEOUT_SECONDS = 5.0
RESPONSE_TIMEOUT_SECONDS = 10.0
"""Seconds for the request and the response together, from the connection on."""


_interrupts: set[Callable[[], None]] = set()
"""One function for each open connection, which breaks it."""


class Refused(Exception):
    """The event must not be sent to this address. The text is a sentence."""


def sign(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature` of the Standard Webhooks specification, version 1.0.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{delivery_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


def send(url: WebhookUrl, delivery_id: str, body: bytes, secret: str | None, *, allow_private: bool) -> Attempt:
    """POST the body to the URL, and return the outcome. Raises nothing that the network or the receiver causes."""
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"polyjob/{polyjob.__version__}",
        "Connection": "close",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
    }
    if secret is not None:
        headers["webhook-signature"] = sign(secret, delivery_id, timestamp, body)
    try:
        with _connected(url, allow_private) as connection:
            connection.request("POST", url.target, body, headers)
            response = connection.getresponse()
            return _attempt(response.status, response.read(MAX_RESPONSE_BYTES))
    except (Refused, OSError, http.client.HTTPException, ValueError) as error:
        return Attempt(error=_describe(error))


def interrupt_all() -> None:
    """Break all open connections, so that no hanging receiver delays the end of this process."""
    for interrupt in _interrupts.copy():
        interrupt()


def _attempt(status: int, content: bytes) -> Attempt:
    text = content.decode(errors="replace")
    if 200 <= status < 300:
        return Attempt(status, text)
    hint = "; redirects are not followed" if 300 <= status < 400 else ""
    return Attempt(status, text, f"The receiver responded {status}{hint}.")


def _describe(error: Exception) -> str:
    """Return the reason why a try failed, without the URL."""
    match error:
        case Refused():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"The certificate of the receiver is not valid: {error.verify_message}."
        case TimeoutError():
            return "The receiver did not respond in time."
        case socket.gaierror():
            return "The host name could not be resolved."
        case ConnectionRefusedError():
            return "The receiver refused the connection."
        case http.client.HTTPException() | ConnectionError():
            return "The receiver closed the connection or sent no valid response."
        case _:
            return f"The event could not be sent: {getattr(error, 'strerror', None) or type(error).__name__}."


@contextlib.contextmanager
def _connected(url: WebhookUrl, allow_private: bool) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection to a checked address of the host. It breaks when the time for the response is over."""
    raw = _connect(_addresses(url, allow_private))
    watched = raw.dup()  # stays usable when TLS takes the socket over
    is_late = threading.Event()

    def interrupt() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            watched.shutdown(socket.SHUT_RDWR)

    _interrupts.add(interrupt)
    timer = threading.Timer(RESPONSE_TIMEOUT_SECONDS, interrupt)
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(url.host, url.port)
    connection.auto_open = 0  # never connect by name
    try:
        raw.settimeout(RESPONSE_TIMEOUT_SECONDS)
        connection.sock = raw
        if url.scheme == "https":
            connection.sock = _tls().wrap_socket(raw, server_hostname=url.host)
            connection.default_port = 443
        yield connection
    except (OSError, http.client.HTTPException, ValueError) as error:
        if is_late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        _interrupts.discard(interrupt)
        connection.close()
        raw.close()
        watched.close()


def _addresses(url: WebhookUrl, allow_private: bool) -> list[tuple[str, int]]:
    """Return the addresses of the host. Raises Refused if one of them is private and that is not allowed."""
    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and any(map(is_private, addresses)):
        raise Refused("The host has a private address, and this server sends webhooks only to public ones.")
    return [(address, url.port) for address in addresses]


def _connect(addresses: list[tuple[str, int]]) -> socket.socket:
    """Connect to the first address that answers. A name is not resolved again, so its addresses cannot change."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
    last: OSError = TimeoutError()
    for address in addresses:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        try:
            return socket.create_connection(address, remaining)
        except OSError as error:
            last = error
    raise last


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
