"""The settings of a project, the users of the server, and the page of an invite link."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from polyjob.auth import invites, members, users
from polyjob.auth.roles import Role
from polyjob.db.database import write
from polyjob.db.models import InviteLink, Member, Project, User
from tests.pages.helpers import EVIL, read, sign_in

SETTINGS = "/ana/demo/settings"


@pytest.fixture
def bob(visitor: FlaskClient, user: User) -> FlaskClient:
    client = visitor.application.test_client()
    sign_in(client, users.create("bob"))
    return client


def send(client: FlaskClient, page: str, path: str, **fields: str) -> TestResponse:
    """Submit a form of a page."""
    csrf_token = re.search(r'name="csrf_token" value="(\w+)"', client.get(page).text)
    assert csrf_token
    sent = {"csrf_token": csrf_token.group(1)} | fields
    return client.post(path, data=sent, headers={"Origin": "http://localhost"})


def test_owner_adds_and_removes_members(client: FlaskClient, project: Project, bob: FlaskClient) -> None:
    assert SETTINGS in read(client, "/ana/demo").links
    read(bob, "/ana/demo", 404)
    assert send(client, SETTINGS, f"{SETTINGS}/members", username="bob", role="submit").status_code == 303
    assert "bobsubmit" in re.sub(r"\s", "", read(client, SETTINGS).text)
    assert SETTINGS not in read(bob, "/ana/demo").links
    assert "/ana/demo/submit" in read(bob, "/ana/demo").links
    assert "/ana/demo" in read(bob, "/projects").links
    read(bob, SETTINGS, 403)
    assert send(client, SETTINGS, f"{SETTINGS}/members/bob/remove").status_code == 303
    read(bob, "/ana/demo", 404)


def test_member_chooses_among_their_projects(client: FlaskClient, project: Project, bob: FlaskClient) -> None:
    members.set_role(project, "bob", Role.SUBMIT)
    assert bob.get("/submit").location == "/ana/demo/submit"
    assert "ana.demo" in bob.get("/keys").text


def test_manager_can_leave(project: Project, bob: FlaskClient) -> None:
    members.set_role(project, "bob", Role.MANAGE)
    assert send(bob, SETTINGS, f"{SETTINGS}/members/bob/remove").location == "/"
    assert Member.select().count() == 0


def test_project_is_changed(client: FlaskClient, project: Project) -> None:
    answer = send(client, SETTINGS, SETTINGS, name="new", description=EVIL, access="public")
    assert answer.location == "/ana/new/settings"
    changed = Project.get()
    assert (changed.name, changed.description, changed.is_public) == ("new", EVIL, True)
    assert "script" not in read(client, "/ana/new/settings").tags


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (f"{SETTINGS}/members", {"username": "nobody", "role": "read"}, "username"),
        (f"{SETTINGS}/members", {"username": "ana", "role": "x"}, "role"),
        (f"{SETTINGS}/members", {"username": "", "role": "read"}, "username"),
        (SETTINGS, {"name": "a b", "access": "private"}, "name"),
        (SETTINGS, {"name": "jobs", "access": "private"}, "name"),
    ],
)
def test_error_is_shown_beside_its_field(
    client: FlaskClient, project: Project, path: str, fields: dict[str, str], name: str
) -> None:
    answer = send(client, SETTINGS, path, **fields)
    assert answer.status_code == 400
    assert f'id="{name}-error"' in answer.text


def test_project_is_archived_and_restored(client: FlaskClient, project: Project) -> None:
    assert send(client, SETTINGS, f"{SETTINGS}/archive").location == "/projects"
    assert Project.get().archived_at is not None
    page = client.get("/projects").text
    assert f'action="{SETTINGS}/restore"' in page
    read(client, "/ana/demo", 404)
    assert send(client, "/new-project", f"{SETTINGS}/restore").location == "/ana/demo"
    assert Project.get().archived_at is None


def test_deletion_of_a_project_asks_first(client: FlaskClient, project: Project) -> None:
    path = f"{SETTINGS}/delete"
    assert path in read(client, SETTINGS).links
    assert "0 jobs and 0 builds are stopped and deleted" in read(client, path).text
    assert Project.get().deleted_at is None
    assert send(client, path, path).location == "/projects"
    assert Project.get().deleted_at is not None


class TestInvites:
    @pytest.fixture
    def admin(self, client: FlaskClient, user: User) -> FlaskClient:
        with write("test"):
            User.update(is_admin=True).where(User.id == user.id).execute()
        return client

    def path_of_link(self, html: str) -> str:
        match = re.search(r"http://localhost(/users/invite/\w+)", html)
        assert match
        return match[1]

    def test_users_page_is_for_administrators(self, client: FlaskClient) -> None:
        read(client, "/users", 403)

    def test_invited_person_chooses_name_and_password(self, admin: FlaskClient, project: Project) -> None:
        assert "/users" in read(admin, "/status").links
        answer = send(admin, "/users", "/users/invite", project="ana/demo", role="submit")
        assert answer.status_code == 201
        path, person = self.path_of_link(answer.text), admin.application.test_client()
        assert "to the project ana/demo with the role submit" in read(person, path).text
        fields = {"username": "zoe", "password": "a long password", "again": "a long password"}
        assert send(person, path, path, **fields).location == "/ana/demo"
        assert "Welcome, zoe" in read(person, "/ana/demo").text
        assert "Invalid invite link" in read(admin.application.test_client(), path, 410).text
        assert "zoe" in read(admin, "/users").text

    def test_open_invites_are_shown_and_withdrawn(self, admin: FlaskClient, user: User, project: Project) -> None:
        assert "Open invites" not in read(admin, "/users").text + read(admin, SETTINGS).text
        links = [invites.create_invite(user), invites.create_invite(user, project, Role.READ)]
        assert all(link.id[:8] in read(admin, "/users").text for link in links)
        shown = read(admin, SETTINGS).text
        assert [link.id[:8] in shown for link in links] == [False, True]
        assert send(admin, SETTINGS, f"{SETTINGS}/invites/{links[0].id}/withdraw").status_code == 404
        assert send(admin, SETTINGS, f"{SETTINGS}/invites/{links[1].id}/withdraw").location == SETTINGS
        assert send(admin, "/users", f"/users/invites/{links[0].id}/withdraw").location == "/users"
        assert InviteLink.select().count() == 0

    def test_users_are_shown_on_pages(self, admin: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("polyjob.pages.users.PAGE_SIZE", 2)
        for name in ("bob", "carl"):
            users.create(name)
        first, second = read(admin, "/users"), read(admin, "/users?page=2")
        assert ["bob" in first.text, "carl" in first.text, "carl" in second.text] == [True, False, True]
        assert "/users?page=2" in first.links
        assert "/users?page=3" not in second.links

    def test_link_is_not_used_up_by_looking_at_it(self, admin: FlaskClient, user: User) -> None:
        path = f"/users/invite/{invites.create_invite(user).token}"
        person = admin.application.test_client()
        for method in ("HEAD", "GET", "GET"):
            assert person.open(path, method=method).status_code == 200
        assert InviteLink.select().count() == 1

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"username": "", "password": "a long password", "again": "a long password"}, "username"),
            ({"username": "ana", "password": "a long password", "again": "a long password"}, "username"),
            ({"username": "zoe", "password": "short", "again": "short"}, "password"),
            ({"username": "zoe", "password": "a long password", "again": "another"}, "again"),
        ],
    )
    def test_error_is_shown_beside_its_field(
        self, admin: FlaskClient, user: User, fields: dict[str, str], name: str
    ) -> None:
        path = f"/users/invite/{invites.create_invite(user).token}"
        answer = send(admin.application.test_client(), path, path, **fields)
        assert answer.status_code == 400
        assert f'id="{name}-error"' in answer.text
        assert User.select().count() == 1
        assert InviteLink.select().count() == 1

    def test_unknown_project_is_shown_beside_its_field(self, admin: FlaskClient) -> None:
        answer = send(admin, "/users", "/users/invite", project="ana/none", role="submit")
        assert (answer.status_code, 'id="project-error"' in answer.text) == (400, True)


class TestUsers:
    @pytest.fixture
    def admin(self, client: FlaskClient, user: User, bob: FlaskClient) -> FlaskClient:
        with write("test"):
            User.update(is_admin=True).where(User.id == user.id).execute()
        return client

    def test_users_are_changed_by_buttons(self, admin: FlaskClient) -> None:
        for verb, column, value in [
            ("deactivate", "is_active", False),
            ("activate", "is_active", True),
            ("grant", "is_admin", True),
            ("revoke", "is_admin", False),
        ]:
            path = f"/users/account/bob/{verb}"
            assert path in admin.get("/users").text
            assert send(admin, "/users", path).status_code == 303
            assert getattr(users.find("bob"), column) is value
        assert "/users/account/ana/" not in admin.get("/users").text

    def test_deletion_asks_first(self, admin: FlaskClient) -> None:
        path = "/users/account/bob/delete"
        assert "Delete user bob?" in read(admin, path).text
        assert send(admin, path, path).status_code == 303
        assert "bob was deleted" in read(admin, "/users").text

    def test_user_with_projects_is_not_deleted(self, admin: FlaskClient, project: Project) -> None:
        assert send(admin, "/users", "/users/account/ana/delete").status_code == 409

    def test_changes_are_for_administrators(self, admin: FlaskClient, bob: FlaskClient) -> None:
        assert bob.post("/users/account/bob/grant").status_code == 403
        assert not users.find("bob").is_admin


class TestAudit:
    def test_page_is_for_administrators(self, client: FlaskClient) -> None:
        read(client, "/audit", 403)

    def test_changes_are_listed_and_filtered(self, client: FlaskClient, project: Project, user: User) -> None:
        with write("test"):
            User.update(is_admin=True).where(User.id == user.id).execute()
        send(client, SETTINGS, SETTINGS, name="demo", description=EVIL, access="private")
        users.create("bob")
        send(client, SETTINGS, f"{SETTINGS}/members", username="bob", role="read")
        page = read(client, "/audit")
        text = " ".join(page.text.split())
        assert "add member ana.demo user: bob, role: read" in text
        assert text.index("add member") < text.index("update ana.demo")
        assert "No changes" in read(client, "/audit?user=bob").text
        assert "No changes" in read(client, "/audit?kind=job").text
        assert "add member" in read(client, "/audit?kind=project&user=ana").text
        assert "No changes" in read(client, "/audit?page=2").text
        read(client, "/audit?page=x&kind=y")

    def test_pages_are_linked(self, client: FlaskClient, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
        with write("test"):
            User.update(is_admin=True).where(User.id == user.id).execute()
        monkeypatch.setattr("polyjob.pages.audit.PAGE_SIZE", 1)
        for name in ("a", "b"):
            send(client, "/new-project", "/new-project", name=name, access="private")
        assert "?kind=project&page=2" in read(client, "/audit?kind=project").links
        assert "?kind=project" in read(client, "/audit?kind=project&page=2").links
