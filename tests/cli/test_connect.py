"""Find the server and the token of a command."""

from __future__ import annotations

import pytest

from polyjob.cli.connect import connect
from tests.cli.helpers import invoke, polyjob
from tests.e2e.conftest import Server


@pytest.mark.parametrize("path", ["", "/", "/api/v1", "/api/v1/"])
def test_url_may_be_that_of_the_api(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYJOB_URL", f"gpu-box:8000{path}")
    assert connect().url == "http://gpu-box:8000"


@pytest.mark.parametrize(("words", "code"), [(["ls"], 1), (["run", "x"], 125), (["doctor"], 1), (["token", "link"], 1)])
def test_invalid_setting_is_reported(words: list[str], code: int) -> None:
    result = invoke(*words, POLYJOB_SLOTS="x")
    assert "POLYJOB_SLOTS" in result.stderr
    assert result.exit_code == code


def test_server_leaves_its_address_for_commands(server: Server) -> None:
    assert (server.data_dir / "address").read_text() == f"http://127.0.0.1:{server.port}\n"
    assert polyjob(server, "ls").returncode == 0
