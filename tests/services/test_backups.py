"""Backups: their contents, and their restore."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyjob.clock import now
from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import Job, User
from polyjob.logs.times import LineTimes
from polyjob.services.backups import RESTORING, CannotRestore, Restored, restore_backup, write_backup
from polyjob.storage.backup_tar import BadBackup, write_tar
from polyjob.storage.store import Store
from runners.common.log_times import append_times

JOB = "jobs/" + "a" * 32


@pytest.fixture
def backup(data_dir: Path, create: Any) -> bytes:
    """The backup of a server with a finished, a running and a queued job."""
    done, running, _ = (create(name=name) for name in ("done", "running", "queued"))
    Job.update(status="succeeded", exit={"reason": "exited", "code": 0}).where(Job.id == done.id).execute()
    Job.update(status="running", attempt_at=now(), handle="h").where(Job.id == running.id).execute()
    store = Store(data_dir)
    for job in (done, running):
        store.make_job_folder(job.uuid)
        store.job_log(job.uuid).write_bytes(b"line\n" * 10_000)
        append_times(str(store.job_log(job.uuid)), 0, [(0, 1000)])
    out = io.BytesIO()
    write_backup(data_dir, out)
    return out.getvalue()


def restore(backup: bytes, folder: Path) -> Restored:
    close_database()
    return restore_backup(io.BytesIO(backup), folder)


def with_member(backup: bytes, name: str, **attributes: Any) -> bytes:
    """Return the backup with one more member before the manifest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(backup)) as source, tarfile.open(fileobj=out, mode="w") as copy:
        for member in source:
            if member.name == "manifest.json":
                extra = tarfile.TarInfo(name)
                for key, value in attributes.items():
                    setattr(extra, key, value)
                copy.addfile(extra, io.BytesIO())
            copy.addfile(member, source.extractfile(member))
    return out.getvalue()


def test_restored_folder_has_the_same_rows_and_files(backup: bytes, tmp_path: Path):
    folder = tmp_path / "restored"
    restored = restore(backup, folder)
    assert (restored.lost_jobs, restored.queued_jobs) == (1, 1)
    open_database(folder)
    assert [job.name for job in Job.select().order_by(Job.id)] == ["done", "running", "queued"]
    assert User.select().count() == 1
    for job in Job.select().where(Job.name != "queued"):
        log = Store(folder).job_log(job.uuid)
        assert log.read_bytes() == b"line\n" * 10_000
        with LineTimes(log) as times:
            assert times.at(5) is not None
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("polyjob.db-")) == [
        "jobs", "polyjob.db", "write.lock",
    ]  # fmt: skip


def test_running_job_is_lost_and_not_known_to_its_backend(backup: bytes, tmp_path: Path):
    restore(backup, tmp_path / "restored")
    open_database(tmp_path / "restored")
    job = Job.get(Job.name == "running")
    assert (job.exit["reason"], job.handle) == ("lost", None)
    assert Job.get(Job.name == "queued").exit is None


def test_job_whose_outputs_were_not_stored_yet_says_so(backup: bytes, data_dir: Path, tmp_path: Path):
    Job.update(exit={"reason": "exited", "code": 0}).where(Job.name == "running").execute()
    out = io.BytesIO()
    write_backup(data_dir, out)
    assert restore(out.getvalue(), tmp_path / "restored").lost_jobs == 0
    open_database(tmp_path / "restored")
    assert "before the outputs of this job were stored" in Job.get(Job.name == "running").notes[0]["text"]


def test_files_of_a_backup_are_private(backup: bytes, tmp_path: Path):
    restore(backup, tmp_path / "restored")
    assert (tmp_path / "restored").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "restored" / "polyjob.db").stat().st_mode & 0o777 == 0o600


def test_backups_at_the_same_time_are_all_complete(backup: bytes, data_dir: Path, tmp_path: Path):
    def write(number: int) -> bytes:
        out = io.BytesIO()
        write_backup(data_dir, out)
        database.close()
        return out.getvalue()

    with ThreadPoolExecutor(4) as pool:
        backups = list(pool.map(write, range(4)))
    for number, one in enumerate(backups):
        assert restore(one, tmp_path / f"restored-{number}").contents.files == 5


def test_backup_leaves_nothing_in_the_data_folder(backup: bytes, data_dir: Path):
    assert not list(data_dir.glob("*.backup"))


