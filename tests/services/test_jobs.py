"""Operations on jobs without an engine: submit, clone, update, report."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading

import pytest

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Build, Job, JobStatus, Project
from polyjob.errors import Invalid, NotFound, Unavailable
from polyjob.services import cloning, job_queue, jobs, submission
from polyjob.statuses import Status
from polyjob.storage.store import Store

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}


@pytest.fixture
def create(project, user, settings):
    def create(**attributes):
        return submission.create(project, user, {"config": CONFIG} | attributes, settings)

    return create


def done(job, status=Status.SUCCEEDED):
    with write("test"):
        Job.update(status=status, finished_at=now()).where(Job.id == job.id).execute()
    return Job.get_by_id(job.id)


def pointers(refused):
    return [problem.pointer for problem in refused.value.problems]


class TestCreate:
    def test_row_and_first_status_are_written(self, create, project):
        job = create(name="a", description="d", tags=["x"], ttl=5)
        row = Job.get_by_id(job.id)
        assert (row.name, row.description, row.tags, row.ttl, row.runner) == ("a", "d", ["x"], 5, "fake")
        assert (row.status, row.config, row.version) == (Status.CREATED, CONFIG, 1)
        assert [status.status for status in jobs.list_statuses(row)] == [Status.CREATED]
        assert jobs.latest_status(row).created_at == row.created_at == row.updated_at
        assert (row.started_at, row.finished_at) == (None, None)

    def test_missing_attributes_come_from_the_config(self, create):
        config = CONFIG | {"name": "n", "description": "d", "tags": ["t"]}
        job = create(config=config, description="own")
        assert (job.name, job.description, job.tags) == ("n", "own", ["t"])

    def test_managed_job_without_config_is_refused(self, create):
        with pytest.raises(Invalid, match="expects a `content`"):
            create(config=None)
        assert Job.select().count() == 0

    def test_unmanaged_job_needs_no_config(self, create):
        assert create(config=None, is_managed=False).status is Status.CREATED

    def test_taken_name_is_refused_and_nothing_written(self, create):
        create(name="a")
        with pytest.raises(Invalid) as refused:
            create(name="a")
        assert pointers(refused) == ["/name"]
        assert Job.select().count() == JobStatus.select().count() == 1

    def test_concurrent_submits_get_a_name_once(self, create):
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

    def test_name_of_a_deleted_job_is_free(self, create, user, settings):
        jobs.delete(create(name="a"), user, settings)
        assert create(name="a").name == "a"

    def test_ignored_part_becomes_a_note(self, project, user, settings):
        on_process = dataclasses.replace(settings, runner="process")
        job = submission.create(project, user, {"config": CONFIG | {"build": {"image": "img"}}}, on_process)
        assert [note["kind"] for note in job.notes] == ["build.image"]

    def test_unsupported_part_is_refused(self, project, user, settings):
        on_process = dataclasses.replace(settings, runner="process")
        config = CONFIG | {"environment": {"secret_refs": ["s"]}}
        with pytest.raises(Invalid) as refused:
            submission.create(project, user, {"config": config}, on_process)
        assert pointers(refused) == ["/config/environment/secret_refs"]
        assert Job.select().count() == 0

    def test_job_is_refused_while_the_disk_is_low(self, project, user, settings):
        low = dataclasses.replace(settings, disk_low=1 << 60)
        with pytest.raises(Unavailable, match="MiB left"):
            submission.create(project, user, {"config": CONFIG}, low)
        assert Job.select().count() == 0

    def test_named_build_is_linked(self, create, project, user):
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


class TestUpdate:
    def test_tags_are_replaced_or_merged(self, create, settings):
        job = create(tags=["a", "b"])
        assert jobs.update(job, {"tags": ["b", "c"], "merge": True}, settings).tags == ["a", "b", "c"]
        assert jobs.update(job, {"tags": ["z"]}, settings).tags == ["z"]
        assert jobs.update(job, {"tags": None}, settings).tags is None

    def test_update_raises_the_version_once(self, create, settings):
        job = create()
        assert jobs.update(job, {"description": "d", "readme": "r"}, settings).version == 2
        assert Job.get_by_id(job.id).readme == "r"

    def test_empty_update_changes_nothing(self, create, settings):
        job = create()
        assert jobs.update(job, {}, settings).version == 1

    def test_own_name_is_accepted_and_a_taken_one_refused(self, create, settings):
        job, _ = create(name="a"), create(name="b")
        assert jobs.update(job, {"name": "a"}, settings).name == "a"
        with pytest.raises(Invalid) as refused:
            jobs.update(job, {"name": "b", "description": "d"}, settings)
        assert pointers(refused) == ["/name"]
        assert Job.get_by_id(job.id).description is None

    def test_original_is_linked(self, create, settings):
        first, second = create(), create()
        assert jobs.update(second, {"original_job": first.id}, settings).original_id == first.id
        for invalid in (second.id, 999):
            with pytest.raises(Invalid):
                jobs.update(second, {"original_job": invalid}, settings)

    def test_only_a_queued_job_takes_a_new_config(self, create, settings):
        job, new = create(), CONFIG | {"run": {"cmd": "false"}}
        assert jobs.update(job, {"config": new}, settings).config == new
        done(job)
        with pytest.raises(Invalid, match="only a queued job"):
            jobs.update(job, {"config": CONFIG}, settings)
        assert Job.get_by_id(job.id).config == new

    def test_removed_job_is_not_found(self, create, settings):
        job = create()
        with write("test"):
            Job.delete().execute()
        with pytest.raises(NotFound):
            jobs.update(job, {"description": "x"}, settings)


class TestClone:
    def test_restart_merges_the_patch_and_starts_empty(self, create, user, settings):
        source = create(name="a", description="d", tags=["t"])
        patch = {"config": {"run": {"cmd": "false"}}}
        clone = cloning.clone(source, user, "restart", patch, settings)
        assert clone.config == CONFIG | {"run": {"cmd": "false"}}
        assert (clone.original_id, clone.cloning_strategy, clone.status) == (source.id, "restart", Status.CREATED)
        assert (clone.name, clone.description, clone.tags) == (None, "d", ["t"])
        assert Job.get_by_id(source.id).config == CONFIG

    @pytest.mark.parametrize("strategy", ["resume", "copy"])
    def test_resume_and_copy_need_a_source_that_is_done(self, create, user, settings, strategy):
        source = create()
        with pytest.raises(Invalid, match="only a job that is done"):
            cloning.clone(source, user, strategy, {}, settings)
        assert Job.select().count() == 1
        assert cloning.clone(done(source), user, strategy, {}, settings).cloning_strategy == strategy

    def test_invalid_patch_creates_no_job(self, create, user, settings):
        source = create()
        with pytest.raises(Invalid) as refused:
            cloning.clone(source, user, "restart", {"config": {"run": {"cmd": 5}}}, settings)
        assert pointers(refused)[0].startswith("/config/run/cmd")
        assert Job.select().count() == 1

    @pytest.mark.parametrize("strategy", ["resume", "copy"])
    def test_outputs_are_not_copied_onto_a_full_disk(self, create, user, settings, monkeypatch, strategy):
        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        source = done(create())
        store = Store(settings.data_dir)
        (store.make_job_folder(source.uuid) / "outputs").mkdir()
        (store.job_folder(source.uuid) / "outputs" / "a").write_text("a")
        store.seal(source.uuid, "1", 0)
        with monkeypatch.context() as patch, pytest.raises(Unavailable, match="copy of the outputs"):
            patch.setattr(os, "link", refuse)
            patch.setattr(Store, "free_bytes", lambda self: settings.disk_low + 10)
            cloning.clone(source, user, strategy, {}, settings)
        assert Job.select().count() == 1
        assert [path.name for path in (settings.data_dir / "jobs").iterdir()] == [source.uuid]
        assert cloning.clone(source, user, strategy, {}, settings).cloning_strategy == strategy

    @pytest.mark.parametrize("strategy", ["restart", "resume", "copy"])
    def test_deleted_source_is_not_found(self, create, user, settings, strategy):
        source = done(create())
        store = Store(settings.data_dir)
        (store.make_job_folder(source.uuid) / "outputs").mkdir()
        (store.job_folder(source.uuid) / "outputs" / "a").write_text("a")
        store.seal(source.uuid, "1", 0)
        jobs.delete(source, user, settings)
        with pytest.raises(NotFound):
            cloning.clone(source, user, strategy, {}, settings)
        assert Job.select().count() == 1
        assert [path.name for path in (settings.data_dir / "jobs").iterdir()] == [source.uuid]

    def test_taken_name_gets_a_free_number(self, create, user, settings):
        source = create(name="a")
        clones = [cloning.clone(source, user, "restart", {"config": {"name": "a"}}, settings) for _ in range(2)]
        assert [clone.name for clone in clones] == ["a-1", "a-2"]

    def test_clones_outlive_their_original(self, create, user, settings):
        source = create()
        clone = cloning.clone(source, user, "restart", {}, settings)
        with write("test"):
            Job.delete().where(Job.id == source.id).execute()
        assert Job.get_by_id(clone.id).original_id is None


class TestReportedStatuses:
    def report(self, job, status, user, settings):
        return jobs.post_status(job, status, "m", None, None, user, settings)

    def test_report_of_a_managed_job_becomes_a_note(self, create, settings):
        job = create()
        answer = self.report(job, Status.SUCCEEDED, None, settings)
        assert answer.status is Status.CREATED
        row = Job.get_by_id(job.id)
        assert row.status is Status.CREATED
        assert row.notes == [{"kind": "reported", "text": "The job reported succeeded: m."}]

    def test_reports_are_stored_in_order(self, create, settings):
        job = create()
        for status, message in ((Status.RUNNING, "half way"), (Status.RUNNING, "done"), (Status.WARNING, "x" * 999)):
            jobs.post_status(job, status, message, None, None, None, settings)
        reported = Job.get_by_id(job.id).reported
        assert [(report["status"], report["message"][:8]) for report in reported] == [
            ("running", "half way"),
            ("running", "done"),
            ("warning", "x" * 8),
        ]
        assert len(reported[2]["message"]) == 256
        times = [report["created_at"] for report in reported]
        assert times == sorted(times)

    def test_oldest_reports_are_dropped(self, create, settings):
        job = create()
        for number in range(jobs.MAX_REPORTED_STATUSES + 5):
            jobs.post_status(job, Status.RUNNING, str(number), None, None, None, settings)
        messages = [report["message"] for report in Job.get_by_id(job.id).reported]
        assert messages == [str(number) for number in range(5, jobs.MAX_REPORTED_STATUSES + 5)]

    def test_report_without_news_is_not_stored(self, create, settings):
        job = create()
        jobs.post_status(job, Status.CREATED, None, None, None, None, settings)
        assert Job.get_by_id(job.id).reported is None

    def test_stopped_from_a_user_requests_a_stop(self, create, user, settings):
        assert self.report(create(), Status.STOPPED, user, settings).status is Status.STOPPED

    def test_stopped_from_the_job_does_not_stop_it(self, create, settings):
        assert self.report(create(), Status.STOPPED, None, settings).status is Status.CREATED

    def test_report_of_an_unmanaged_job_becomes_its_status(self, create, settings):
        job = create(config=None, is_managed=False)
        assert self.report(job, Status.RUNNING, None, settings).message == "m"
        assert self.report(job, Status.SUCCEEDED, None, settings).status is Status.SUCCEEDED
        assert self.report(job, Status.FAILED, None, settings).status is Status.SUCCEEDED
        assert [row.status for row in jobs.list_statuses(job)] == ["created", "running", "succeeded"]


def test_job_of_another_project_is_not_found(create, user, settings):
    job, moment = create(), now()
    with write("test"):
        other = Project.create(
            uuid="e" * 32, user=user, name="other", is_public=False, created_at=moment, updated_at=moment
        )
    with pytest.raises(NotFound):
        jobs.find(other, job.id)


def test_waiting_reason_counts_the_jobs_ahead(create):
    first, second = create(), create()
    reasons = [job_queue.waiting_reason(job, job_queue.queue_position(job)) for job in (first, second)]
    assert reasons[0].endswith("0 jobs are ahead.")
    assert reasons[1].endswith("1 job is ahead.")
    assert job_queue.waiting_reason(done(first), None) is None
