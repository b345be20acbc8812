"""Every route of the API, called by every kind of caller; and the page that lists the permissions."""

from __future__ import annotations

import datetime
import inspect
import re
from pathlib import Path

import pytest
from flask import Flask

from polyjob.auth import invites, members, permissions, sessions, users
from polyjob.auth.permissions import Access, declared, refuse_undeclared, requires
from polyjob.auth.roles import Role
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import job_token
from polyjob.connections import BODY_IS_LATE
from polyjob.db.database import database, write
from polyjob.db.models import Build, InviteLink, Job, Meta, Project, Token, User
from polyjob.services import builds, job_secrets, schedules, submission, webhooks
from polyjob.services.transitions import transition
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, Client

GUIDE = Path(__file__).parent.parent.parent / "docs" / "permissions.md"
OK, UNAUTHENTICATED, FORBIDDEN, NOT_FOUND = "ok", 401, 403, 404
INVITE_ID = "f" * 16
SCOPES = ["read", "submit", "admin"]
LEAST_SCOPE = {
    "read": "read",
    "submit": "submit",
    "bookmark": "submit",
    "manage": "admin",
    "account": "admin",
    "administrator": "admin",
}
"""Access level → the least scope of a token, repeated here independently of the code."""
BODIES = {
    "create_user": {"username": "new"},
    "create_token": {"name": "new"},
    "set_password": {"password": "a long password"},
    "create_project": {"name": "new"},
    "create_webhook": {"url": "https://example.org/"},
    "set_secret": {"value": "a long value"},
    "set_server_secret": {"value": "a long value"},
    "create_job": {"config": CONFIG},
    "create_sweep": {"config": CONFIG, "sweep": {"lr": [1]}},
    "create_schedule": {"cron": "0 3 * * *", "job": {"config": CONFIG}},
    "create_build": {"config": {"build": {"image": "a"}}},
    "stop_jobs": {"ids": [1]},
    "delete_jobs": {"ids": [1]},
    "log_in": {"username": "ana", "password": "x"},
    "add_member": {"username": "bob", "role": "read"},
}


def operations(app):
    """Yield (endpoint, method, path) of every operation of the API, with the ids of existing objects."""
    ids = {"job_id": 1, "build_id": 1, "schedule_id": 1, "token_id": 1, "webhook_id": 1, "number": 1, "uuid": "0"}
    ids |= {"member": "eva", "name": "TOKEN", "invite_id": INVITE_ID}
    ids |= {"username": "ana", "project_name": "demo"}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/") or rule.endpoint.startswith("health."):
            path = re.sub(r"<(?:int:)?(\w+)>", lambda match: str(ids[match[1]]), rule.rule)
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield rule.endpoint, method, path.replace("users/delete/ana", "users/delete/bob")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
class TestOwnChanges:
    """Updates of a job with its own token."""

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"name": "mine"}, {"name": "mine"}),
            ({"description": "mine"}, {"description": "mine"}),
            ({"tags": ["a"], "merge": True}, {"tags": ["a"]}),
            ({"data_refs": {"ds": "0a1b"}, "merge": True}, {"data_refs": {"ds": "0a1b"}}),
            ({"params": {"lr": 1}, "merge": True}, {"params": {"lr": 1}}),
            ({"backend": "other"}, {"backend": "fake"}),
            ({"run_env": {"os": "linux"}}, {"description": None}),
            ({"inputs": [{"name": "x"}], "environment": {"labels": {"a": "b"}}}, {"config": CONFIG}),
        ],
    )
    def test_descriptive_fields_can_be_changed(self, app_with_runs, method, change, expected):
        response = caller(app_with_runs, "job").call(method, f"{BASE}/jobs/2", change)
        assert response.status_code == 200, response.text
        assert response.json | expected == response.json

    @pytest.mark.parametrize(
        "change",
        [
            {"readme": "r"},
            {"readme": None},
            {"original_job": 1},
            {"config": CONFIG},
            {"content": '{"run": {"cmd": "id"}}'},
            {"run": {"cmd": "id"}},
            {"name": "mine", "run": {"cmd": "id"}},
        ],
    )
    def test_other_changes_are_refused(self, app_with_runs, method, change):
        before = Job.get_by_id(2)
        assert caller(app_with_runs, "job").call(method, f"{BASE}/jobs/2", change).status_code == 403
        after = Job.get_by_id(2)
        assert (after.version, after.config, after.name) == (before.version, before.config, before.name)

    def test_other_jobs_are_not_changed(self, app_with_runs, method):
        version = Job.get_by_id(3).version
        assert caller(app_with_runs, "job").call(method, f"{BASE}/jobs/3", {"tags": ["a"]}).status_code == 403
        assert Job.get_by_id(3).version == version


