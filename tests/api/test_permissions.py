"""Who may ask for what: every operation by every kind of caller, and the page that says so."""

from __future__ import annotations

import datetime
import inspect
import re
from pathlib import Path

import pytest

from polyjob.auth import sessions, users
from polyjob.auth.permissions import NEEDS
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import run_token
from polyjob.connections import BODY_IS_LATE
from polyjob.db.database import database, write
from polyjob.db.models import Build, Job, Meta, Project, Token, User
from polyjob.services import builds, submission
from polyjob.services.transitions import transition
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, Client

GUIDE = Path(__file__).parent.parent.parent / "docs" / "permissions.md"
OK, NO_KEY, NOT_ALLOWED, NOT_THERE = "ok", 401, 403, 404
IN_ORDER = ["read", "submit", "admin"]
SCOPE = {
    "read": "read",
    "submit": "submit",
    "mark": "submit",
    "manage": "admin",
    "person": "admin",
    "administer": "admin",
}
"""What scope each need takes at least, said here a second time."""
BODIES = {
    "create_user": {"username": "new"},
    "create_token": {"name": "new"},
    "set_password": {"password": "a long password"},
    "create_project": {"name": "new"},
    "create_job": {"config": CONFIG},
    "create_build": {"config": {"build": {"image": "a"}}},
    "stop_jobs": {"ids": [1]},
    "delete_jobs": {"ids": [1]},
    "log_in": {"username": "ana", "password": "x"},
}


