"""The IPv4 addresses under which other machines may reach this one."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915
_CONTAINER_BRIDGES = ("docker", "br-", "podman", "cni", "virbr")
"""Prefixes of interfaces that only reach the machine's own containers and virtual machines."""
_OUTSIDE = ("198.51.100.1", 9)
"""An address for documentation. To connect a UDP socket to it chooses the default route, and sends nothing."""


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of the network interfaces, that of the default route first, without the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        addresses = []
        for _, name in socket.if_nameindex():
            if name.startswith(_CONTAINER_BRIDGES):
                continue
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                reply = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                addresses.append(socket.inet_ntoa(reply[20:24]))
        with contextlib.suppress(OSError):  # no default route
            probe.connect(_OUTSIDE)
            addresses.insert(0, probe.getsockname()[0])
    return [address for address in dict.fromkeys(addresses) if not address.startswith("127.")]