def test_every_route_declares_a_permission(app):
    refuse_undeclared(app)
    levels = {declared(view).access for view in app.view_functions.values()}
    assert levels == {Access.OPEN, *map(Access, LEAST_SCOPE)}


def test_undeclared_route_is_refused():
    app = Flask("test", static_folder=None)
    app.add_url_rule("/a", "declared", requires(Access.OPEN)(lambda: ""))
    app.add_url_rule("/b", "forgotten", lambda: "")
    with pytest.raises(RuntimeError, match=r"on: forgotten$"):
        refuse_undeclared(app)


def test_view_of_the_api_has_one_endpoint(app):
    endpoints_of = {}
    for endpoint in {rule.endpoint for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("pages.")}:
        endpoints_of.setdefault(inspect.unwrap(app.view_functions[endpoint]), []).append(endpoint)
    assert len(endpoints_of) > 90
    assert [names for names in endpoints_of.values() if len(names) > 1] == []


@pytest.mark.parametrize("run", ["jobs", "builds"])
@pytest.mark.parametrize(
    "who", ["nobody", "unknown token", "job", "other job", "ended job", "read", "bound", "bound elsewhere", "stranger",
            "browser", "browser without its token"]
)  # fmt: skip
def test_paths_of_a_stream_have_the_same_permissions(app_with_runs, who, run):
    client = caller(app_with_runs, who)
    address = f"ana/demo/{run}/{2 if run == 'jobs' else 1}/logs"
    paths = [f"/api/v1/{address}/stream", f"/ws/v1/{address}", f"/v1/{address}", f"/ws/v1/{address}/"]
    statuses = [client.get(path).status_code for path in paths]
    assert len(set(statuses)) == 1
    status = expected(app_with_runs, f"streams.stream_{run.removesuffix('s')}_log", "GET", who)
    assert statuses[0] == (426 if status == OK else status)


def permission_of(app, endpoint):
    return declared(app.view_functions[endpoint])


SERVER_INVITES = ("invite_user", "list_all_invites", "withdraw_any_invite")
PROJECT_LISTS = ("create_project", "list_projects", "list_project_names", "list_all_projects")


def expected(app, endpoint, method, caller):
    """Return the status that the caller gets. Written independently of the code under test."""
    permission = permission_of(app, endpoint)
    blueprint, view = endpoint.split(".")
    in_project = (
        (
            blueprint in ("jobs", "statuses", "logs", "streams", "outputs", "builds", "schedules", "sweeps")
            and view != "list_all_jobs"
        )
        or (blueprint == "projects" and view not in PROJECT_LISTS)
        or (blueprint == "members" and view not in SERVER_INVITES)
        or endpoint == "audit.list_job_audit"
        or (blueprint == "webhooks" and view != "list_server_deliveries")
        or (blueprint == "secrets" and "server" not in view)
    )
    if permission.access == "open":
        return OK
    if caller in ("nobody", "unknown token", "expired", "inactive", "ended job"):
        return UNAUTHENTICATED
    if caller == "job":
        return OK if permission.job_token else FORBIDDEN
    if caller == "other job":
        return FORBIDDEN
    if caller == "browser without its token":
        is_change = method != "GET" or endpoint == "users.log_out"
        return OK if not is_change and permission.access != "administrator" else FORBIDDEN
    scope = caller if caller in SCOPES else "admin"
    if SCOPES.index(scope) < SCOPES.index(LEAST_SCOPE[permission.access]):
        return FORBIDDEN
    if caller in ("bound", "bound elsewhere") and permission.access in ("account", "administrator"):
        return FORBIDDEN
    if permission.access == "administrator":
        return OK if caller == "administrator" else FORBIDDEN
    if caller in ("bound elsewhere", "stranger") and in_project:
        return NOT_FOUND
    if caller == "stranger to a public project" and in_project:
        return OK if permission.access in ("read", "bookmark") else FORBIDDEN
    if caller.startswith("member to ") and in_project:
        levels = ["read", "bookmark", "submit", "manage"]
        highest = {"read": "bookmark"}.get(caller.removeprefix("member to "), caller.removeprefix("member to "))
        return OK if levels.index(permission.access) <= levels.index(highest) else FORBIDDEN
    return OK


