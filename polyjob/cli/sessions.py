"""HTTP sessions of the command line, with TLS and proxies. Imported only when a command needs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests


class _Adapter(requests.adapters.HTTPAdapter):
    """An adapter with socket options."""

    def __init__(self, socket_options: list[tuple[int, int, int]]) -> None:
        self._socket_options = socket_options
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, socket_options=self._socket_options)


class _TokenAuth(requests.auth.AuthBase):
    """Send the token. This also keeps `requests` from sending a password of `~/.netrc` in its place."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"token {self._token}"
        return request


def make_session(
    token: str | None, headers: Mapping[str, str], socket_options: list[tuple[int, int, int]], *, trust_env: bool
) -> requests.Session:
    """Return a session that sends the token and these headers; with `trust_env`, through the environment's proxies."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(socket_options))
    session.trust_env = trust_env
    session.headers.update(headers)
    session.auth = _TokenAuth(token)
    return session
