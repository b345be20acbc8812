"""Each process imports only the heavy modules that it needs, which keeps it small and its start fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WEB = {"flask", "flask_smorest", "gunicorn", "jinja2", "werkzeug", "wsproto"}
SDKS = {"docker", "kubernetes", "requests", "urllib3"}
EMAIL = {"email", "importlib.metadata", "zipfile"}
"""Modules that `importlib.metadata` and `http.client` import."""

MODULES = {
    "polyjob.cli": {*WEB, *SDKS, *EMAIL, "marshmallow", "peewee", "yaml", "ssl", "subprocess"},
    "polyjob.cli.jobs": {*WEB, *SDKS, "marshmallow", "peewee", "yaml"},
    "polyjob.server.serve": {*WEB, *SDKS, *EMAIL, "marshmallow", "peewee", "sqlite3", "yaml", "ssl"},
    "polyjob.server.settings_check": {*WEB, *SDKS, *EMAIL, "marshmallow", "peewee", "yaml", "ssl"},
    "polyjob.engine": {*WEB, *SDKS, *EMAIL, "marshmallow", "yaml", "ssl"},
    "polyjob.server.gunicorn": {*SDKS, "marshmallow"},
    "polyjob.server.web_app": {*SDKS, "flask"},
    "polyjob.app": {*SDKS, "wsproto"},
    "runners.process.runner": {*WEB, *SDKS, *EMAIL, "marshmallow", "peewee", "polyjob", "ssl", "yaml"},
    "runners.process.keeper_server": {*WEB, *SDKS, *EMAIL, "marshmallow", "peewee", "polyjob", "ssl", "yaml"},
}
"""A module that a process begins with → modules that it must not import."""


@pytest.mark.parametrize("name", MODULES)
def test_process_imports_no_module_that_it_does_not_need(name):
    program = f"import sys, {name}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert not MODULES[name] & set(done.stdout.split())
