"""`polyjob members` and `polyjob user invite`."""

from __future__ import annotations

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


def test_members_are_managed(server: Server) -> None:
    assert polyjob(server, "user", "create", "carl", "--no-password").returncode == 0
    added = polyjob(server, "members", "add", "carl", "--role", "read")
    assert (added.returncode, added.stderr) == (0, b"carl has the role read in root/quick-start.\n")
    assert [row["role"] for row in json_of(server, "members", "ls", "--json")] == ["read"]
    assert b"carl" in polyjob(server, "members", "ls").stdout
    assert polyjob(server, "members", "rm", "carl").returncode == 0
    again = polyjob(server, "members", "rm", "carl")
    assert (again.returncode, b"not a member" in again.stderr) == (1, True)
    missing = polyjob(server, "members", "add", "nobody")
    assert b"username: There is no active user `nobody`." in missing.stderr
    assert polyjob(server, "user", "delete", "carl").returncode == 0


def test_invite_prints_a_link(server: Server) -> None:
    invited = polyjob(server, "user", "invite", "-p", "quick-start")
    assert b"/users/invite/" in invited.stdout
    assert b"The link works once" in invited.stderr
    invite_id = json_of(server, "user", "invites", "-p", "quick-start", "--json")[-1]["id"]
    assert f"`polyjob user withdraw {invite_id}` ends it earlier".encode() in invited.stderr
    assert json_of(server, "user", "invite", "-p", "quick-start", "--role", "read", "--json")["role"] == "read"
    assert polyjob(server, "user", "invite", "--role", "read").returncode == 2


def test_open_invites_are_listed_and_withdrawn(server: Server) -> None:
    polyjob(server, "user", "invite", "-p", "quick-start", "--role", "read")
    polyjob(server, "user", "invite")
    everywhere, here = (
        json_of(server, "user", "invites", "--json"),
        json_of(server, "user", "invites", "-p", "quick-start", "--json"),
    )
    assert {link["project"] for link in everywhere} == {"root.quick-start", None}
    assert {link["project"] for link in here} == {"root.quick-start"}
    assert here[0]["id"].encode() in polyjob(server, "user", "invites").stdout
    for link in everywhere:
        words = ["-p", "quick-start"] if link["project"] else []
        assert polyjob(server, "user", "withdraw", link["id"], *words).returncode == 0
    again = polyjob(server, "user", "withdraw", here[0]["id"])
    assert (again.returncode, b"no such open invite" in again.stderr) == (1, True)
