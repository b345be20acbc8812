"""The application that gunicorn loads before it forks the web workers."""

from __future__ import annotations

import subprocess
import sys

_SERVE = """
import sys
from wsgiref.util import setup_testing_defaults

from polyjob.api.health import required_schema_version
from polyjob.server.web_app import load_app

app = load_app()
before, looks = set(sys.modules), required_schema_version.cache_info().misses
environ = {"PATH_INFO": "/healthz"}
setup_testing_defaults(environ)
with app.request_context(environ):
    app.preprocess_request()
required_schema_version()
print(sorted(set(sys.modules) - before), required_schema_version.cache_info().misses - looks)
"""


def test_worker_imports_nothing_for_its_first_request():
    """Each worker would need memory of its own for such a module."""
    output = subprocess.run([sys.executable, "-c", _SERVE], capture_output=True, text=True, check=True).stdout
    assert output == "[] 0\n"
