"""`polyjob user`."""

from __future__ import annotations

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


def test_users_are_managed(server: Server) -> None:
    assert polyjob(server, "user", "create", "bob", data=b"a long password\n").stdout == b"bob\n"
    assert polyjob(server, "user", "create", "eva", "--no-password", "--admin").returncode == 0
    assert [row["username"] for row in json_of(server, "user", "ls", "--json")] == ["bob", "eva", "root"]
    for verb in ("deactivate", "activate", "grant", "revoke"):
        assert polyjob(server, "user", verb, "bob").returncode == 0
    assert polyjob(server, "user", "password", "bob", data=b"a longer password\n").returncode == 0
    assert b"bob" in polyjob(server, "user", "ls").stdout
    for name in ("bob", "eva"):
        assert polyjob(server, "user", "delete", name).returncode == 0
