"""Members of projects, and invite links."""

from __future__ import annotations

import contextlib
import datetime
import threading

import pytest

from polyjob.auth import identity, invites, members, users
from polyjob.auth.roles import Role
from polyjob.clock import now
from polyjob.db import database as db
from polyjob.db.database import database, write
from polyjob.db.models import InviteLink, Job, Member, Project, Token, User
from polyjob.errors import Conflict, Invalid, NotFound
from polyjob.statuses import Status

from .conftest import BASE, JOBS, Client, pointers

MEMBERS = f"{BASE}/members"
INVITE = "/api/v1/users/invite"


def add(client, username="bob", role="submit"):
    return client.post(MEMBERS, {"username": username, "role": role})


class TestMembers:
    def test_member_is_added_changed_and_removed(self, client, other):
        added = add(client)
        assert added.status_code == 201
        assert (added.json["username"], added.json["role"]) == ("bob", "submit")
        assert add(client, role="read").json["created_at"] == added.json["created_at"]
        assert [(row["username"], row["role"]) for row in client.get(MEMBERS).json["results"]] == [("bob", "read")]
        assert client.delete(f"{MEMBERS}/bob").status_code == 204
        assert client.get(MEMBERS).json["count"] == 0
        assert other.get(BASE).status_code == 404

    def test_lists_include_the_projects_of_a_member(self, client, other):
        client.submit()
        paths = ["/api/v1/projects", "/api/v1/ana", "/api/v1/ana/projects/names", "/api/v1/projects/jobs"]
        assert [other.get(path).json["count"] for path in paths] == [0, 0, 0, 0]
        add(client, role="read")
        assert [other.get(path).json["count"] for path in paths] == [1, 1, 1, 1]
        client.delete(f"{MEMBERS}/bob")
        assert [other.get(path).json["count"] for path in paths] == [0, 0, 0, 0]

    def test_member_submits_in_their_own_name(self, client, other):
        add(client)
        job = other.submit()
        assert (job["user"], job["unique_name"]) == ("bob", "ana.demo.jobs.1")

    def test_archived_jobs_are_listed_to_members_who_can_restore_them(self, client, other):
        client.post(f"{JOBS}/{client.submit()['id']}/archive")
        for role, count in (("read", 0), ("submit", 1)):
            add(client, role=role)
            assert other.get("/api/v1/projects/jobs?query=archived:true").json["count"] == count

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"username": "nobody", "role": "read"}, ["/username"]),
            ({"username": "ana", "role": "read"}, ["/username"]),
            ({"username": "bob", "role": "owner"}, ["/role"]),
            ({"username": 3, "role": "read"}, ["/username"]),
            ({}, ["/username", "/role"]),
            ({"username": "bob", "role": None}, ["/role"]),
        ],
    )
    def test_invalid_member_is_refused(self, client, other, body, pointer):
        assert pointers(client.post(MEMBERS, body)) == pointer
        assert Member.select().count() == 0

    def test_inactive_user_cannot_be_added(self, client, other):
        users.set_active(users.find("bob"), False)
        assert pointers(add(client)) == ["/username"]

    def test_owner_cannot_be_removed(self, client, other):
        add(client, role="manage")
        assert other.delete(f"{MEMBERS}/ana").status_code == 409
        assert other.delete(f"{MEMBERS}/bob").status_code == 204
        assert client.get(BASE).status_code == 200

    def test_removal_of_a_stranger_is_not_found(self, client, other):
        assert client.delete(f"{MEMBERS}/bob").status_code == 404

    def test_number_of_members_is_limited(self, client, other, monkeypatch):
        monkeypatch.setattr(members, "MAX_MEMBERS", 1)
        add(client)
        users.create("eva")
        assert add(client, "eva").status_code == 409
        assert add(client, "bob", "read").status_code == 201

    def test_deleted_user_is_no_member_any_more(self, client, other, admin):
        add(client)
        other.submit()
        assert admin.delete("/api/v1/users/delete/bob").status_code == 204
        assert client.get(MEMBERS).json["count"] == 0

    def test_activated_user_has_the_role_again(self, app, client, other, admin):
        add(client)
        admin.post("/api/v1/users/deactivate/bob")
        assert other.get(BASE).status_code == 401
        admin.post("/api/v1/users/activate/bob")
        assert Client(app, users.create_token(users.find("bob"), "new")[1]).get(BASE).status_code == 200

    def test_deleted_project_has_no_members(self, client, other):
        add(client)
        with write("test"):
            Project.delete().execute()
        assert Member.select().count() == 0

    def test_token_bound_to_a_project_ends_with_the_role(self, app, client, other):
        add(client)
        assert other.post("/api/v1/tokens", {"name": "ci", "project": "ana.demo"}).status_code == 201
        bound = Client(app, users.create_token(users.find("bob"), "t", project=Project.get())[1])
        bound.submit()
        client.delete(f"{MEMBERS}/bob")
        assert bound.get(JOBS).status_code == 404
        assert bound.post(JOBS, {"config": {"run": {"cmd": "true"}}}).status_code == 404
        assert Token.select().where(Token.project == Project.get()).count() == 2

    def test_follower_of_a_log_loses_access_with_the_role(self, app, client, other, project):
        add(client, role="read")
        with app.test_request_context(headers=other.headers):
            identity.authenticate()
            may_still_read = identity.access_check(project.id)
        assert may_still_read()
        client.delete(f"{MEMBERS}/bob")
        assert not may_still_read()

    def test_jobs_of_a_removed_member_go_on(self, client, other):
        add(client)
        job = other.submit()
        client.delete(f"{MEMBERS}/bob")
        assert Job.get().status is Status.CREATED
        assert client.get(f"{JOBS}/{job['id']}").json["user"] == "bob"

    def test_changes_leave_audit_entries(self, client, other, admin):
        add(client)
        add(client, role="manage")
        client.delete(f"{MEMBERS}/bob")
        entries = admin.get("/api/v1/audit?kind=project").json["results"]
        assert [entry["action"] for entry in entries] == ["remove member", "change member", "add member"]
        assert entries[1]["details"] == {"user": "bob", "role": "manage"}


