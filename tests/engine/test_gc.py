"""Garbage collection: which artifacts, files and archived items are removed, and which are kept."""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import subprocess
import sys
import uuid
from collections import deque
from pathlib import Path

import pytest
from click.testing import CliRunner

from polyjob.cli import main
from polyjob.clock import now
from polyjob.db.database import close_database, database, open_database, write
from polyjob.db.models import Audit, Build, Dependency, Job, Project, Schedule, ScheduleFire
from polyjob.engine import gc
from polyjob.errors import Invalid
from polyjob.services import audit, bookmarks, builds, cloning, jobs, old_jobs, projects, submission
from polyjob.services.notes import note_text
from polyjob.services.transitions import transition
from polyjob.settings import environment
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.base import BASE_CHANGED, ArtifactMissing, RunnerSettings, RunnerUnavailable
from runners.process.builds import Artifact
from runners.process.runner import ProcessRunner

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
LONG_AGO = datetime.timedelta(days=40)


@pytest.fixture
def runner(settings):
    return ProcessRunner(RunnerSettings(str(settings.data_dir), "a" * 32), lambda: None)


@pytest.fixture
def make_build(settings, project, user):
    """A build that is done, with a virtualenv of so many bytes."""

    def make(size: int, age: datetime.timedelta = LONG_AGO) -> Build:
        store, identity = Store(settings.data_dir), uuid.uuid4().hex
        env = store.make_build_folder(identity) / "env"
        (env / "lib").mkdir(parents=True)
        (env / "lib" / "file").write_bytes(b"x" * size)
        moment = now() - age
        with write("test"):
            return Build.create(
                uuid=identity, project=project, user=user, created_at=moment, updated_at=moment, finished_at=moment,
                config={"build": {"build_steps": ["x"]}}, runner="process", key=identity * 2, key_parts={},
                status=Status.SUCCEEDED, artifact=Artifact(str(env)).text(),
            )  # fmt: skip

    return make


@pytest.fixture
def make_job(settings, project, user):
    """A job, done where it has an age, that left a log of so many bytes."""

    def make(size: int = 10, age: datetime.timedelta | None = LONG_AGO, build: Build | None = None) -> Job:
        job = submission.create(project, user, {"config": CONFIG}, settings)
        store = Store(settings.data_dir)
        store.make_job_folder(job.uuid)
        store.job_log(job.uuid).write_bytes(b"x" * size)
        with write("test"):
            Job.update(build=build).where(Job.id == job.id).execute()
            if age is not None:
                assert transition(job, Status.STOPPED)
                Job.update(finished_at=now() - age).where(Job.id == job.id).execute()
        return Job.get_by_id(job.id)

    return make


def collect(settings, runner, **changed):
    settings = dataclasses.replace(settings, **changed)
    return gc.collect(settings, Store(settings.data_dir), {"process": runner})


def env_of(build):
    return Path(Artifact.read(build.artifact).env)


