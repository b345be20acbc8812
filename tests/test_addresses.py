"""Addresses: their networks, and which belong to this machine."""

from __future__ import annotations

import pytest

from polyjob.addresses import is_local, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_addresses_are_counted_by_network(address, network):
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("", True),
        ("192.0.2.7", False),
        ("2001:db8::1", False),
    ],
)
def test_loopback_addresses_are_local(address, local):
    assert is_local(address) == local