CALLERS = [
    "nobody", "unknown token", "expired", "inactive", "job", "other job", "ended job", "read", "submit", "admin",
    "bound", "bound elsewhere", "administrator", "stranger", "stranger to a public project", "browser",
    "browser without its token", "member to read", "member to submit", "member to manage",
]  # fmt: skip


@pytest.fixture
def app_with_runs(app, settings, user, project):
    """The app. Ana has a stopped job, a running job, a queued job, a build and a webhook; bob owns nothing.

    An administrator has invited somebody to her project.
    """
    users.create("bob")
    invite = invites.create_invite(users.create("ida", is_admin=True), project, Role.READ)
    for status in (Status.STOPPED, Status.RUNNING, Status.CREATED):
        job = submission.create(project, user, {"config": CONFIG, "name": f"job-{status}"}, settings)
        with write("test"):
            if status is not Status.CREATED:
                transition(job, Status.SCHEDULED)
                transition(job, status)
    builds.create(project, user, {"config": {"version": 1, "kind": "build", "build": {"image": "a"}}}, settings)
    webhooks.create(project, user, "https://example.org/", None, settings)
    for owner in (project, None):
        job_secrets.set_secret(owner, user, "TOKEN", "a long value", settings.data_dir)
    schedules.create(project, user, {"cron": "0 3 * * *", "job": {"config": CONFIG}}, settings)
    with write("test"):
        Build.update(status=Status.STOPPED, finished_at=Job.get_by_id(1).finished_at).execute()
        InviteLink.update(digest=INVITE_ID).where(InviteLink.digest == invite.digest).execute()
    return app


def caller(app, who):
    """Return a client with the credentials of this kind of caller."""
    ana, bob = User.get(User.username == "ana"), User.get(User.username == "bob")
    demo, client = Project.get(), Client(app)

    def token(user, **options):
        options.setdefault("lifetime", None)
        return users.create_token(user, "test", **options)[1]

    def token_of_job(job_id):
        return job_token(Job.get_by_id(job_id).uuid, Meta.get_by_id("secret").value)

    if who.startswith("browser"):
        with app.test_request_context():
            sessions.sign_in(ana)
            from flask import session

            session_data = dict(session)
        with client.http.session_transaction() as session:
            session.update(session_data)
        client.headers = {"Origin": "http://localhost"}
        if who == "browser":
            client.headers["X-CSRF-Token"] = sessions.mask_secret(session_data["csrf"])
        return client
    if who == "nobody":
        return client
    if who == "stranger to a public project":
        with write("test"):
            Project.update(is_public=True).execute()
    if who == "bound elsewhere":
        with write("test"):
            other = Project.create(
                uuid="e" * 32, user=ana, name="other", is_public=False, created_at=demo.created_at,
                updated_at=demo.created_at,
            )  # fmt: skip
    if who.startswith("member to "):
        members.set_role(demo, "bob", Role(who.removeprefix("member to ")))
    new_tokens = {
        "unknown token": lambda: "f" * 40,
        "expired": lambda: token(ana, lifetime=datetime.timedelta(seconds=-1)),
        "inactive": lambda: token(ana),
        "job": lambda: token_of_job(2),
        "other job": lambda: token_of_job(3),
        "ended job": lambda: token_of_job(1),
        "read": lambda: token(ana, scope=Scope.READ),
        "submit": lambda: token(ana, scope=Scope.SUBMIT),
        "admin": lambda: token(ana),
        "bound": lambda: token(ana, project=demo),
        "bound elsewhere": lambda: token(ana, project=other),
        "administrator": lambda: token(users.create("eva", is_admin=True)),
        "stranger": lambda: token(bob),
        "stranger to a public project": lambda: token(bob),
        **{f"member to {role}": lambda: token(bob) for role in Role},
    }
    client.headers = {"Authorization": f"token {new_tokens[who]()}"}
    if who == "inactive":
        with write("test"):
            User.update(is_active=False).where(User.id == ana.id).execute()
    return client