class TestBuilds:
    def test_least_recently_used_artifacts_are_removed_first(self, settings, runner, make_build, make_job):
        first, second, third = (make_build(1000, datetime.timedelta(days=age)) for age in (9, 8, 7))
        make_job(build=first, age=datetime.timedelta(days=1))
        assert collect(settings, runner, cache_limit=2500) == 1000
        assert [env_of(build).exists() for build in (first, second, third)] == [True, False, True]
        assert collect(settings, runner, cache_limit=2500) == 0
        gone = Build.get_by_id(second.id)
        assert gone.invalidated_at is not None
        assert "its virtualenv was removed to make room" in note_text(gone.notes, "outdated")
        assert Build.get_by_id(third.id).invalidated_at is None

    def test_artifacts_in_use_are_kept(self, settings, runner, make_build, make_job):
        build = make_build(1000)
        make_job(build=build, age=None)
        assert collect(settings, runner, cache_limit=1) == 0
        assert env_of(build).exists()

    def test_artifacts_within_the_limit_are_kept(self, settings, runner, make_build):
        build = make_build(1000)
        assert collect(settings, runner, cache_limit=0) == 0
        assert collect(settings, runner, cache_limit=1000) == 0
        assert env_of(build).exists()

    def test_artifact_without_a_build_is_removed_when_none_runs(self, settings, runner, make_build):
        build = make_build(1000)
        with write("test"):
            Build.update(artifact=None, status=Status.RUNNING, finished_at=None).execute()
        assert collect(settings, runner) == 0
        with write("test"):
            Build.update(status=Status.FAILED, finished_at=now()).execute()
        assert collect(settings, runner) == 1000
        assert not env_of(build).exists()

    def test_running_unmanaged_build_keeps_no_artifact(self, settings, runner, make_build):
        make_build(1000)
        with write("test"):
            columns = {"artifact": None, "status": Status.RUNNING, "finished_at": None, "is_managed": False}
            Build.update(**columns).execute()
        assert collect(settings, runner) == 1000

    @pytest.mark.parametrize("is_shared", [False, True])
    def test_artifact_of_a_deleted_build_is_removed_unless_shared(self, runner, make_build, is_shared):
        build, other = make_build(10), make_build(10)
        if is_shared:
            with write("test"):
                Build.update(artifact=build.artifact).where(Build.id == other.id).execute()
        deque(gc.remove_artifact_in_steps(build, runner), maxlen=0)
        assert env_of(build).exists() == is_shared
        assert env_of(other).exists()

    @pytest.mark.parametrize("is_away", [False, True])
    def test_artifact_is_removed_with_its_deleted_build(self, world, monkeypatch, is_away):
        job = world.submit(build={"image": "a"})
        world.end(job)
        build = world.read(job).build
        dropped = []

        def remove_artifact(name):
            dropped.append(name)
            if is_away:
                raise RunnerUnavailable("away")

        monkeypatch.setattr(world.runner, "artifact_name", lambda artifact: f"image of {artifact}")
        monkeypatch.setattr(world.runner, "remove_artifact", remove_artifact)
        builds.delete(build, world.settings)
        world.settle()
        assert dropped == [f"image of {build.artifact}"]
        assert not Build.select().where(Build.id == build.id).exists()

    def test_start_on_a_removed_artifact_fails(self, settings, runner, make_build, tmp_path):
        build = make_build(10)
        runner.remove_artifact(str(env_of(build)))
        runner.remove_artifact(str(env_of(build)))
        from tests.runners.harness import ProcessHarness

        harness = ProcessHarness(tmp_path / "runner")
        with pytest.raises(ArtifactMissing, match="virtualenv is missing"):
            harness.runner.start(harness.printing_job("x"), build.artifact)
        harness.close()

    @pytest.mark.parametrize(
        ("reason", "changed"),
        [
            ("its image does not exist any more", []),
            (BASE_CHANGED.format("python:3"), ["base"]),
            ("the image python:3 is another one now", ["base"]),
        ],
    )
    def test_next_job_builds_a_stale_artifact_again(self, world, monkeypatch, reason, changed):
        first = world.submit(build={"image": "a"})
        world.end(first)
        old = world.read(first).build
        start = world.runner.start

        def refuse(spec, artifact):
            if artifact == old.artifact and not spec.is_pinned and not Build.get_by_id(old.id).invalidated_at:
                raise ArtifactMissing(reason)
            return start(spec, artifact)

        monkeypatch.setattr(world.runner, "start", refuse)
        second = world.submit(build={"image": "a"})
        world.end(second)
        build = world.read(second).build
        assert (world.read(second).status, build.id) == (Status.SUCCEEDED, old.id + 1)
        assert build.reason == {
            "kind": "outdated", "changed": changed, "text": f"build {old.id} is not used any more: {reason}",
        }  # fmt: skip
        assert world.statuses(second) == ["created", "scheduled", "building", "running", "succeeded"]
        assert builds.latest_status(Build.get_by_id(old.id)).status is Status.SUCCEEDED


