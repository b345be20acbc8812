"""Updates, look-ups and reported statuses of jobs, without an engine."""

from __future__ import annotations

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Project
from polyjob.errors import Invalid, NotFound
from polyjob.services import jobs
from polyjob.statuses import Status

from .helpers import CONFIG, done, pointers


def test_job_of_another_project_is_not_found(create, user, settings):
    job, moment = create(), now()
    with write("test"):
        other = Project.create(
            uuid="e" * 32, user=user, name="other", is_public=False, created_at=moment, updated_at=moment
        )
    with pytest.raises(NotFound):
        jobs.find(other, job.id)


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
        row = Job.get_by_id(job.id)
        assert (row.command, row.config) == ("false", new)

    def test_only_a_new_config_wakes_the_engine(self, create, settings, monkeypatch):
        job, sent = create(), []
        monkeypatch.setattr(jobs, "wake_engine", sent.append)
        jobs.update(job, {"description": "x"}, settings)
        assert sent == []
        jobs.update(job, {"config": CONFIG}, settings)
        assert sent == [settings.data_dir]

    def test_removed_job_is_not_found(self, create, settings):
        job = create()
        with write("test"):
            Job.delete().execute()
        with pytest.raises(NotFound):
            jobs.update(job, {"description": "x"}, settings)


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
