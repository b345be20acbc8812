"""The web application of a process, configured from its environment. gunicorn loads it as `web_app:web()`."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

from polyjob.settings import SettingError, read_settings

if TYPE_CHECKING:
    from flask import Flask


def web() -> Flask:
    """Return the application, configured from the environment. Exits with one line of error for an invalid setting."""
    from polyjob.app import configure

    app = load_app()
    try:
        configure(app, read_settings(os.environ))
    except SettingError as error:
        sys.exit(f"polyjob: {error}")
    return app


@functools.cache
def load_app() -> Flask:
    """Import and create the application, once in a process. Workers that are forked later share its memory."""
    from polyjob.app import make_app, preload

    app = make_app()
    preload(app)
    return app