class TestJobs:
    def test_files_of_old_jobs_are_removed_with_a_note(self, settings, runner, make_job, user):
        old, bookmarked, young = make_job(), make_job(), make_job(age=datetime.timedelta(days=20))
        running = make_job(age=None)
        bookmarks.add(bookmarked, user)
        before = Job.get_by_id(old.id)
        assert collect(settings, runner, keep_days=30) == 10
        store = Store(settings.data_dir)
        there = [store.job_log(job.uuid).exists() for job in (old, bookmarked, young, running)]
        assert there == [False, True, True, True]
        after = Job.get_by_id(old.id)
        assert "removed on" in note_text(after.notes, "cleared")
        assert "older than 30 days" in note_text(after.notes, "cleared")
        assert (after.version, after.updated_at) == (before.version + 1, before.updated_at)
        assert collect(settings, runner, keep_days=30) == 0

    def test_oldest_files_are_removed_until_the_rest_fits(self, settings, runner, make_job, monkeypatch):
        monkeypatch.setattr(gc, "GB", 100)
        created = [make_job(60, datetime.timedelta(days=age)) for age in (1, 3, 2)]
        assert collect(settings, runner, keep_gb=1) == 120
        store = Store(settings.data_dir)
        assert [store.job_log(job.uuid).exists() for job in created] == [True, False, False]

    def test_reason_has_a_readable_size(self, settings, runner, make_job):
        make_job()
        tiny = dataclasses.replace(settings, keep_gb=1e-9)
        (garbage,) = gc.find_garbage(tiny, Store(settings.data_dir), {"process": runner})
        assert garbage.reason == "all jobs have left more than `POLYJOB_KEEP_GB` allows"

    @pytest.fixture(params=["reads the outputs", "is a retry that resumes"])
    def waiting(self, request, make_job):
        """A function that makes a queued job that needs the outputs of another one."""

        def make(source):
            job = make_job(age=None)
            with write("test"):
                if request.param == "reads the outputs":
                    Dependency.create(job=job, upstream=source, condition="success", folder=str(source.id))
                else:
                    changes = {"original": source.id, "cloning_strategy": "resume", "retry_number": 1}
                    Job.update(changes).where(Job.id == job.id).execute()
            return job

        return make

    @pytest.mark.parametrize("limit", [{"keep_days": 30}, {"keep_gb": 1e-12}, {"archive_days": 30}])
    def test_outputs_that_a_job_needs_are_kept_until_it_ends(self, settings, runner, make_job, waiting, limit):
        old = make_job()
        job = waiting(old)
        if "archive_days" in limit:
            with write("test"):
                Job.update(archived_at=now() - LONG_AGO).where(Job.id == old.id).execute()
        assert collect(settings, runner, **limit) == 0
        assert Store(settings.data_dir).job_log(old.uuid).exists()
        with write("test"):
            assert transition(job, Status.STOPPED)
            Job.update(finished_at=now() + LONG_AGO).where(Job.id == job.id).execute()
        assert collect(settings, runner, **limit) >= 10

    def test_outputs_that_a_job_needs_by_then_are_kept(self, settings, runner, make_job, waiting):
        old = make_job()
        changed, store = dataclasses.replace(settings, keep_days=30), Store(settings.data_dir)
        (garbage,) = gc.find_garbage(changed, store, {"process": runner})
        waiting(old)
        garbage.remove()
        assert store.job_log(old.uuid).exists() and Job.get_by_id(old.id).cleared_at is None

    def test_files_of_a_job_that_is_bookmarked_by_then_are_kept(self, settings, runner, make_job, user):
        old = make_job()
        changed, store = dataclasses.replace(settings, keep_days=30), Store(settings.data_dir)
        (garbage,) = gc.find_garbage(changed, store, {"process": runner})
        bookmarks.add(old, user)
        garbage.remove()
        assert store.job_log(old.uuid).exists() and Job.get_by_id(old.id).cleared_at is None

    def test_files_of_a_job_that_another_only_waits_for_are_removed(self, settings, runner, make_job):
        old, other = make_job(), make_job(age=None)
        with write("test"):
            Dependency.create(job=other, upstream=old, condition="end")
        assert collect(settings, runner, keep_days=30) == 10

    def test_files_are_kept_without_a_setting(self, settings, runner, make_job):
        make_job(age=datetime.timedelta(days=4000))
        assert collect(settings, runner) == 0

    def test_job_without_files_cannot_be_resumed_or_copied(self, settings, runner, make_job, user):
        old = make_job()
        collect(settings, runner, keep_days=30)
        for strategy in ("resume", "copy"):
            with pytest.raises(Invalid, match=r"removed"):
                cloning.clone(Job.get_by_id(old.id), user, strategy, {}, settings)
        assert cloning.clone(Job.get_by_id(old.id), user, "restart", {}, settings).original_id == old.id
        assert jobs.visible_state(old.project, old.id)


