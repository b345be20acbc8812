"""The addresses of this machine, as the greeting shows them."""

from __future__ import annotations

import socket

from polyjob.server.own_addresses import own_addresses
from tests.require import require


def test_own_addresses_can_be_listened_on():
    addresses = own_addresses()
    require("network", bool(addresses), "this machine has no IPv4 address besides the loopback's")
    for address in addresses:
        with socket.create_server((address, 0)):
            pass


def test_own_addresses_exclude_the_loopback():
    assert not any(address.startswith("127.") for address in own_addresses())