@pytest.mark.parametrize("who", CALLERS)
def test_every_operation_enforces_its_permission(app_with_runs, who, monkeypatch):
    client = caller(app_with_runs, who)
    # Each operation is rolled back, so a submit must be part of that transaction.
    monkeypatch.setattr(submission, "write_in_group", lambda name, block: block())
    wrong = []
    for endpoint, method, path in sorted(operations(app_with_runs), key=lambda item: item[0] == "users.log_out"):
        if endpoint == "users.log_in":
            continue  # its 401 means a wrong password
        if who == "job":
            path = path.replace("/jobs/1", "/jobs/2")
        with database.atomic() as transaction:
            try:
                response = client.call(
                    method, path, BODIES.get(endpoint.split(".")[1], {} if method != "GET" else None)
                )
            finally:
                transaction.rollback()
        actual = response.status_code if response.status_code in (401, 403, 404) else OK
        status = expected(app_with_runs, endpoint, method, who)
        is_missing = actual == 404 and status == OK and endpoint in ALWAYS_MISSING
        if actual != status and not is_missing:
            wrong.append(f"{method} {path} ({permission_of(app_with_runs, endpoint)}): {actual}, not {status}")
    assert not wrong, "\n".join(wrong)


class Unread:
    """A body that never arrives."""

    def read(self, size=-1):
        raise AssertionError("the server waits for the body")


@pytest.mark.parametrize("who", [*CALLERS[:7], "read", "bound elsewhere", "stranger to a public project"])
def test_refused_request_is_answered_before_its_body_arrives(app_with_runs, who):
    client = caller(app_with_runs, who)
    environ = {"wsgi.input": Unread(), "wsgi.input_terminated": True, BODY_IS_LATE: True}
    wrong = []
    for endpoint, method, path in operations(app_with_runs):
        status = UNAUTHENTICATED if endpoint == "users.log_in" else expected(app_with_runs, endpoint, method, who)
        if method == "GET" or status == OK:
            continue
        response = client.call(method, path, content_type="application/json", environ_overrides=environ)
        if response.status_code != status:
            wrong.append(f"{method} {path}: {response.status_code}, not {status}")
    assert not wrong, "\n".join(wrong)


ALWAYS_MISSING = {
    "statuses.get_status", "builds.get_build_status", "logs.get_job_log", "projects.get_repository",
    "projects.download_code", "jobs.unbookmark_job", "builds.unbookmark_build", "projects.unbookmark_project",
    "tokens.revoke_token", "members.remove_member", "outputs.file_of_outputs",
}  # fmt: skip
"""Operations on objects that the fixture does not have. They return 404 if they are allowed."""


def test_bound_token_sees_only_its_project(app_with_runs):
    client = caller(app_with_runs, "bound elsewhere")
    assert [row["name"] for row in client.get("/api/v1/ana").json["results"]] == ["other"]
    assert client.get(f"{BASE}/jobs").status_code == 404
    for kind in ("jobs", "projects"):
        assert client.get(f"/api/v1/bookmarks/ana/{kind}").json["count"] == 0
    with write("test"):
        Job.update(archived_at=Job.get_by_id(1).finished_at).where(Job.id == 1).execute()
    assert client.get("/api/v1/archives/ana/jobs").json["count"] == 0
    assert caller(app_with_runs, "admin").get("/api/v1/archives/ana/jobs").json["count"] == 1


@pytest.mark.parametrize(
    ("heading", "table"), [("API routes", permissions.api_table), ("pages", permissions.pages_table)]
)
def test_docs_list_the_declared_permissions(app, heading, table):
    section = GUIDE.read_text().partition(f"<!-- {heading}:")[2].partition("<!-- end -->")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == table(app), "run tools/permission-tables"


def test_last_use_of_a_token_is_saved_once_a_minute(app_with_runs):
    client = caller(app_with_runs, "read")
    client.get(BASE)
    first = Token.get(Token.scope == "read").last_used_at
    assert first is not None
    client.get(BASE)
    assert Token.get(Token.scope == "read").last_used_at == first
    with write("test"):
        Token.update(last_used_at=first - datetime.timedelta(minutes=1)).where(Token.scope == "read").execute()
    client.get(BASE)
    assert Token.get(Token.scope == "read").last_used_at > first - datetime.timedelta(seconds=1)
