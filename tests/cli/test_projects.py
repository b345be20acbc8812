"""`polyjob projects`."""

from __future__ import annotations

import pytest

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


@pytest.mark.parametrize("option", ["--description", "-d"])
def test_project_is_created_changed_and_deleted(server: Server, option: str) -> None:
    assert polyjob(server, "projects", "create", "p1", option, "words", "--public").stdout == b"root.p1\n"
    assert json_of(server, "projects", "show", "p1", "--json")["is_public"] is True
    assert b"words" in polyjob(server, "projects", "ls").stdout
    assert polyjob(server, "projects", "update", "p1", "--name", "p2", "--private").stdout == b"root.p2\n"
    assert b"root.p2" in polyjob(server, "projects", "show", "p2").stdout
    for verb in ("archive", "restore", "delete"):
        assert polyjob(server, "projects", verb, "p2").returncode == 0
    assert "root.p2" not in [row["unique_name"] for row in json_of(server, "projects", "ls", "--json")]
