"""Submission of jobs, without an engine."""

from __future__ import annotations

import contextlib
import dataclasses
import threading

import pytest
from peewee import OperationalError

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Build, Job, JobStatus
from polyjob.errors import Invalid, Unavailable
from polyjob.services import jobs, submission
from polyjob.services.transitions import transition
from polyjob.statuses import Status

from .helpers import CONFIG, pointers


def test_row_and_first_status_are_written(create, project):
    job = create(name="a", description="d", tags=["x"], ttl=5)
    row = Job.get_by_id(job.id)
    assert (row.name, row.description, row.tags, row.ttl, row.runner) == ("a", "d", ["x"], 5, "fake")
    assert (row.status, row.command, row.config, row.version) == (Status.CREATED, "true", CONFIG, 1)
    assert [status.status for status in jobs.list_statuses(row)] == [Status.CREATED]
    assert jobs.latest_status(row).created_at == row.created_at == row.updated_at
    assert (row.started_at, row.finished_at) == (None, None)


def test_missing_attributes_come_from_the_config(create):
    config = CONFIG | {"name": "n", "description": "d", "tags": ["t"]}
    job = create(config=config, description="own")
    assert (job.name, job.description, job.tags) == ("n", "own", ["t"])


def test_managed_job_without_config_is_refused(create):
    with pytest.raises(Invalid, match="expects a `content`"):
        create(config=None)
    assert Job.select().count() == 0


def test_unmanaged_job_needs_no_config(create):
    assert create(config=None, is_managed=False).status is Status.CREATED


def test_taken_name_is_refused_and_nothing_written(create):
    create(name="a")
    with pytest.raises(Invalid) as refused:
        create(name="a")
    assert pointers(refused) == ["/name"]
    assert Job.select().count() == JobStatus.select().count() == 1


def test_concurrent_submits_get_a_name_once(create):
    created, barrier = [], threading.Barrier(6)

    def race():
        barrier.wait()
        with contextlib.suppress(Invalid):
            created.append(create(name="same"))
        database.close()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(created) == Job.select().count() == 1


def test_name_of_a_deleted_job_is_free(create, user, settings):
    jobs.delete(create(name="a"), user, settings)
    assert create(name="a").name == "a"


def test_ignored_part_becomes_a_note(project, user, settings):
    on_process = dataclasses.replace(settings, runner="process")
    job = submission.create(project, user, {"config": CONFIG | {"build": {"image": "img"}}}, on_process)
    assert [note["kind"] for note in job.notes] == ["build.image"]


def test_unsupported_part_is_refused(project, user, settings):
    on_process = dataclasses.replace(settings, runner="process")
    config = CONFIG | {"environment": {"configmap_refs": ["s"]}}
    with pytest.raises(Invalid) as refused:
        submission.create(project, user, {"config": config}, on_process)
    assert pointers(refused) == ["/config/environment/configmap_refs"]
    assert Job.select().count() == 0


def test_job_is_refused_while_the_disk_is_low(project, user, settings):
    low = dataclasses.replace(settings, disk_low=1 << 60)
    with pytest.raises(Unavailable, match="MiB left"):
        submission.create(project, user, {"config": CONFIG}, low)
    assert Job.select().count() == 0


def test_named_build_is_linked(create, project, user):
    moment = now()
    with write("test"):
        build = Build.create(
            uuid="b" * 32, project=project, user=user, config={}, runner="fake", key="k", key_parts={},
            created_at=moment, updated_at=moment,
        )  # fmt: skip
    assert create(build_job=build.id).build_id == build.id
    assert create(build_job=f"ana.demo.builds.{build.id}").build_id == build.id
    for invalid in (build.id + 1, f"x.y.builds.{build.id}", "x"):
        with pytest.raises(Invalid) as refused:
            create(build_job=invalid)
        assert pointers(refused) == ["/build_job"]


@pytest.fixture
def wake_ups(monkeypatch):
    sent = []
    monkeypatch.setattr(submission, "wake_engine", sent.append)
    return sent


def test_submission_wakes_the_engine_for_a_free_slot(create, wake_ups, settings):
    create()
    assert wake_ups == [settings.data_dir]


def test_submission_does_not_wake_the_engine_without_free_slots(project, user, settings, wake_ups):
    settings = dataclasses.replace(settings, slots=1)
    running = submission.create(project, user, {"config": CONFIG}, settings)
    with write("test"):
        transition(running, Status.SCHEDULED)
    wake_ups.clear()
    submission.create(project, user, {"config": CONFIG}, settings)
    assert wake_ups == []
    with write("test"):
        Job.update(exit={"reason": "exited", "code": 0}).where(Job.id == running.id).execute()
    submission.create(project, user, {"config": CONFIG}, settings)
    assert wake_ups == [settings.data_dir]


def test_accepted_job_is_returned_if_slots_cannot_be_counted(create, wake_ups, settings, monkeypatch):
    def fails(job):
        raise OperationalError("disk I/O error")

    monkeypatch.setattr(submission, "read_state", fails)
    assert create().id
    assert wake_ups == [settings.data_dir]
