from __future__ import annotations

from collections.abc import Iterator

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
