from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.helpers import finished_job
from tests.e2e.conftest import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server for all tests of commands."""
    with Server(tmp_path_factory.mktemp("cli"), slots="3") as server:
        yield server


@pytest.fixture(scope="session")
def done_job(server: Server) -> str:
    """The number of a finished job with a log of 100 lines and one output file."""
    return finished_job(server, "seq 100; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in `key.pem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path / "certificate.pem"
    words = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(path)]
    subprocess.run(words, capture_output=True, check=True)
    return path
