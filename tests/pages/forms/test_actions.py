"""The buttons of jobs and builds."""

from __future__ import annotations

import errno
import uuid
from typing import Any

import flask
import pytest

from polyjob.auth import sessions, users
from polyjob.auth.scopes import Scope
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Audit, Build, Job, Project, User
from polyjob.jobconfig.validation import load_config
from polyjob.pages import actions
from polyjob.services import bookmarks, builds, cloning, jobs, submission
from polyjob.settings import Settings
from polyjob.statuses import Status

from .conftest import EVIL, Browser, bring, publish

CONFIG = load_config({"run": {"cmd": "true"}})
URL = "/ana/demo/jobs/1"
RUNNING = (Status.SCHEDULED, Status.RUNNING)


@pytest.fixture
def job(user: User, project: Project, settings: Settings) -> Job:
    return submission.create(project, user, {"config": CONFIG}, settings)


def offered(app: Any, who: User, target: Job | Build) -> list[str]:
    """Return the names of the buttons that a user sees."""
    with app.test_request_context(headers={"Accept": "text/html"}):
        sessions.sign_in(who)
        return [button.action.name for button in actions.action_buttons(target)]


class TestButtons:
    def test_buttons_fit_the_status(self, app: Any, user: User, job: Job) -> None:
        always = ["clone", "bookmark", "archive", "delete"]
        assert offered(app, user, job) == ["stop", "restart", *always]
        assert offered(app, user, bring(1, *RUNNING)) == ["stop", "restart", *always]
        assert offered(app, user, bring(1, stop_at=now(), stop_kind="person")) == ["restart", *always]
        ended = bring(1, Status.STOPPED)
        assert offered(app, user, ended) == ["restart", "resume", "copy", *always]
        assert offered(app, user, bring(1, cleared_at=now())) == ["restart", *always]
        bookmarks.add(ended, user)
        assert offered(app, user, Job.get_by_id(1)) == ["restart", "clone", "unbookmark", "archive", "delete"]
        assert offered(app, user, bring(1, archived_at=now())) == ["restore"]
        assert offered(app, user, bring(1, deleted_at=now())) == []

    def test_buttons_need_permission(self, app: Any, job: Job) -> None:
        bob = users.create("bob")
        assert offered(app, bob, job) == []
        publish()
        assert offered(app, bob, Job.get_by_id(1)) == ["bookmark"]
        assert "delete" in offered(app, users.create("eva", is_admin=True), Job.get_by_id(1))

    def test_buttons_fit_the_scope_of_the_token(self, app: Any, user: User, job: Job) -> None:
        for scope, expected in (
            (Scope.READ, []),
            (Scope.SUBMIT, ["stop", "restart", "clone", "bookmark", "archive"]),
            (Scope.ADMIN, ["stop", "restart", "clone", "bookmark", "archive", "delete"]),
        ):
            browser = Browser(app)
            browser.fill("/sign-in", key=users.create_token(user, "x", scope=scope)[1])
            with browser.http.session_transaction() as session:
                session_data = dict(session)
            with app.test_request_context():
                flask.session.update(session_data)
                assert sessions.browser_session()
                assert [button.action.name for button in actions.action_buttons(job)] == expected


class TestJobs:
    def test_stop_ends_a_queued_job(self, ana: Browser, job: Job) -> None:
        ana.press(URL, "Stop")
        assert ana.location == URL
        assert Job.get_by_id(1).status is Status.STOPPED
        assert "Job 1 was stopped." in ana.get(URL).text
        assert "Job 1 was stopped." not in ana.get(URL).text
        assert Audit.get(Audit.action == "stop").username == "ana"

    def test_stop_of_a_running_job_is_requested(self, ana: Browser, job: Job) -> None:
        bring(1, *RUNNING)
        ana.press(URL, "Stop")
        assert Job.get_by_id(1).stop_by == job.user
        page = ana.get(URL)
        assert "Stop of job 1 requested." in page.text
        assert "Stop" not in [form.label for form in page.forms]

    def test_stop_of_an_ended_job_changes_nothing(self, ana: Browser, job: Job) -> None:
        bring(1, *RUNNING, Status.SUCCEEDED)
        ana.post(f"{URL}/stop", {"csrf_token": ana.csrf()})
        assert "Job 1 had already ended." in ana.get(URL).text
        assert Job.get_by_id(1).status is Status.SUCCEEDED

    def test_bookmark_is_added_and_removed(self, ana: Browser, job: Job) -> None:
        ana.press(URL, "Bookmark")
        assert bookmarks.is_bookmarked(job, job.user)
        ana.press(URL, "Remove bookmark")
        assert not bookmarks.is_bookmarked(job, job.user)
        token = ana.csrf()
        ana.post(f"{URL}/bookmark", {"csrf_token": token, "next": "/ana/demo?x=1"})
        assert ana.location == "/ana/demo?x=1"
        ana.post(f"{URL}/unbookmark", {"csrf_token": token, "next": "//evil.example"})
        assert ana.location == URL

    def test_archived_job_is_restored(self, ana: Browser, job: Job) -> None:
        ana.press(URL, "Archive")
        assert ana.location == "/ana/demo"
        page = ana.get("/ana/demo")
        assert "Job 1 was archived" in page.text
        undo = next(form for form in page.forms if form.label == "Undo")
        ana.post(undo.action or "", undo.fields)
        assert ana.location == URL
        assert "Job 1 was restored." in ana.get(URL).text
        ana.press(URL, "Archive")
        ana.press("/ana/demo?show=archived", "Restore")
        assert ana.location == URL

    def test_job_is_deleted_after_confirmation(self, ana: Browser, job: Job) -> None:
        bring(1, *RUNNING, name="train")
        cloning.clone(job, job.user, "restart", {}, settings_of(ana))
        page = ana.get(f"{URL}/delete")
        assert "Delete train?" in page.text
        assert "it has not ended" in page.text
        assert "1 clone of it stays" in page.text
        assert f"{URL}/delete" in ana.get(URL).links
        assert Job.get_by_id(1).deleted_at is None
        ana.fill(f"{URL}/delete")
        assert ana.location == "/ana/demo"
        assert Job.get_by_id(1).deleted_at is not None
        assert "Job 1 was deleted." in ana.get("/ana/demo").text
        ana.get(URL, 404)

    def test_actions_on_jobs_need_permission(self, ana: Browser, bob: Browser, job: Job) -> None:
        paths = [
            f"{URL}/{name}" for name in ("stop", "restart", "resume", "copy", "archive", "restore", "clone", "delete")
        ]
        token = bob.csrf("/keys")
        for path in paths:
            bob.post(path, {"csrf_token": token, "config": "run: {cmd: 'true'}"}, 404)
        publish()
        for path in paths:
            bob.post(path, {"csrf_token": token, "config": "run: {cmd: 'true'}"}, 403)
        for path in (f"{URL}/clone", f"{URL}/delete", "/ana/demo/submit"):
            bob.get(path, 403)
        bob.post(f"{URL}/bookmark", {"csrf_token": token})
        assert Job.select().count() == 1
        assert Job.get_by_id(1).status is Status.CREATED
        with write("test"):
            Job.update(archived_at=now()).execute()
        assert "Restore" not in [form.label for form in bob.get("/ana/demo?show=archived").forms]
        with write("test"):
            Job.update(archived_at=None).execute()
        labels = [form.label for form in bob.get(URL).forms]
        assert [label for label in labels if label in ("Stop", "Restart", "Archive")] == []

    def test_actions_on_missing_jobs_are_not_found(self, ana: Browser, project: Project) -> None:
        ana.post(f"{URL}/stop", {"csrf_token": ana.csrf()}, 404)
        ana.get(f"{URL}/delete", 404)


