"""WebSockets to the API server, made from the official client's configuration, and within a time."""

from __future__ import annotations

import ssl
from typing import Any

import websocket
from kubernetes.stream import ws_client

_CLIENT: Any = ws_client
"""Its releases are typed in different ways."""
PROTOCOLS = "sec-websocket-protocol: v5.channel.k8s.io,v4.channel.k8s.io"


def open_socket(settings: Any, url: str, authorization: str | None, seconds: float) -> Any:
    """A connection whose every step, the handshake's too, may take `seconds`: the client's own has no such bound.

    Raises WebSocketException, OSError."""
    line: Any = websocket.WebSocket(sslopt=_tls(settings), skip_utf8_validation=False)
    proxy: dict[str, Any] = {}
    if settings.proxy or settings.proxy_headers:
        proxy = _CLIENT.websocket_proxycare(proxy, settings, url, None)
    header = [PROTOCOLS, *([f"authorization: {authorization}"] if authorization else [])]
    try:
        line.connect(url, timeout=seconds, header=header, **proxy)
    except BaseException:
        line.shutdown()
        raise
    return line


def _tls(settings: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE}
    if settings.verify_ssl:
        told |= {"ca_certs": settings.ssl_ca_cert, "check_hostname": settings.assert_hostname}
    told |= {"certfile": settings.cert_file, "keyfile": settings.key_file, "server_hostname": settings.tls_server_name}
    return {key: value for key, value in told.items() if value is not None}