def operations(app):
    """(endpoint, method, address) of every operation of the API, pointed to what is there."""
    there = {"username": "ana", "project_name": "demo", "job_id": 1, "build_id": 1, "number": 1, "uuid": "0"}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/") or rule.endpoint.startswith("health."):
            path = re.sub(r"<(?:int:)?(\w+)>", lambda match: str(there[match[1]]), rule.rule)
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield rule.endpoint, method, path.replace("users/delete/ana", "users/delete/bob")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
class TestOwnChanges:
    """What a job's own token changes of its job."""

    @pytest.mark.parametrize(
        ("change", "shown"),
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
    def test_description_of_the_own_job_is_changed(self, there, method, change, shown):
        answer = caller(there, "job").call(method, f"{BASE}/jobs/2", change)
        assert answer.status_code == 200, answer.text
        assert answer.json | shown == answer.json

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
    def test_anything_else_is_refused(self, there, method, change):
        before = Job.get_by_id(2)
        assert caller(there, "job").call(method, f"{BASE}/jobs/2", change).status_code == 403
        after = Job.get_by_id(2)
        assert (after.version, after.config, after.name) == (before.version, before.config, before.name)

    def test_other_jobs_are_not_changed(self, there, method):
        version = Job.get_by_id(3).version
        assert caller(there, "job").call(method, f"{BASE}/jobs/3", {"tags": ["a"]}).status_code == 403
        assert Job.get_by_id(3).version == version


def test_every_operation_has_its_line(app):
    missing = sorted({endpoint for endpoint, _, _ in operations(app)} - NEEDS.keys())
    assert not missing, f"add to polyjob/auth/permissions.py: {missing}"
    assert NEEDS.keys() <= {endpoint for endpoint, _, _ in operations(app)}
    assert {need for need, _ in NEEDS.values()} == {"open", *SCOPE}


def test_view_of_the_api_is_one_operation(app):
    """Or two paths of the same thing could have different permissions."""
    operations_of = {}
    for endpoint in {rule.endpoint for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("pages.")}:
        operations_of.setdefault(inspect.unwrap(app.view_functions[endpoint]), []).append(endpoint)
    assert len(operations_of) > 90
    assert [names for names in operations_of.values() if len(names) > 1] == []


@pytest.mark.parametrize("run", ["jobs", "builds"])
@pytest.mark.parametrize(
    "who", ["nobody", "unknown key", "job", "other job", "ended job", "read", "bound", "bound elsewhere", "stranger",
            "browser", "browser without its token"]
)  # fmt: skip
def test_paths_of_a_stream_have_the_same_permissions(there, who, run):
    client = caller(there, who)
    address = f"ana/demo/{run}/{2 if run == 'jobs' else 1}/logs"
    paths = [f"/api/v1/{address}/stream", f"/ws/v1/{address}", f"/v1/{address}", f"/ws/v1/{address}/"]
    statuses = [client.get(path).status_code for path in paths]
    assert len(set(statuses)) == 1
    wanted = expected("streams.stream_job_log" if run == "jobs" else "streams.stream_build_log", "GET", who)
    assert statuses[0] == (426 if wanted == OK else wanted)


def expected(endpoint, method, caller):
    """What the caller gets, by rules that are told here in other words than in the code."""
    need, job_may = NEEDS[endpoint]
    in_project = endpoint.split(".")[0] in ("jobs", "statuses", "logs", "streams", "outputs", "builds") or (
        endpoint.startswith("projects.")
        and endpoint.split(".")[1] not in ("create_project", "list_projects", "list_project_names")
    )
    in_project |= endpoint == "audit.list_job_audit"
    if need == "open":
        return OK
    if caller in ("nobody", "unknown key", "expired", "inactive", "ended job"):
        return NO_KEY
    if caller == "job":
        return OK if job_may else NOT_ALLOWED
    if caller == "other job":
        return NOT_ALLOWED
    if caller == "browser without its token":
        changes = method != "GET" or endpoint == "users.log_out"
        return OK if not changes and need != "administer" else NOT_ALLOWED
    scope = caller if caller in IN_ORDER else "admin"
    if IN_ORDER.index(scope) < IN_ORDER.index(SCOPE[need]):
        return NOT_ALLOWED
    if caller in ("bound", "bound elsewhere") and need in ("person", "administer"):
        return NOT_ALLOWED
    if need == "administer":
        return OK if caller == "administrator" else NOT_ALLOWED
    if caller == "bound elsewhere" and in_project:
        return NOT_THERE
    if in_project and caller == "stranger":
        return NOT_THERE
    if in_project and caller == "stranger to a public project":
        return OK if need in ("read", "mark") else NOT_ALLOWED
    return OK


CALLERS = [
    "nobody", "unknown key", "expired", "inactive", "job", "other job", "ended job", "read", "submit", "admin",
    "bound", "bound elsewhere", "administrator", "stranger", "stranger to a public project", "browser",
    "browser without its token",
]  # fmt: skip


@pytest.fixture
def there(app, settings, user, project):
    """A job that is done, one that runs, a build; and bob, who owns nothing."""
    users.create("bob")
    for status in (Status.STOPPED, Status.RUNNING, Status.CREATED):
        job = submission.create(project, user, {"config": CONFIG, "name": f"job-{status}"}, settings)
        with write("test"):
            if status is not Status.CREATED:
                transition(job, Status.SCHEDULED)
                transition(job, status)
    builds.create(project, user, {"config": {"version": 1, "kind": "build", "build": {"image": "a"}}}, settings)
    with write("test"):
        Build.update(status=Status.STOPPED, finished_at=Job.get_by_id(1).finished_at).execute()
    return app


def caller(app, who):
    """A client that asks as `who`, and what it sends along."""
    ana, bob = User.get(User.username == "ana"), User.get(User.username == "bob")
    demo, client = Project.get(), Client(app)

    def key(user, **options):
        options.setdefault("life", None)
        return users.make_token(user, "test", **options)[1]

    def job_key(number):
        return run_token(Job.get_by_id(number).uuid, Meta.get_by_id("secret").value)

    if who.startswith("browser"):
        with app.test_request_context():
            sessions.sign_in(ana)
            from flask import session

            kept = dict(session)
        with client.http.session_transaction() as session:
            session.update(kept)
        client.headers = {"Origin": "http://localhost"}
        if who == "browser":
            client.headers["X-CSRF-Token"] = kept["csrf"]
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
    makers = {
        "unknown key": lambda: "f" * 40,
        "expired": lambda: key(ana, life=datetime.timedelta(seconds=-1)),
        "inactive": lambda: key(ana),
        "job": lambda: job_key(2),
        "other job": lambda: job_key(3),
        "ended job": lambda: job_key(1),
        "read": lambda: key(ana, scope=Scope.READ),
        "submit": lambda: key(ana, scope=Scope.SUBMIT),
        "admin": lambda: key(ana),
        "bound": lambda: key(ana, project=demo),
        "bound elsewhere": lambda: key(ana, project=other),
        "administrator": lambda: key(users.create("eva", is_admin=True)),
        "stranger": lambda: key(bob),
        "stranger to a public project": lambda: key(bob),
    }
    client.headers = {"Authorization": f"token {makers[who]()}"}
    if who == "inactive":
        with write("test"):
            User.update(is_active=False).where(User.id == ana.id).execute()
    return client


@pytest.mark.parametrize("who", CALLERS)
def test_every_operation_answers_as_the_table_says(there, who):
    client = caller(there, who)
    wrong = []
    for endpoint, method, path in sorted(operations(there), key=lambda item: item[0] == "users.log_out"):
        if endpoint == "users.log_in":
            continue  # its 401 is about the password
        if who == "job":
            path = path.replace("/jobs/1", "/jobs/2")
        with database.atomic() as transaction:
            try:
                answer = client.call(method, path, BODIES.get(endpoint.split(".")[1], {} if method != "GET" else None))
            finally:
                transaction.rollback()
        got = answer.status_code if answer.status_code in (401, 403, 404) else OK
        wanted = expected(endpoint, method, who)
        not_there_by_itself = got == 404 and wanted == OK and "there" not in who
        if got != wanted and not (not_there_by_itself and endpoint in NOT_THERE_ANYWAY):
            wrong.append(f"{method} {path} ({NEEDS[endpoint][0]}): {got}, not {wanted}")
    assert not wrong, "\n".join(wrong)


class Unread:
    """A body that the client does not send."""

    def read(self, size=-1):
        raise AssertionError("the body is waited for")


@pytest.mark.parametrize("who", [*CALLERS[:7], "read", "bound elsewhere", "stranger to a public project"])
def test_refused_request_is_answered_before_its_body_arrives(there, who):
    client = caller(there, who)
    environ = {"wsgi.input": Unread(), "wsgi.input_terminated": True, BODY_IS_LATE: True}
    wrong = []
    for endpoint, method, path in operations(there):
        wanted = NO_KEY if endpoint == "users.log_in" else expected(endpoint, method, who)
        if method == "GET" or wanted == OK:
            continue
        answer = client.call(method, path, content_type="application/json", environ_overrides=environ)
        if answer.status_code != wanted:
            wrong.append(f"{method} {path}: {answer.status_code}, not {wanted}")
    assert not wrong, "\n".join(wrong)


NOT_THERE_ANYWAY = {
    "statuses.get_status", "builds.get_build_status", "logs.get_job_log", "projects.get_repository",
    "projects.download_code", "jobs.unbookmark_job", "builds.unbookmark_build", "projects.unbookmark_project",
    "tokens.revoke_token", "outputs.file_of_outputs",
}  # fmt: skip
"""What the fixture has nothing for: whoever may ask is told so."""


def test_a_bound_key_sees_its_project_alone(there):
    client = caller(there, "bound elsewhere")
    assert [row["name"] for row in client.get("/api/v1/ana").json["results"]] == ["other"]
    assert client.get(f"{BASE}/jobs").status_code == 404
    for kind in ("jobs", "projects"):
        assert client.get(f"/api/v1/bookmarks/ana/{kind}").json["count"] == 0
    with write("test"):
        Job.update(archived_at=Job.get_by_id(1).finished_at).where(Job.id == 1).execute()
    assert client.get("/api/v1/archives/ana/jobs").json["count"] == 0
    assert caller(there, "admin").get("/api/v1/archives/ana/jobs").json["count"] == 1


def test_the_guide_has_the_table(app):
    said = dict(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| ([a-z, ]+) \|$", GUIDE.read_text(), re.MULTILINE))
    table = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint in NEEDS:
            need, job_may = NEEDS[rule.endpoint]
            path = re.sub(r"<(?:int:)?(\w+)>", r"{\1}", rule.rule.removeprefix("/api/v1"))
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                table[f"{method} {path}"] = need + (", job" if job_may else "")
    assert said == table


def test_the_last_use_of_a_key_is_noted_once_a_minute(there):
    client = caller(there, "read")
    client.get(BASE)
    first = Token.get(Token.scope == "read").last_used_at
    assert first is not None
    client.get(BASE)
    assert Token.get(Token.scope == "read").last_used_at == first
    with write("test"):
        Token.update(last_used_at=first - datetime.timedelta(minutes=1)).where(Token.scope == "read").execute()
    client.get(BASE)
    assert Token.get(Token.scope == "read").last_used_at > first - datetime.timedelta(seconds=1)
