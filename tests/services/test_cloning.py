"""Clones of jobs, without an engine."""

from __future__ import annotations

import errno
import os

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job
from polyjob.errors import Invalid, NotFound, Unavailable
from polyjob.services import cloning, jobs
from polyjob.statuses import Status
from polyjob.storage.store import Store

from .helpers import CONFIG, done, pointers


def test_restart_merges_the_patch_and_starts_empty(create, user, settings):
    source = create(name="a", description="d", tags=["t"])
    patch = {"config": {"run": {"cmd": "false"}}}
    clone = cloning.clone(source, user, "restart", patch, settings)
    assert (clone.command, clone.config) == ("false", CONFIG | {"run": {"cmd": "false"}})
    assert (clone.original_id, clone.cloning_strategy, clone.status) == (source.id, "restart", Status.CREATED)
    assert (clone.name, clone.description, clone.tags) == (None, "d", ["t"])
    assert Job.get_by_id(source.id).config == CONFIG


@pytest.mark.parametrize("strategy", ["resume", "copy"])
def test_resume_and_copy_need_a_source_that_is_done(create, user, settings, strategy):
    source = create()
    with pytest.raises(Invalid, match="only a job that is done"):
        cloning.clone(source, user, strategy, {}, settings)
    assert Job.select().count() == 1
    assert cloning.clone(done(source), user, strategy, {}, settings).cloning_strategy == strategy


def test_invalid_patch_creates_no_job(create, user, settings):
    source = create()
    with pytest.raises(Invalid) as refused:
        cloning.clone(source, user, "restart", {"config": {"run": {"cmd": 5}}}, settings)
    assert pointers(refused)[0].startswith("/config/run/cmd")
    assert Job.select().count() == 1


@pytest.mark.parametrize("strategy", ["resume", "copy"])
def test_outputs_are_not_copied_onto_a_full_disk(create, user, settings, monkeypatch, strategy):
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
def test_deleted_source_is_not_found(create, user, settings, strategy):
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


def test_taken_name_gets_a_free_number(create, user, settings):
    source = create(name="a")
    clones = [cloning.clone(source, user, "restart", {"config": {"name": "a"}}, settings) for _ in range(2)]
    assert [clone.name for clone in clones] == ["a-1", "a-2"]


def test_clones_outlive_their_original(create, user, settings):
    source = create()
    clone = cloning.clone(source, user, "restart", {}, settings)
    with write("test"):
        Job.delete().where(Job.id == source.id).execute()
    assert Job.get_by_id(clone.id).original_id is None
