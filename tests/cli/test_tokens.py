"""`polyjob token`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


def test_token_works_until_it_is_revoked(server: Server) -> None:
    options = ["--scope", "read", "-p", "quick-start", "--days", "1"]
    token = polyjob(server, "token", "create", "ci", *options).stdout.decode().strip()
    assert polyjob(server, "ls", POLYJOB_TOKEN=token).returncode == 0
    assert b"`submit`" in polyjob(server, "run", "--", "true", POLYJOB_TOKEN=token).stderr
    row = next(row for row in json_of(server, "token", "ls", "--json") if row["name"] == "ci")
    assert b"ci" in polyjob(server, "token", "ls").stdout
    assert polyjob(server, "token", "revoke", str(row["id"])).returncode == 0
    assert polyjob(server, "ls", POLYJOB_TOKEN=token).returncode == 1


def test_link_signs_a_browser_in(server: Server) -> None:
    link = polyjob(server, "token", "link").stdout.decode().strip()
    assert link.startswith(f"http://127.0.0.1:{server.port}/sign-in/")
    assert server.call("GET", link.partition(str(server.port))[2]).status == 303


def test_link_of_another_data_folder_has_its_address(server: Server, tmp_path: Path) -> None:
    done = polyjob(server, "token", "link", "--data-dir", str(server.data_dir), POLYJOB_DATA_DIR=str(tmp_path))
    assert done.stdout.decode().startswith(f"http://127.0.0.1:{server.port}/sign-in/")
