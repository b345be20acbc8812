"""Find the server and the token of a command: saved, from the environment, or from this machine's data folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.cli.profiles import find_profile
from polyjob.server.bootstrap_names import ADDRESS_FILE, TOKEN_FILE
from polyjob.settings import SettingError, Settings, read_settings


def connect() -> Client:
    """Return a client of the first of these servers that is given:

    * the saved one that `--server` names
    * the one at POLYJOB_URL, with POLYJOB_TOKEN
    * the default one of `polyjob login`, if neither POLYJOB_TOKEN nor POLYJOB_DATA_DIR is set
    * that of this machine's data folder, and its first token if POLYJOB_TOKEN is not set

    Raises UsageError for an invalid setting.
    """
    ca_file = chosen_ca_file()
    url, token = os.environ.get("POLYJOB_URL"), os.environ.get("POLYJOB_TOKEN")
    name = _global_option("server")
    if url and not name:
        return Client(server_url(url), token, is_local=False, ca_file=ca_file)
    if name or not (token or os.environ.get("POLYJOB_DATA_DIR")):
        profile = find_profile(name)
        if profile:
            return Client(profile.url, profile.token, is_local=False, ca_file=ca_file or profile.ca_file)
    settings = local_settings()
    url = first_line(settings.data_dir / ADDRESS_FILE) or settings.url
    return Client(url, token or first_line(settings.data_dir / TOKEN_FILE), is_local=True)


def server_url(text: str) -> str:
    """Return the address of a server: with a scheme, and without the path of the API."""
    text = re.sub("/api/v1/*$", "", text.strip())
    return text if "://" in text else f"http://{text}"


def chosen_ca_file() -> str | None:
    """Return the file of `--ca-file`."""
    path = _global_option("ca_file")
    return str(Path(path).absolute()) if path else None


def _global_option(name: str) -> Any:
    """Return an option that stands before or after the command, such as `--server NAME`."""
    context = click.get_current_context(silent=True)
    return context.meta.get(name) if context else None


def local_settings() -> Settings:
    """Return the settings of the environment. Raises UsageError."""
    try:
        return read_settings(os.environ)
    except SettingError as error:
        raise UsageError(error) from None


def first_line(path: Path) -> str | None:
    """Return the text of a file of one line, or None if it is empty or cannot be read."""
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
