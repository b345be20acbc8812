"""The URLs of webhooks: which are valid, how people see them, and which addresses are private."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2000
_URL = re.compile(r"https?://[\x21-\x7e]+\Z", re.IGNORECASE)
_HOST = re.compile(r"[-_a-z0-9.]{1,253}\Z|[0-9a-f:.]{2,45}\Z", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SHOWN_TAIL_LENGTH = 4
"""Characters at the end of a URL that people see, so that they can tell URLs of one host apart."""


class InvalidUrl(ValueError):
    """The URL cannot be that of a webhook. The text is a sentence that does not repeat the URL."""


@dataclass(frozen=True)
class WebhookUrl:
    scheme: str
    host: str
    port: int
    target: str
    """Path and query, as a request line has them."""

    @property
    def origin(self) -> str:
        """Scheme, host and, unless it is the usual one, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _default_port(self.scheme) else f":{self.port}")


def parse_url(text: str) -> WebhookUrl:
    """Return the parts of a webhook's URL. Raises InvalidUrl."""
    if len(text) > MAX_URL_LENGTH:
        raise InvalidUrl(f"The URL is longer than {MAX_URL_LENGTH} characters.")
    if not _URL.match(text):
        raise InvalidUrl("Not a URL that begins with `http://` or `https://` and has only ASCII characters.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidUrl("Not a valid URL.") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidUrl("The URL must not have a username or password.")
    if not _HOST.match(host) or port == 0:
        raise InvalidUrl("The URL has no valid host and port.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookUrl(parts.scheme, host, port or _default_port(parts.scheme), target)


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def shown_url(text: str) -> str:
    """Return the URL as people see it: without what may be a secret."""
    url = parse_url(text)
    if url.target == "/":
        return url.origin
    tail = url.target[-_SHOWN_TAIL_LENGTH:] if len(url.target) > 4 * _SHOWN_TAIL_LENGTH else ""
    return f"{url.origin}/…{tail}"


def is_private(address: str) -> bool:
    """Return whether an IP address is not one of the public internet.

    An IPv6 address that contains an IPv4 address, such as `::ffff:10.0.0.1`, is as private as that one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) >> 32 == 0:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(address is not None and _is_special(address) for address in inner) or ip.is_site_local:
            return True
    return _is_special(ip)


def _is_special(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip in _NAT64):
        return False  # the IPv4 address in it decides
    return not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified


def names_private_host(url: WebhookUrl) -> bool:
    """Return whether the host is private by its name alone: an address in any spelling, or `localhost`.

    Asks no name server, so a name can still lead to a private address.
    """
    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return any(is_private(str(entry[4][0])) for entry in found)
