"""Find the server and the token of a command: from the environment, or from the data folder of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.server.bootstrap_names import ADDRESS_FILE, TOKEN_FILE
from polyjob.settings import SettingError, Settings, read_settings


def connect() -> Client:
    """Return a client of the server at POLYJOB_URL with POLYJOB_TOKEN.

    Without POLYJOB_URL, this is the server of this machine's data folder, and its first token if POLYJOB_TOKEN is not
    set. Raises UsageError for an invalid setting.
    """
    url, token = os.environ.get("POLYJOB_URL"), os.environ.get("POLYJOB_TOKEN")
    if url:
        url = re.sub("/api/v1/*$", "", url)
        return Client(url if "://" in url else f"http://{url}", token, is_local=False)
    settings = local_settings()
    url = _first_line(settings.data_dir / ADDRESS_FILE) or settings.url
    return Client(url, token or _first_line(settings.data_dir / TOKEN_FILE), is_local=True)


def local_settings() -> Settings:
    """Return the settings of the environment. Raises UsageError."""
    try:
        return read_settings(os.environ)
    except SettingError as error:
        raise UsageError(error) from None


def _first_line(path: Path) -> str | None:
    """Return the text of a file of one line, or None if it is empty or cannot be read."""
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
