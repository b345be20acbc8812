"""WebSockets to the API server, with the configuration of the official client, and with time limits."""

from __future__ import annotations

import ssl
from typing import Any

import websocket
from kubernetes.stream import ws_client

_CLIENT: Any = ws_client
"""Untyped, because releases of the client differ in their types."""
PROTOCOLS = "sec-websocket-protocol: v5.channel.k8s.io,v4.channel.k8s.io"


def open_socket(settings: Any, url: str, authorization: str | None, seconds: float) -> Any:
    """Open a connection. Raises WebSocketException, OSError.

    `seconds` is the time limit for each of its steps, including the handshake, for which the official client has none.
    """
    connection: Any = websocket.WebSocket(sslopt=_tls_options(settings), skip_utf8_validation=False)
    proxy: dict[str, Any] = {}
    if settings.proxy or settings.proxy_headers:
        proxy = _CLIENT.websocket_proxycare(proxy, settings, url, None)
    header = [PROTOCOLS, *([f"authorization: {authorization}"] if authorization else [])]
    try:
        connection.connect(url, timeout=seconds, header=header, **proxy)
    except BaseException:
        connection.shutdown()
        raise
    return connection


def _tls_options(settings: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE}
    if settings.verify_ssl:
        options |= {"ca_certs": settings.ssl_ca_cert, "check_hostname": settings.assert_hostname}
    options |= {"certfile": settings.cert_file, "keyfile": settings.key_file}
    options |= {"server_hostname": settings.tls_server_name}
    return {key: value for key, value in options.items() if value is not None}
