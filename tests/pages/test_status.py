"""The status page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from polyjob.auth.tokens import digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Project, Token, User
from polyjob.engine.disk_usage import measure
from polyjob.engine_link import DISK_USAGE_FILE, write_disk_usage
from polyjob.setting_values import SlotsByRunner
from polyjob.settings import Settings
from polyjob.statuses import Status
from runners.base import RunnerUnavailable
from tests.pages.helpers import BEGUN, EVIL, make_build, make_job, read, url


@pytest.fixture
def admin(client: FlaskClient, user: User) -> FlaskClient:
    with write("test"):
        User.update(is_admin=True).where(User.id == user.id).execute()
    return client


def test_status_page_is_for_administrators(client: FlaskClient, visitor: FlaskClient) -> None:
    page = read(client, "/status", 403)
    assert "Not allowed" in page.text
    assert "/status" not in page.links
    read(visitor.application.test_client(), "/status", 401)


@pytest.mark.parametrize(
    ("scope", "is_bound", "status"), [("read", False, 403), ("admin", True, 403), ("admin", False, 200)]
)
def test_status_page_needs_an_unrestricted_token(
    admin: FlaskClient, user: User, project: Project, scope: str, is_bound: bool, status: int
) -> None:
    token = new_token()
    with write("test"):
        bound_project = project if is_bound else None
        Token.create(user=user, name="k", digest=digest(token), created_at=now(), scope=scope, project=bound_project)
    browser = admin.application.test_client()
    form = browser.get("/sign-in").text
    csrf_token = re.search(r'name="csrf_token" value="(\w+)"', form)
    assert csrf_token
    sent = {"key": token, "csrf_token": csrf_token.group(1)}
    assert browser.post("/sign-in", data=sent, headers={"Origin": "http://localhost"}).status_code == 303
    assert ("/status" in read(browser, "/projects").links) == (status == 200)
    read(browser, "/status", status)


def test_status_page_shows_slots_queue_disk_and_failures(admin: FlaskClient, project: Project) -> None:
    make_job(project, *BEGUN)
    make_job(project)
    failed = make_job(project, *BEGUN, (Status.FAILED, None, None), name=EVIL, exit_code=3)
    fine = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    page = read(admin, "/status/")
    text = " ".join(page.text.split())
    assert "Slots1 of 2" in text
    assert "Queue1first submitted" in text
    assert "GiB free" in text
    assert "No engine is running" in text
    assert "exit code 3" in text
    assert EVIL in text
    assert "script" not in page.tags
    assert url(failed) in page.links
    assert url(fine) not in page.links
    assert "/status" in page.links


def test_status_page_shows_the_slots_of_each_runner(admin: FlaskClient, project: Project, settings: Settings) -> None:
    slots = SlotsByRunner((("fake", 3), ("process", 5)))
    changed = dataclasses.replace(settings, runners=("fake", "process"), slots=slots)
    admin.application.config["SETTINGS"] = changed
    make_job(project, *BEGUN)
    text = " ".join(read(admin, "/status/").text.split())
    assert "Slots: fake1 of 3 Slots: process0 of 5" in text
    assert "runners fake, process" in text
    assert "peak: 1 of 8" in text


@pytest.mark.parametrize(("query", "hours"), [("", 6), ("?hours=1", 1), ("?hours=24", 24), ("?hours=999", 6)])
def test_chart_covers_the_requested_hours(admin: FlaskClient, project: Project, query: str, hours: int) -> None:
    make_job(project, *BEGUN)
    html = admin.get(f"/status{query}").text
    assert f"Slots in use over the last {hours} hours: peak 1 of 2" in html
    assert f'<a href="?hours={hours}" aria-current="true">' in html


def test_chart_omits_jobs_that_never_had_a_slot(admin: FlaskClient, project: Project) -> None:
    job = make_job(project, (Status.STOPPED, None, None))
    with write("test"):
        Job.update(started_at=job.created_at).where(Job.id == job.id).execute()
    assert "peak 0 of 2" in admin.get("/status").text


class Holder:
    """A runner with artifacts of two builds, and one without a build."""

    def cached_artifacts(self) -> dict[str, int]:
        return {"a": 3 << 20, "b": 1 << 20, "nobody's": 1 << 10}

    def artifact_name(self, artifact: str) -> str | None:
        return artifact if artifact in "ab" else None


class Away:
    def cached_artifacts(self) -> dict[str, int]:
        raise RunnerUnavailable("It is away.")


def test_largest_measured_builds_are_listed(admin: FlaskClient, project: Project, data_dir: Path) -> None:
    assert "Not measured by the engine yet" in read(admin, "/status").text
    old, new, other = (make_build(project, runner="docker", artifact=name) for name in ("a", "a", "b"))
    make_build(project, runner="docker", artifact="elsewhere")
    runners = {"docker": Holder(), "process": Away()}
    usage = measure(runners)  # type: ignore[arg-type]
    assert usage.builds == {new.id: 3 << 20, other.id: 1 << 20}
    write_disk_usage(data_dir, usage)
    page = read(admin, "/status")
    assert page.text.index("3.0 MiB") < page.text.index("1.0 MiB")
    assert "4.0 MiB" in page.text
    assert f"/ana/demo/builds/{new.id}" in page.links
    assert f"/ana/demo/builds/{old.id}" not in page.links


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"at": "x", "builds": 3}'])
def test_invalid_report_counts_as_missing(admin: FlaskClient, data_dir: Path, report: str) -> None:
    (data_dir / DISK_USAGE_FILE).write_text(report)
    assert "Not measured by the engine yet" in read(admin, "/status").text
