"""`polyjob login`: save a server and a token."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from polyjob.cli.client import Client
from polyjob.cli.connect import chosen_ca_file, server_url
from polyjob.cli.errors import UsageError, exit_on_error
from polyjob.cli.options import existing_file
from polyjob.cli.output import say
from polyjob.cli.profiles import Profile, save_profile

PROBE_TIMEOUTS_SECONDS = (1.5, 5.0)
"""Times to connect, and to read, within which a server with TLS answers."""


@click.command()
@click.argument("url")
@click.option("--name", help="Name of the server for `--server`.  [default: its host, port and path]")
@click.option("--user", metavar="USERNAME", help="Sign in with a password. The token is valid for 30 days.")
@click.option("--ca-file", type=existing_file, help="Certificate of the authority of the server's certificate.")
def login(url: str, name: str | None, user: str | None, ca_file: Path | None) -> None:
    """Save the server at URL with your token, and use it from now on.

    The command asks for the token, or reads it from a pipe. The page "Tokens" creates one. Without `http://` or
    `https://`, URL is tried with https first, unless it is this machine.
    """
    with exit_on_error():
        certificate = str(ca_file.absolute()) if ca_file else chosen_ca_file()
        url = server_url(url) if "://" in url else _with_scheme(url.strip(), certificate)
        name = name or _default_name(url)
        token = _token_for_password(url, user, certificate) if user else _read_secret("Token")
        client = Client(url, token, is_local=False, ca_file=certificate)
        me = client.me
        path = save_profile(Profile(name, client.url, token, certificate))
    say(f"Signed in to {client.url} as {me}. It is saved as the server `{name}`, the default, in {path}.")


def _with_scheme(address: str, ca_file: str | None) -> str:
    """Return the URL of an address without a scheme: with https, unless the server is on this machine or has no TLS.

    Says which one was chosen.
    """
    url = server_url(address)
    if _is_loopback(url):
        return url
    import requests

    secure_url = f"https{url.removeprefix('http')}"
    session = Client(secure_url, None, is_local=False).http
    try:
        session.get(f"{secure_url}/healthz", verify=ca_file or True, timeout=PROBE_TIMEOUTS_SECONDS)
    except requests.exceptions.SSLError as error:
        has_tls = "certificate verify failed" in str(error)
    except (requests.RequestException, OSError):
        has_tls = False
    else:
        has_tls = True
    if has_tls:
        say(f"Using {secure_url}.")
        return secure_url
    say(f"Using {url}, without encryption, because {secure_url} does not answer.")
    return url


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _default_name(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # such as an open bracket
        host = port = None
    if not host:
        raise UsageError(f"`{url}` is not the address of a server.")
    return (f"{host}:{port}" if port else host) + parts.path.rstrip("/")


def _token_for_password(url: str, user: str, ca_file: str | None) -> str:
    body = {"username": user, "password": _read_secret("Password")}
    return str(Client(url, None, is_local=False, ca_file=ca_file).post("/users/token", body)["token"])


def _read_secret(subject: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    return str(click.prompt(subject, hide_input=True, err=True)).strip()


commands = {"login": login}