class TestOldJobs:
    @pytest.fixture
    def schedule(self, project, user):
        with write("test"):
            return Schedule.create(
                project=project, user=user, timezone="UTC", missed="skip", overlap="allow", job={}, created_at=now(),
                updated_at=now(),
            )  # fmt: skip

    @pytest.fixture
    def add_fire(self, schedule):
        def add(job=None):
            with write("test"):
                key = uuid.uuid4().hex
                columns = {"schedule": schedule, "key": key, "due_at": now(), "outcome": "submitted", "job": job}
                ScheduleFire.create(**columns, created_at=now())

        return add

    def remaining(self):
        return [job.id for job in Job.select().where(Job.deleted_at.is_null()).order_by(Job.id)]

    def test_old_jobs_are_deleted_with_an_audit_entry(self, settings, runner, make_job, project):
        old, young, running = make_job(), make_job(age=datetime.timedelta(days=20)), make_job(age=None)
        assert collect(settings, runner) == 0
        assert collect(settings, runner, delete_days=30) == 10
        assert self.remaining() == [young.id, running.id]
        assert Project.get_by_id(project.id).job_count == 2
        (entry,) = audit.list_entries(kind="job", target_id=old.id).where(Audit.action == "delete")
        assert (entry.username, entry.user, entry.details) == (
            audit.SERVER_NAME, None, {"reason": "ended more than 30 days ago"},
        )  # fmt: skip
        assert collect(settings, runner, delete_days=30) == 0

    def test_bookmarked_and_archived_jobs_are_kept(self, settings, runner, make_job, user):
        bookmarked, archived = make_job(), make_job()
        bookmarks.add(bookmarked, user)
        jobs.archive(archived, user, settings)
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [bookmarked.id, archived.id]

    @pytest.mark.parametrize("reference", ["dependency", "original", "first_attempt"])
    def test_jobs_that_another_job_needs_are_kept_until_it_ends(self, settings, runner, make_job, reference):
        old, other = make_job(), make_job(age=None)
        with write("test"):
            if reference == "dependency":
                Dependency.create(job=other, upstream=old, condition="end")
            else:
                Job.update({reference: old.id}).where(Job.id == other.id).execute()
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [old.id, other.id]
        with write("test"):
            Job.update(finished_at=now() - LONG_AGO).where(Job.id == other.id).execute()
        collect(settings, runner, delete_days=30)
        assert self.remaining() == []

    def test_retries_are_deleted_after_the_last_of_them_is_old(self, settings, runner, make_job):
        first, second, third = make_job(), make_job(), make_job(age=datetime.timedelta(days=29))
        with write("test"):
            Job.update(first_attempt=first.id).where(Job.id.in_([second.id, third.id])).execute()
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [first.id, second.id, third.id]
        collect(settings, runner, delete_days=28)
        assert self.remaining() == []

    def test_shown_runs_of_a_schedule_are_kept(self, settings, runner, make_job, add_fire, monkeypatch):
        monkeypatch.setattr(old_jobs, "MAX_SHOWN_FIRES", 2)
        created = [make_job() for _ in range(2)]
        for job in created:
            add_fire(job)
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [job.id for job in created]
        add_fire()
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [created[1].id]

    def test_one_round_deletes_a_limited_number(self, settings, runner, make_job, monkeypatch):
        monkeypatch.setattr(gc, "MAX_EXPIRED_JOBS", 2)
        created = [make_job(age=datetime.timedelta(days=days)) for days in (41, 43, 42)]
        collect(settings, runner, delete_days=30)
        assert self.remaining() == [created[0].id]
        collect(settings, runner, delete_days=30)
        assert self.remaining() == []

    def test_job_that_is_needed_by_then_is_kept(self, settings, runner, make_job, user):
        old = make_job()
        changed = dataclasses.replace(settings, delete_days=30, keep_days=30)
        (garbage,) = gc.find_garbage(changed, Store(settings.data_dir), {"process": runner})
        assert (garbage.kind, garbage.name, garbage.size) == ("job", old.unique_name, 10)
        bookmarks.add(old, user)
        garbage.remove()
        assert self.remaining() == [old.id]

    def test_engine_removes_rows_and_files(self, world):
        done, other = world.submit(), world.submit()
        for job in (done, other):
            world.end(job)
        with write("test"):
            Job.update(finished_at=now() - LONG_AGO).where(Job.id == done.id).execute()
        store = Store(world.settings.data_dir)
        gc.collect(dataclasses.replace(world.settings, delete_days=30), store, {})
        world.settle()
        assert [job.id for job in Job.select()] == [other.id]
        assert not store.job_folder(done.uuid).exists()

    @pytest.mark.parametrize(("point", "is_deleted"), [("expire-job:before", False), ("expire-job:after", True)])
    def test_killed_deletion_is_complete_after_the_next_round(self, settings, make_job, point, is_deleted):
        make_job()
        close_database()
        variables = os.environ | environment(dataclasses.replace(settings, runner="process", delete_days=30))
        command = [sys.executable, "-m", "polyjob", "gc"]
        killed = subprocess.run(command, env=variables | {"POLYJOB_CRASH_AT": point}, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL
        open_database(settings.data_dir)
        assert (self.remaining() == []) is is_deleted
        close_database()
        assert subprocess.run(command, env=variables, timeout=60, check=False).returncode == 0
        open_database(settings.data_dir)
        assert self.remaining() == []
        assert audit.list_entries(kind="job").where(Audit.action == "delete").count() == 1


class TestArchives:
    DAYS = datetime.timedelta(days=1)

    @pytest.fixture
    def archived(self, settings, project, make_job, make_build):
        """A job, a build or the project, archived so many days ago."""

        def make(kind, days):
            row = {"job": make_job, "build": lambda: make_build(10), "project": lambda: project}[kind]()
            table = type(row)
            with write("test"):
                table.update(archived_at=now() - days * self.DAYS).where(table.id == row.id).execute()
            return row

        return make

    @pytest.mark.parametrize("kind", ["job", "build", "project"])
    def test_old_archived_items_are_deleted(self, settings, runner, archived, kind):
        row = archived(kind, 31)
        for days, is_deleted in ((0, False), (32, False), (30, True)):
            collect(settings, runner, archive_days=days)
            assert (type(row).get_by_id(row.id).deleted_at is not None) is is_deleted

    @pytest.mark.parametrize("kind", ["job", "build", "project"])
    def test_wake_up_follows_the_commit(self, settings, runner, archived, monkeypatch, kind):
        row = archived(kind, 40)
        deletions = []

        def wake_engine(data_dir):
            assert not database.in_transaction(), "the engine may look before the commit"
            deletions.append(type(row).get_by_id(row.id).deleted_at is not None)

        for module in (builds, gc, jobs, projects):
            monkeypatch.setattr(module, "wake_engine", wake_engine)
        collect(settings, runner, archive_days=30)
        assert deletions == [True]

    @pytest.mark.parametrize("kind", ["job", "build"])
    def test_other_items_are_kept(self, settings, runner, archived, make_job, make_build, kind):
        old, young = archived(kind, 40), archived(kind, 20)
        never = make_job() if kind == "job" else make_build(10)
        collect(settings, runner, archive_days=30)
        are_kept = [type(row).get_by_id(row.id).deleted_at is None for row in (old, young, never)]
        assert are_kept == [False, True, True]

    def test_archived_build_in_use_is_kept(self, settings, runner, archived, make_job):
        build = archived("build", 40)
        make_job(build=build, age=None)
        collect(settings, runner, archive_days=30)
        assert Build.get_by_id(build.id).deleted_at is None

    @pytest.mark.parametrize("kind", ["job", "build", "project"])
    def test_item_restored_meanwhile_is_kept(self, settings, runner, archived, kind):
        row = archived(kind, 40)
        changed = dataclasses.replace(settings, archive_days=30)
        (expired,) = gc.find_garbage(changed, Store(settings.data_dir), {"process": runner})
        assert (expired.kind, expired.name) == (f"archived {kind}", row.unique_name)
        with write("test"):
            type(row).update(archived_at=None).where(type(row).id == row.id).execute()
        expired.remove()
        assert type(row).get_by_id(row.id).deleted_at is None


def test_command_lists_and_removes_garbage(settings, runner, make_build, make_job):
    build, job = make_build(3000), make_job(500)
    close_database()
    variables = environment(dataclasses.replace(settings, runner="process", cache_limit=1000, keep_days=30))
    for options, there, word in ((["--dry-run"], True, "would be"), ([], False, "were")):
        result = CliRunner().invoke(main, ["gc", *options], env=variables)
        assert result.exit_code == 0, result.output
        assert f"virtualenv {env_of(build)}" in result.output
        assert f"log and outputs of job {job.id}: older than 30 days" in result.output
        assert f"3.4 KiB {word} freed" in result.output
        assert env_of(build).exists() is there
    result = CliRunner().invoke(main, ["gc"], env=variables)
    assert result.stdout == "0 B were freed.\n"


def test_command_leaves_out_builds_of_missing_runners(settings, make_build):
    build = make_build(3000)
    with write("test"):
        Build.update(runner="abacus").where(Build.id == build.id).execute()
    close_database()
    result = CliRunner().invoke(main, ["gc"], env=environment(settings))
    assert result.exit_code == 0, result.output
    assert "builds of the abacus runner are left out: there is no runner `abacus`" in result.output


def test_command_refuses_a_folder_without_data(tmp_path):
    result = CliRunner().invoke(main, ["gc", "--data-dir", str(tmp_path)])
    assert (result.exit_code, "is not a polyjob data folder" in result.output) == (1, True)
