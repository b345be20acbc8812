"""`polyjob upgrade --check`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyjob.db import migrations
from polyjob.db.database import close_database, open_database, write
from polyjob.db.models import Job, Project, User
from polyjob.services import submission
from polyjob.settings import Settings
from tests.cli.helpers import invoke

HOLD_A_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def check(data_dir: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code, and the findings by part."""
    result = invoke("upgrade", "--check", "--json", "--data-dir", str(data_dir))
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, {each["part"]: each for each in json.loads(result.stdout)}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, without those that SQLite keeps while a database is open."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {path.name: path.read_bytes() for path in files}


def pend(monkeypatch: pytest.MonkeyPatch, statement: str) -> int:
    """Let this polyjob have one migration more, and return its number."""
    real = migrations._migrations()
    number = max(real) + 1
    monkeypatch.setattr(migrations, "_migrations", lambda: {**real, number: statement})
    return number


def test_pending_migrations_are_tried_on_a_copy(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = pend(monkeypatch, "CREATE TABLE later (id INTEGER);")
    before = contents(data_dir)
    (data_dir / migrations.CHECK_FILE).write_bytes(b"left by a crash")
    code, findings = check(data_dir)
    assert (code, contents(data_dir)) == (0, before)
    assert findings["migrations"]["text"].startswith(f"1 is pending: {number:04d}. They took")
    assert f"schema {number}; the database has schema {number - 1}" in findings["version"]["text"]
    assert f"polyjob.db.before-{number:04d}" in findings["going back"]["text"]
    assert findings["disk space"]["ok"]
    assert migrations.current_version() == number - 1


def test_failing_migration_is_found_before_the_upgrade(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pend(monkeypatch, "INSERT INTO nonsense VALUES (1);")
    before = contents(data_dir)
    code, findings = check(data_dir)
    assert (code, findings["migrations"]["ok"], contents(data_dir)) == (1, False, before)
    assert "no such table: nonsense" in findings["migrations"]["text"]


def test_missing_disk_space_is_found_before_the_upgrade(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pend(monkeypatch, "CREATE TABLE later (id INTEGER);")
    monkeypatch.setattr(migrations, "needed_bytes", lambda folder: shutil.disk_usage(folder).free + (1 << 30))
    code, findings = check(data_dir)
    assert (code, findings["disk space"]["ok"]) == (1, False)
    assert "They were not tried" in findings["migrations"]["text"]


def test_up_to_date_database_needs_nothing(data_dir: Path) -> None:
    result = invoke("upgrade", "--check", "--data-dir", str(data_dir))
    assert result.exit_code == 0
    assert "none is pending" in result.stdout
    assert "none is running" in result.stdout


@pytest.fixture
def job(data_dir: Path, project: Project, user: User, settings: Settings) -> Job:
    return submission.create(project, user, {"config": {"run": {"cmd": "true"}}}, settings)


def test_jobs_that_run_are_counted(data_dir: Path, job: Job) -> None:
    with write("test"):
        Job.update(status="running").where(Job.id == job.id).execute()
    assert check(data_dir)[1]["jobs"]["text"].startswith(f"1 job runs on the runner {job.runner}")
    with write("test"):
        Job.update(runner="elsewhere").execute()
    code, findings = check(data_dir)
    assert (code, "which this polyjob cannot use" in findings["jobs"]["text"]) == (1, True)


def test_keepers_of_a_newer_polyjob_are_found(data_dir: Path) -> None:
    (data_dir / "process").mkdir(exist_ok=True)
    (data_dir / "process" / "server-98.lock").touch()
    lock = data_dir / "process" / "server-99.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        code, findings = check(data_dir)
        assert holder.stdin is not None
        holder.stdin.close()
    assert (code, findings["keepers"]["ok"]) == (1, False)
    assert check(data_dir)[0] == 0


def test_invalid_setting_is_found_before_the_upgrade(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYJOB_RUNNER", "nonsense")
    code, findings = check(data_dir)
    assert (code, findings["settings"]["ok"]) == (1, False)
    assert "POLYJOB_RUNNER='nonsense'" in findings["settings"]["text"]


def test_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    result = invoke("upgrade", "--check", "--data-dir", str(tmp_path))
    assert (result.exit_code, "is not a polyjob data folder" in result.stderr) == (1, True)


def test_older_polyjob_names_the_newer_one_and_the_copy(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        number = pend(newer, "CREATE TABLE later (id INTEGER);")
        newer.setattr(migrations.polyjob, "__version__", "9.9.9")
        migrations.migrate(data_dir)
    copy = data_dir / f"polyjob.db.before-{number:04d}"
    for_people = f"was written by polyjob 9.9.9 and has schema {number}, but this is polyjob"
    with pytest.raises(migrations.MigrationError, match=for_people) as refused:
        migrations.migrate(data_dir)
    assert f"go back to the copy that was made before the upgrade, {copy} of" in str(refused.value)
    code, findings = check(data_dir)
    assert (code, for_people in findings["version"]["text"]) == (1, True)
    copy.unlink()
    assert "go back" not in check(data_dir)[1]["version"]["text"]


def test_documented_way_back_restores_the_copy(data_dir: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        number = pend(newer, "ALTER TABLE job ADD COLUMN later TEXT;")
        migrations.migrate(data_dir)
    close_database()
    for name in ("polyjob.db-wal", "polyjob.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    (data_dir / f"polyjob.db.before-{number:04d}").rename(data_dir / "polyjob.db")
    assert check(data_dir)[0] == 0
    open_database(data_dir)
    assert migrations.migrate(data_dir) == 0
    assert Job.get().uuid == job.uuid


def test_check_waits_for_no_other_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pend(monkeypatch, "CREATE TABLE later (id INTEGER);")
    real = migrations._migrate_copy

    def check_again(copy: Path) -> None:
        monkeypatch.setattr(migrations, "_migrate_copy", real)
        assert "another check of this data folder runs" in check(data_dir)[1]["migrations"]["text"].lower()
        real(copy)

    monkeypatch.setattr(migrations, "_migrate_copy", check_again)
    assert check(data_dir)[0] == 0
    with contextlib.closing(sqlite3.connect(data_dir / "polyjob.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