class TestInvites:
    def test_link_is_shown_once_and_stored_as_a_digest(self, admin):
        link = admin.post(INVITE).json
        assert (link["project"], link["role"]) == (None, None)
        assert link["url"].startswith("http://localhost/users/invite/")
        assert InviteLink.get().digest not in link["url"]

    def test_link_gives_a_role_in_a_project(self, admin):
        link = admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json
        assert (link["project"], link["role"]) == ("ana.demo", "read")
        user = accept(link)
        assert members.list_members(Project.get()).get().user == user

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"project": "ana.demo"}, "/role"),
            ({"role": "read"}, "/project"),
            ({"project": "ana.none", "role": "read"}, "/project"),
            ({"project": "ana.demo", "role": "x"}, "/role"),
            ({"project": 3, "role": "read"}, "/project"),
        ],
    )
    def test_invalid_invite_is_refused(self, admin, body, pointer):
        assert pointers(admin.post(INVITE, body)) == [pointer]

    def test_invites_are_for_administrators(self, client, anonymous):
        assert client.post(INVITE).status_code == 403
        assert anonymous.post(INVITE).status_code == 401

    def test_expiring_token_cannot_invite(self, app, admin):
        expiring = users.create_token(users.find("eva"), "t", datetime.timedelta(hours=1))[1]
        assert Client(app, expiring).post(INVITE).status_code == 403

    def test_link_works_once(self, admin):
        link = admin.post(INVITE).json
        accept(link)
        assert invites.find_invite(token_of(link)) is None

    @pytest.mark.parametrize("end", ["expired", "revoked", "deactivated", "project deleted"])
    def test_withdrawn_link_is_invalid(self, admin, end):
        link = admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json
        with write("test"):
            if end == "expired":
                InviteLink.update(expires_at=now() - datetime.timedelta(seconds=1)).execute()
            elif end == "project deleted":
                Project.update(deleted_at=now()).execute()
            else:
                User.update({User.is_admin if end == "revoked" else User.is_active: False}).execute()
        assert invites.find_invite(token_of(link)) is None

    def test_refused_name_leaves_the_link_valid(self, admin):
        link = admin.post(INVITE).json
        for name in ("ANA", "no/name", "admin"):
            with pytest.raises(Invalid) as refused:
                invites.accept_invite(token_of(link), name, "a long password", None)
            assert [problem.pointer for problem in refused.value.problems] == ["/username"]
        assert accept(link).username == "zoe"

    def test_crash_leaves_the_link_valid(self, admin, monkeypatch):
        link = admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json

        def die(name):
            if name == "accept-invite:before":
                raise SystemExit(name)

        monkeypatch.setattr(db, "crash_point", die)
        with pytest.raises(SystemExit):
            accept(link)
        assert (User.get_or_none(User.username == "zoe"), Member.select().count()) == (None, 0)
        monkeypatch.undo()
        accept(link)

    def test_concurrent_uses_create_one_user(self, admin):
        link, barrier, created = admin.post(INVITE).json, threading.Barrier(4), []

        def race(name):
            barrier.wait()
            with contextlib.suppress(NotFound):
                created.append(invites.accept_invite(token_of(link), name, "a long password", None))
            database.close()

        threads = [threading.Thread(target=race, args=(f"user-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(created) == 1
        assert User.select().where(User.username.startswith("user-")).count() == 1

    def test_full_project_leaves_the_link_valid(self, admin, monkeypatch):
        link = admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json
        monkeypatch.setattr(members, "MAX_MEMBERS", 0)
        with pytest.raises(Conflict):
            accept(link)
        assert User.get_or_none(User.username == "zoe") is None
        monkeypatch.setattr(members, "MAX_MEMBERS", 1)
        accept(link)

    def test_new_user_is_in_the_audit_trail(self, admin):
        accept(admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json)
        entries = admin.get("/api/v1/audit").json["results"]
        shown = [(entry["user"], entry["action"], entry["target"]) for entry in entries[:3]]
        assert shown == [("zoe", "add member", "ana.demo"), ("zoe", "create", "zoe"), ("eva", "invite", "server")]
        assert entries[1]["details"] == {"invited_by": "eva"}


class TestOpenInvites:
    @pytest.fixture
    def links(self, admin):
        """An invite to the server, and one to the project."""
        return admin.post(INVITE).json, admin.post(INVITE, {"project": "ana.demo", "role": "read"}).json

    def test_links_are_listed_without_their_tokens(self, admin, client, links):
        found = admin.get("/api/v1/users/invites").json["results"]
        assert found == [{name: value for name, value in link.items() if name != "url"} for link in links]
        assert [(link["project"], link["role"], link["created_by"]) for link in found] == [
            (None, None, "eva"), ("ana.demo", "read", "eva"),
        ]  # fmt: skip
        assert client.get(f"{BASE}/invites").json["results"] == found[1:]

    def test_withdrawn_link_is_invalid(self, admin, links):
        assert admin.delete(f"/api/v1/users/invites/{links[0]['id']}").status_code == 204
        assert [invites.find_invite(token_of(link)) is None for link in links] == [True, False]
        assert admin.get("/api/v1/users/invites").json["count"] == 1
        assert admin.delete(f"/api/v1/users/invites/{links[0]['id']}").status_code == 404

    def test_manager_withdraws_links_of_the_project_only(self, client, other, links):
        for link, status in zip(links, (404, 204), strict=True):
            assert client.delete(f"{BASE}/invites/{link['id']}").status_code == status
        assert other.get(f"{BASE}/invites").status_code == 404
        assert client.get("/api/v1/users/invites").status_code == 403

    @pytest.mark.parametrize("invite_id", ["x", "", "%25", "abc", "0" * 16])
    def test_unknown_link_is_not_found(self, admin, links, invite_id):
        assert admin.delete(f"/api/v1/users/invites/{invite_id}").status_code in (404, 405)
        assert InviteLink.select().count() == 2

    def test_links_that_cannot_be_used_are_not_listed(self, admin, links):
        accept(links[0])
        with write("test"):
            InviteLink.update(expires_at=now() - datetime.timedelta(seconds=1)).execute()
        assert admin.get("/api/v1/users/invites").json["count"] == 0

    def test_withdrawal_is_in_the_audit_trail(self, admin, links):
        admin.delete(f"/api/v1/users/invites/{links[1]['id']}")
        entry = admin.get("/api/v1/audit").json["results"][0]
        assert (entry["action"], entry["target"]) == ("withdraw invite", "server")
        assert entry["details"] == {"invited_by": "eva", "project": "ana.demo", "role": "read"}

    def test_killed_withdrawal_leaves_the_link_valid(self, admin, links, monkeypatch):
        def die(name):
            if name == "withdraw-invite:before":
                raise SystemExit(name)

        monkeypatch.setattr(db, "crash_point", die)
        with pytest.raises(SystemExit):
            invites.withdraw(links[0]["id"])
        assert invites.find_invite(token_of(links[0]))


def token_of(link):
    return link["url"].rsplit("/", 1)[1]


def accept(link):
    return invites.accept_invite(token_of(link), "zoe", "a long password", "192.0.2.1")


def test_role_includes_those_before_it():
    assert [[str(low) for low in Role if high.covers(low)] for high in Role] == [
        ["read"],
        ["read", "submit"],
        ["read", "submit", "manage"],
    ]
