"""The socket that the server listens on."""

from __future__ import annotations

import dataclasses
import socket
import threading

import pytest

from polyjob.server.listening import CannotListen, listen
from tests.require import require


@pytest.mark.parametrize(
    ("host", "reason"), [("203.0.113.7", "this machine does not have that address"), ("no such host", "")]
)
def test_foreign_address_is_refused(host, reason, settings):
    with pytest.raises(CannotListen, match=f"^cannot listen on {host}:0: {reason}"):
        listen(dataclasses.replace(settings, host=host, port=0))


def test_ipv6_address_is_listened_on(settings):
    try:
        listener = listen(dataclasses.replace(settings, host="::1", port=0))
    except CannotListen:
        require("IPv6", False)
    with listener:
        assert listener.family == socket.AF_INET6


def test_port_that_becomes_free_is_taken(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        timer = threading.Timer(0.5, taken.close)
        timer.start()
        with listen(dataclasses.replace(settings, port=port)) as listener:
            assert listener.getsockname()[1] == port
        timer.join()
