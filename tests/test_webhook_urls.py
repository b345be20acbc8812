"""The URLs of webhooks: which are valid, how they are shown, and which addresses are private."""

from __future__ import annotations

import pytest

from polyjob.webhook_urls import InvalidUrl, is_private, names_private_host, parse_url, shown_url

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1",
    "2002:7f00:1::", "2002:a00:1::", "2001:db8::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_address_is_private(address):
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_address_is_public(address):
    assert not is_private(address)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://example.org", "https://example.org", "/"),
        ("HTTPS://Example.org:443/a?b=c#d", "https://example.org", "/a?b=c"),
        ("http://example.org:8080/", "http://example.org:8080", "/"),
        ("http://[::1]:80/x", "http://[::1]", "/x"),
        ("https://example.org?token=1", "https://example.org", "/?token=1"),
    ],
)
def test_url_has_origin_and_target(url, origin, target):
    assert (parse_url(url).origin, parse_url(url).target) == (origin, target)


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "ftp://example.org/", "file:///etc/passwd", "https://", "https:///a", "http://a b/", "http://é/",
     "https://user:secret@example.org/", "https://user@example.org/", "http://example.org:0/", "http://a:99999/",
     "http://a/\r\nX: y", "http://[::1/", f"http://a/{'x' * 2000}"],
)  # fmt: skip
def test_other_urls_are_refused_without_repeating_them(url):
    with pytest.raises(InvalidUrl) as refusal:
        parse_url(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org", "https://example.org"),
        ("https://hooks.example.org/services/T000/B000/abcdefgh", "https://hooks.example.org/…efgh"),
        ("https://example.org/?k=secret", "https://example.org/…"),
    ],
)
def test_shown_url_hides_what_may_be_secret(url, shown):
    assert shown_url(url) == shown


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]"])
def test_private_host_is_recognized_without_a_name_server(host):
    assert names_private_host(parse_url(f"http://{host}/"))


def test_name_of_a_host_is_not_private_by_itself():
    assert not names_private_host(parse_url("https://example.invalid/"))
