"""Requests generated from the OpenAPI document: no response is an error of the server or undocumented."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from polyjob.auth import login as logins
from polyjob.auth import passwords, users
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, Schedule, User
from polyjob.services import builds, projects, schedules, submission
from polyjob.services.transitions import transition
from polyjob.statuses import Status
from tests.require import is_long_run

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12 if is_long_run() else 3
"""Examples of each operation, always with the same seed."""
CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}, "build": {"image": "a"}}

SHARES = 4
"""Number of tests that share the operations, so that they can run in parallel."""


@pytest.fixture
def document(app, settings, user, project, monkeypatch):
    monkeypatch.setattr(users, "hash_password", lambda password: f"plain${password}")
    monkeypatch.setattr(passwords, "user_with_password", lambda username, password: None)
    for limit in (logins._by_account, logins._by_address, logins._by_name):
        monkeypatch.setattr(limit, "max_failures", 1_000_000)
    app.testing = False  # so that a defect is answered as it would be: 500
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


@pytest.mark.parametrize("share", range(SHARES))
def test_no_answer_is_a_defect_or_undocumented(document, settings, share):
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 60
    for operation in operations[share::SHARES]:
        _try(operation, settings)


def test_events_of_a_log_are_as_documented(document, settings):
    token, path_values = _recreate_objects(settings)
    operation = document["/api/v1/{username}/{project_name}/jobs/{job_id}/logs"]["GET"]
    values = {name: path_values[name] for name in ("username", "project_name", "job_id")}
    case = operation.Case(path_parameters=values, query={"follow": "sse"})
    response = case.call(headers={"Authorization": f"token {token}", "Accept-Encoding": "identity"})
    assert "event: status" in response.text
    case.validate_response(response, checks=CHECKS)


def _try(operation, settings):
    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES,
        phases=[hypothesis.Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def try_one(case):
        token, path_values = _recreate_objects(settings)
        if len(repr(case.path_parameters)) % 5:  # most of the time; else everything would be a 404
            existing = {name: path_values[name] for name in case.path_parameters if name in path_values}
            case.path_parameters.update(existing)
        # Its client of an application in the same process does not decompress.
        response = case.call(headers={"Authorization": f"token {token}", "Accept-Encoding": "identity"})
        says_what_is_wrong = operation.label == "GET /readyz"  # by a 503
        case.validate_response(response, checks=CHECKS[says_what_is_wrong:])

    try_one()


def _recreate_objects(settings: Any) -> tuple[str, dict[str, Any]]:
    """Create a user, a project, a job and a build again, whatever earlier requests did to them.

    Return a token of the user, and the values of path parameters. Job and build are done, so that following them ends.
    """
    ana = User.get_or_none(User.username == "ana")
    if ana is None or not ana.is_active:
        with write("test"):
            User.update(username=User.id.cast("TEXT")).where(User.username == "ana").execute()
            ana = User.create(username="ana", created_at=now())
    if not ana.is_admin:
        with write("test"):
            User.update(is_admin=True).where(User.id == ana.id).execute()
    demo = Project.get_or_none(Project.user == ana, Project.name == "demo")
    if demo is not None and demo.archived_at is not None:
        projects.restore(demo)
    demo = demo or projects.create(ana, {"name": "demo"}, settings)
    with write("test"):
        Job.update(finished_at=now(), status=Status.STOPPED).where(Job.finished_at.is_null()).execute()
    shown = (Job.project == demo) & Job.deleted_at.is_null() & Job.archived_at.is_null()
    job = Job.select().where(shown).order_by(Job.id).first()
    if job is None:
        job = submission.create(demo, ana, {"config": CONFIG}, settings)
        with write("test"):
            transition(job, Status.STOPPED)
    shown = (Build.project == demo) & Build.deleted_at.is_null() & Build.archived_at.is_null()
    build = Build.select().where(shown).first()
    if build is None:
        build = builds.create(demo, ana, {"config": CONFIG}, settings)
        with write("test"):
            transition(build, Status.STOPPED)
    schedule = Schedule.select().where(Schedule.project == demo).first()
    if schedule is None:
        schedule = schedules.create(demo, ana, {"cron": "0 3 * * *", "job": {"config": CONFIG}}, settings)
    token = users.create_token(ana, "test")[1]
    ids = {"job_id": job.id, "build_id": build.id, "schedule_id": schedule.id}
    return token, {"username": "ana", "project_name": "demo"} | ids