def settings_of(browser: Browser) -> Settings:
    configured: Settings = browser.http.application.config["SETTINGS"]
    return configured


class TestBuilds:
    @pytest.fixture
    def build(self, user: User, project: Project, settings: Settings) -> Build:
        return builds.create(
            project, user, {"config": {"version": 1, "kind": "build", "build": {"image": "a"}}}, settings
        )

    def test_build_is_stopped_and_invalidated(self, app: Any, ana: Browser, user: User, build: Build) -> None:
        assert offered(app, user, build) == ["stop", "invalidate", "delete"]
        token = ana.csrf()
        ana.post("/ana/demo/builds/1/stop", {"csrf_token": token, "next": "/ana/demo/jobs/1"})
        assert ana.location == "/ana/demo/jobs/1"
        ana.post("/ana/demo/builds/1/invalidate", {"csrf_token": token})
        assert ana.location == "/ana/demo"
        assert "New jobs will not use build 1." in ana.get("/ana/demo").text
        build = Build.get_by_id(1)
        assert build.stop_at and build.invalidated_at
        assert offered(app, user, build) == ["delete"]

    def test_build_is_deleted_unless_a_job_needs_it(self, ana: Browser, build: Build, job: Job) -> None:
        with write("test"):
            Job.update(build=build).where(Job.id == job.id).execute()
        assert "Delete build 1?" in ana.get("/ana/demo/builds/1/delete").text
        page = ana.fill("/ana/demo/builds/1/delete", 409)
        assert "these jobs wait for it or run on it: 1." in page.text
        jobs.request_stop(job, None, settings_of(ana))
        (confirm_path,) = [link for link in ana.get("/ana/demo/builds/1").links if "/delete" in link]
        ana.fill(confirm_path, at="/ana/demo/builds/1/delete")
        assert Build.get_by_id(1).deleted_at
        assert "Build 1 was deleted." in ana.get(str(ana.location)).text

    def test_actions_on_jobs_need_permission(self, bob: Browser, build: Build) -> None:
        publish()
        for name in ("stop", "invalidate", "delete"):
            bob.post(f"/ana/demo/builds/1/{name}", {"csrf_token": bob.csrf()}, 403)


def test_names_are_escaped(ana: Browser, user: User, project: Project, settings: Settings) -> None:
    with write("test"):
        Job.create(
            uuid=uuid.uuid4().hex, project=project, user=user, name=EVIL, config={"run": {"cmd": EVIL}}, content=EVIL,
            runner="fake", created_at=now(), updated_at=now(),
        )  # fmt: skip
    for path in (f"{URL}/delete", f"{URL}/clone"):
        page = ana.get(path)
        assert "img" not in page.tags
        assert "script" not in page.tags
        assert EVIL in page.text


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 503, "disk is full"),
        (PermissionError(errno.EACCES, "secret path"), 500, "Internal Server Error"),
    ],
)
def test_errors_have_a_page(
    ana: Browser, job: Job, monkeypatch: pytest.MonkeyPatch, error: OSError, status: int, message: str
) -> None:
    def fail(*given: Any) -> None:
        raise error

    token = ana.csrf()
    monkeypatch.setattr(jobs, "request_stop", fail)
    ana.http.application.testing = False
    page = ana.post(f"{URL}/stop", {"csrf_token": token}, status)
    assert message in page.text
    assert "secret" not in page.text
