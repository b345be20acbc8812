"""Orphans in a backend, and jobs that are abandoned because their backend does not return."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from polyjob.cli import main
from polyjob.db.database import close_database, open_database, write
from polyjob.db.models import Job
from polyjob.engine import orphans
from polyjob.engine.job_writes import record_exit
from polyjob.engine.orphans import LOOK_INTERVAL_SECONDS
from polyjob.services import jobs
from polyjob.services.abandon import abandon_jobs
from polyjob.services.notes import note_text
from polyjob.settings import environment
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.base import Exit, Reason, RunnerUnavailable


def tar(size: int) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("large")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))
    data = buffer.getvalue()
    yield from (data[at : at + (1 << 16)] for at in range(0, len(data), 1 << 16))


def forget(job: Job) -> None:
    """Delete the row, as in a data folder that was restored to an older state."""
    with write("test"):
        Job.delete().where(Job.id == job.id).execute()


class TestOrphans:
    def test_orphan_is_removed_and_live_job_is_kept(self, world, caplog):
        forgotten, other = world.submit(seconds=10_000), world.submit(seconds=10_000)
        world.settle()
        forget(forgotten)
        world.later(LOOK_INTERVAL_SECONDS)
        assert world.runner.inventory().keys() == {forgotten.uuid, other.uuid}
        world.clock.move(LOOK_INTERVAL_SECONDS)
        world.settle()
        assert world.runner.inventory().keys() == {other.uuid}
        assert f"has something of job {forgotten.uuid}" in caplog.text
        assert world.read(other).status is Status.RUNNING

    def test_ended_orphan_is_fetched_before_removal(self, world, caplog):
        job = world.submit(seconds=10, log="its log\n", outputs='{"file": "text"}')
        world.settle()
        forget(job)
        for _ in range(2):
            world.clock.move(LOOK_INTERVAL_SECONDS)
            world.settle()
        assert world.runner.inventory() == {}
        unclaimed = Store(world.settings.data_dir / "unclaimed")
        assert unclaimed.job_log(job.uuid).read_bytes() == b"its log\n"
        assert [name for name, _ in unclaimed.outputs(job.uuid).tree("")[0]] == ["file"]
        assert f"are kept in {unclaimed.job_folder(job.uuid)}" in caplog.text

    def test_failed_removal_holds_up_no_other_orphan(self, world, monkeypatch):
        stuck, other = sorted((world.submit(seconds=10_000) for _ in range(2)), key=lambda job: job.uuid)
        world.settle()
        for job in (stuck, other):
            forget(job)
        clean, refused = world.runner.clean, [True]

        def refuse(handle):
            if refused and stuck.uuid in handle:
                raise RunnerUnavailable("not now")
            clean(handle)

        monkeypatch.setattr(world.runner, "clean", refuse)
        for expected in ({stuck.uuid, other.uuid}, {stuck.uuid}):
            world.clock.move(LOOK_INTERVAL_SECONDS)
            world.settle()
            assert world.runner.inventory().keys() == expected
        refused.clear()
        world.clock.move(LOOK_INTERVAL_SECONDS)
        world.settle()
        assert world.runner.inventory() == {}

    def test_orphan_with_a_slow_fetch_is_removed_last(self, world, monkeypatch):
        monkeypatch.setattr(orphans, "FIRST_FETCH_SECONDS", 0.0)
        orphaned = sorted((world.submit(seconds=10) for _ in range(2)), key=lambda job: job.uuid)
        world.settle()
        outputs, clean, cleaned = world.runner.outputs, world.runner.clean, []
        small = orphaned[-1].uuid

        def slow(handle):
            if small not in handle:
                yield from tar(3 << 20)
            else:
                yield from outputs(handle)

        def note(handle):
            cleaned.append(world.runner._uuid(handle))
            clean(handle)

        monkeypatch.setattr(world.runner, "outputs", slow)
        monkeypatch.setattr(world.runner, "clean", note)
        for job in orphaned:
            forget(job)
        for _ in range(2):
            world.clock.move(LOOK_INTERVAL_SECONDS)
            world.settle()
        assert world.runner.inventory() == {} and cleaned[0] == small
        unclaimed = Store(world.settings.data_dir / "unclaimed")
        assert unclaimed.outputs(orphaned[0].uuid).open_file("large")[0] == 3 << 20

    def test_unavailable_backend_is_looked_at_again(self, world):
        job = world.submit(seconds=10_000)
        world.settle()
        forget(job)
        away(world).touch()
        world.later(LOOK_INTERVAL_SECONDS + 1)
        away(world).unlink()
        world.clock.move(LOOK_INTERVAL_SECONDS)
        world.settle()
        world.clock.move(LOOK_INTERVAL_SECONDS)
        world.settle()
        assert world.runner.inventory() == {}


def away(world) -> Path:
    return world.settings.data_dir / "fake" / "unavailable"


class TestAbandon:
    @pytest.fixture
    def stuck(self, world):
        """A job that was running when its backend became unavailable."""
        job = world.submit(seconds=5, log="early\n")
        world.later(2)
        away(world).touch()
        world.later(5)
        assert world.read(job).status is Status.RUNNING
        return job

    def test_abandoned_job_is_lost_and_keeps_its_log(self, world, stuck):
        assert abandon_jobs([stuck.id], world.settings)
        world.end(stuck)
        row = world.read(stuck)
        assert (row.status, row.exit["reason"]) == (Status.FAILED, "lost")
        assert "Abandoned on" in world.last(row).message
        assert world.store.job_log(row.uuid).read_bytes() == b"early\n"
        assert note_text(row.notes, "given-up")
        assert not note_text(row.notes, "unreachable")
        assert abandon_jobs([stuck.id], world.settings) == []

    def test_orphan_of_an_abandoned_job_is_removed_later(self, world, stuck):
        abandon_jobs(None, world.settings)
        world.end(stuck)
        away(world).unlink()
        assert world.runner.inventory().keys() == {stuck.uuid}
        for _ in range(3):
            world.clock.move(LOOK_INTERVAL_SECONDS)
            world.settle()
        assert world.runner.inventory() == {}
        assert world.read(stuck).status is Status.FAILED

    def test_abandoned_deleted_job_is_removed(self, world, stuck):
        jobs.delete(stuck, world.user, world.settings)
        world.later(3)
        assert world.read(stuck).status is Status.RUNNING
        abandon_jobs([stuck.id], world.settings)
        world.later(60)
        assert Job.get_or_none(Job.id == stuck.id) is None

    def test_abandon_keeps_a_recorded_exit(self, world):
        job = world.submit(code=3, faults=json.dumps({"clean": "unavailable"}))
        world.later(5)
        assert world.read(job).exit
        assert world.read(job).status is Status.RUNNING
        abandon_jobs([job.id], world.settings)
        world.end(job)
        row = world.read(job)
        assert (row.status, row.exit_code) == (Status.FAILED, 3)
        assert note_text(row.notes, "given-up")

    def test_exit_after_abandoning_is_ignored(self, world, stuck):
        before = world.read(stuck)
        abandon_jobs([stuck.id], world.settings)
        with write("test"):
            record_exit(before.id, Exit(Reason.EXITED, code=0))
        world.end(stuck)
        assert (world.read(stuck).status, world.read(stuck).exit["reason"]) == (Status.FAILED, "lost")

    def test_job_of_an_available_backend_is_not_abandoned(self, world):
        job = world.submit(seconds=100)
        world.later(2)
        assert abandon_jobs(None, world.settings) == []
        assert world.read(job).status is Status.RUNNING

    def test_abandon_command(self, world, stuck):
        variables = environment(world.settings)
        invoke = lambda *arguments: CliRunner().invoke(main, ["abandon", *arguments], env=variables)  # noqa: E731
        close_database()
        listed, wrong, done, empty = invoke(), invoke("99"), invoke(str(stuck.id)), invoke()
        both = invoke("--all", "1")
        open_database(world.settings.data_dir)
        assert f"ana.demo.jobs.{stuck.id}: The fake runner cannot be reached" in listed.output
        assert (wrong.exit_code, "job 99 does not wait for a backend" in wrong.output) == (1, True)
        assert (done.exit_code, done.output) == (0, f"ana.demo.jobs.{stuck.id} was abandoned.\n")
        assert (both.exit_code, "Use either JOBS or --all" in both.output) == (2, True)
        assert empty.output == "No job waits for a backend that does not answer.\n"
