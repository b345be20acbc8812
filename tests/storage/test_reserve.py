"""The reserve on a full disk: its use, its release and its renewal."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from peewee import OperationalError

from polyjob.clock import now
from polyjob.db.database import close_database, open_database, write
from polyjob.db.migrations import migrate
from polyjob.db.models import Build, Job
from polyjob.server.bootstrap import UnusableDataDir, prepare_data_dir
from polyjob.services import builds, jobs, projects, submission
from polyjob.storage import reserve
from polyjob.storage.store import Store
from tests.require import require_root

CONFIG = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a disk of its own with 24 MiB, with its reserve and an open database."""
    require_root()
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    try:
        Store(folder).prepare()
        open_database(folder)
        migrate(folder)
        reserve.renew(folder)
        yield folder
    finally:
        close_database()
        subprocess.run(["umount", folder], check=True)


def fill(data_dir: Path) -> Path:
    """Fill the disk to the last byte."""
    path = data_dir / "filler"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(data_dir).f_bavail == 0
    return path


def test_server_starts_on_a_full_disk_after_a_clean_stop(settings, data_dir):
    prepare_data_dir(settings)
    close_database()
    fill(data_dir)
    prepare_data_dir(settings)
    close_database()
    assert not (data_dir / reserve.RESERVE_FILE).exists()
    fill(data_dir)
    with pytest.raises(UnusableDataDir):  # the reserve is what made the difference
        prepare_data_dir(settings)


ACTS = {
    "delete a job": lambda job, build, user, settings: jobs.delete(job, user, settings),
    "delete jobs": lambda job, build, user, settings: jobs.delete_many(job.project, [job.id], user, settings),
    "stop a job": lambda job, build, user, settings: jobs.request_stop(job, user, settings),
    "stop jobs": lambda job, build, user, settings: jobs.stop_many(job.project, [job.id], user, settings),
    "archive a job": lambda job, build, user, settings: jobs.archive(job, user, settings),
    "delete a build": lambda job, build, user, settings: builds.delete(build, settings),
    "stop a build": lambda job, build, user, settings: builds.request_stop(build, settings),
    "archive a build": lambda job, build, user, settings: builds.archive(build, settings),
    "delete a project": lambda job, build, user, settings: projects.delete(job.project, user, settings),
    "archive a project": lambda job, build, user, settings: projects.archive(job.project, user, settings),
}


@pytest.mark.parametrize("act", ACTS)
def test_deletes_are_committed_on_a_full_disk(settings, project, user, data_dir, act):
    job = submission.create(project, user, CONFIG, settings)
    with write("test"):
        moment, key = now(), {"key": "k", "key_parts": {}, "config": {}, "runner": "fake"}
        build = Build.create(uuid="b" * 32, project=project, user=user, created_at=moment, updated_at=moment, **key)
    fill(data_dir)
    with pytest.raises(OperationalError, match="full"), write("test"):
        Job.update(description="x" * 100_000).where(Job.id == job.id).execute()
    before = Job.get_by_id(job.id).version, Build.get_by_id(build.id).version, job.project.archived_at
    ACTS[act](job, build, user, settings)
    project = type(job.project).get_by_id(job.project_id)
    assert before != (Job.get_by_id(job.id).version, Build.get_by_id(build.id).version, project.archived_at)


def test_reserve_is_kept_while_the_disk_has_space(settings, project, user, data_dir):
    job = submission.create(project, user, CONFIG, settings)
    jobs.delete(job, user, settings)
    assert (data_dir / reserve.RESERVE_FILE).stat().st_blocks * 512 == reserve.RESERVE_BYTES
    assert not [name for name in os.listdir(data_dir) if name.startswith("tmp")]


def test_reserve_is_created_again_once_there_is_space(data_dir):
    filler = fill(data_dir)
    reserve.release(data_dir)
    reserve.release(data_dir)
    reserve.renew(data_dir)
    assert not (data_dir / reserve.RESERVE_FILE).exists()
    os.truncate(filler, reserve.RESERVE_BYTES)
    reserve.renew(data_dir)
    assert (data_dir / reserve.RESERVE_FILE).stat().st_size == reserve.RESERVE_BYTES


def test_full_disk_gets_no_partial_reserve(data_dir, monkeypatch):
    (data_dir / reserve.RESERVE_FILE).unlink()
    fill(data_dir)
    monkeypatch.setattr(reserve, "MIN_FREE_BYTES", 0)
    reserve.renew(data_dir)
    assert not [name for name in os.listdir(data_dir) if name.startswith(reserve.RESERVE_FILE)]