def test_growing_log_is_packed_with_its_first_length(tmp_path: Path):
    log = tmp_path / "log"
    log.write_bytes(b"a" * 100_000)

    class Growing(io.BytesIO):
        def write(self, data: Any) -> int:
            with log.open("ab") as file:
                file.write(b"b")
            return super().write(data)

    out = Growing()
    write_tar(out, {}, [(f"{JOB}/log", log), (f"{JOB}/missing", tmp_path / "missing")])
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["polyjob-backup.json", f"{JOB}/log", "manifest.json"]
        assert tar.getmember(f"{JOB}/log").size == 100_000


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.97])
def test_truncated_backup_is_refused(backup: bytes, tmp_path: Path, share: float):
    with pytest.raises(BadBackup):
        restore(backup[: int(len(backup) * share)], tmp_path / "restored")
    assert list((tmp_path / "restored").iterdir()) == []


def test_changed_byte_is_noticed(backup: bytes, tmp_path: Path):
    position = backup.index(b"line\nline\n") + 5_000
    changed = backup[:position] + b"X" + backup[position + 1 :]
    with pytest.raises(BadBackup, match="damaged: 'jobs/"):
        restore(changed, tmp_path / "restored")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "jobs/../../evil", "evil", f"{JOB}/work/evil", "jobs/x/log", "polyjob.db-wal"]
)
def test_file_that_does_not_belong_there_is_refused(backup: bytes, tmp_path: Path, name: str):
    with pytest.raises(BadBackup, match="does not belong there"):
        restore(with_member(backup, name), tmp_path / "restored")
    assert [path.name for path in tmp_path.rglob("evil")] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_member_that_is_no_file_is_refused(backup: bytes, tmp_path: Path, kind: bytes):
    with pytest.raises(BadBackup, match="does not belong there"):
        restore(with_member(backup, f"{JOB}/log", type=kind, linkname="/etc/passwd"), tmp_path / "restored")


def test_other_tar_is_refused(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("polyjob.db"))
    with pytest.raises(BadBackup, match="not a backup of polyjob"):
        restore(out.getvalue(), tmp_path / "restored")


def test_backup_of_a_newer_polyjob_is_refused(backup: bytes, data_dir: Path, tmp_path: Path):
    database.execute_sql("PRAGMA user_version = 9999")
    out = io.BytesIO()
    write_backup(data_dir, out)
    with pytest.raises(CannotRestore, match="newer polyjob"):
        restore(out.getvalue(), tmp_path / "restored")
    assert list((tmp_path / "restored").iterdir()) == []


@pytest.mark.parametrize("name", ["polyjob.db", "file", RESTORING])
def test_folder_in_use_is_not_changed(backup: bytes, tmp_path: Path, name: str):
    folder = tmp_path / "restored"
    folder.mkdir()
    (folder / name).write_text("mine")
    (folder / "notes").write_text("mine")
    with pytest.raises(CannotRestore, match="not empty"):
        restore(backup, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: "mine", "notes": "mine"}


def test_root_of_a_file_system_counts_as_empty(backup: bytes, tmp_path: Path):
    (tmp_path / "restored" / "lost+found").mkdir(parents=True)
    assert restore(backup, tmp_path / "restored").contents.files == 5


@pytest.mark.parametrize("point", ["restore-jobs:before", "restore:before", "restore-jobs:after"])
def test_killed_restore_can_be_repeated(backup: bytes, tmp_path: Path, point: str):
    file, folder = tmp_path / "backup.tar", tmp_path / "restored"
    file.write_bytes(backup)
    command = [sys.executable, "-m", "polyjob", "restore", str(file), "--data-dir", str(folder)]
    killed = subprocess.run(command, env=os.environ | {"POLYJOB_CRASH_AT": point}, check=False)
    assert killed.returncode == -9
    assert not (folder / "polyjob.db").exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 job ran at that time" in again.stdout
    assert re.search(r" as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: ", again.stdout)
    assert not (folder / RESTORING).exists()


def test_manifest_has_each_file(backup: bytes):
    with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert tar.getnames() == ["polyjob-backup.json", *manifest, "manifest.json"]
        assert {name: tar.getmember(name).size for name in manifest} == {
            name: entry["size"] for name, entry in manifest.items()
        }
