"""The pages of schedules, and their buttons."""

from __future__ import annotations

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Project, Schedule, User
from polyjob.services import schedule_fires, schedules
from polyjob.settings import Settings

from .conftest import EVIL, Browser, publish

LIST = "/ana/demo/schedules"
PAGE = f"{LIST}/1"


@pytest.fixture
def schedule(user: User, project: Project, settings: Settings) -> Schedule:
    config = {"version": 1, "kind": "job", "run": {"cmd": EVIL}}
    return schedules.create(project, user, {"cron": "0 3 * * *", "job": {"config": config}}, settings)


def record(schedule: Schedule, outcome: str, **columns: object) -> None:
    with write("test"):
        schedule_fires.record_fire(schedule, now(), outcome, key=f"{outcome} {columns}", **columns)


def test_list_shows_next_last_and_missed_runs(ana: Browser, schedule: Schedule) -> None:
    record(schedule, "missed", count=7, reason="asleep")
    record(schedule, "failed", reason="The `disk` is low.")
    page = ana.get(LIST)
    for text in ("0 3 * * *", "UTC", "7", "not submitted", "The disk is low.", "ana"):
        assert text in page.text
    assert PAGE in page.links
    assert LIST in ana.get("/ana/demo").links


def test_empty_list_shows_the_command(ana: Browser) -> None:
    assert "polyjob schedule add '0 3 * * *' -p ana/demo -- COMMAND" in ana.get(LIST).text


def test_page_shows_what_became_of_each_run(ana: Browser, schedule: Schedule) -> None:
    ana.press(PAGE, "Run now")
    record(schedule, "missed", count=7, reason="asleep")
    record(schedule, "failed", reason="The disk is low.")
    page = ana.get(PAGE)
    for text in ("The last run was not submitted: The disk is low.", "missed: 7 runs", "asleep", "on demand"):
        assert text in page.text
    assert "/ana/demo/jobs/1" in page.links
    assert PAGE in ana.get("/ana/demo/jobs/1").links


def test_buttons_pause_resume_run_and_delete(ana: Browser, schedule: Schedule) -> None:
    ana.press(PAGE, "Pause")
    assert Schedule.get().next_at is None
    assert "paused" in ana.get(PAGE).text
    ana.press(PAGE, "Resume")
    assert Schedule.get().next_at is not None
    ana.press(PAGE, "Run now")
    assert Job.select().count() == 1
    ana.press(f"{PAGE}/delete", "Delete schedule 1")
    assert Schedule.select().count() == 0


def test_refused_run_says_why(ana: Browser, schedule: Schedule) -> None:
    with write("test"):
        Schedule.update(job={"config": {"run": {"cmd": "true"}}, "backend": "docker"}).execute()
    ana.press(PAGE, "Run now")
    assert Job.select().count() == 0


def test_reader_sees_no_buttons(bob: Browser, schedule: Schedule) -> None:
    publish()
    page = bob.get(PAGE)
    assert not any(form.label in ("Run now", "Pause") for form in page.forms)
    assert f"{PAGE}/delete" not in page.links
