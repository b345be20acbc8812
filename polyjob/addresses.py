"""IP addresses of clients: the network under which one is counted, and whether it is this machine's own."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """Return the name under which an address is counted: an IPv6 address counts as its network of 64 bits."""
    parsed = _parse(address)
    if parsed is None or parsed.version == 4:
        return str(parsed or address)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


def is_local(address: str) -> bool:
    """Return whether an address belongs to this machine, such as that of a proxy on it."""
    parsed = _parse(address)
    return parsed is None or parsed.is_loopback


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address, an IPv4-mapped one as IPv4; None for anything else, such as the path of a Unix socket."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
