"""Migrations of a data folder with an earlier schema."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from polyjob.db import migrations
from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import TABLES, Job, JobTag, Project, Queue, Token, User
from polyjob.jobconfig.commands import shown_command
from polyjob.services import bookmarks
from polyjob.storage.store import Store

COMMANDS = ("make", "é" * 300, ["make", "make test"], ['\n é"\\' * 100], [str(n) for n in range(500)])
CONFIGS = [None, {}, {"run": None}, {"tags": ["a"]}, *({"run": {"cmd": command}} for command in COMMANDS)]


@pytest.fixture
def schema_1(tmp_path):
    """A data folder with schema 1, a user and a project, and its connection."""
    folder = tmp_path / "data"
    Store(folder).prepare()
    with contextlib.closing(sqlite3.connect(folder / "polyjob.db", isolation_level=None)) as connection:
        connection.executescript(migrations._migrations()[1])
        connection.executescript(
            """
            PRAGMA user_version = 1;
            INSERT INTO meta VALUES ('installation', 'a'), ('secret', 'b'), ('made_at', 'c');
            INSERT INTO user (id, username, created_at) VALUES (1, 'ana', 1);
            INSERT INTO project (id, uuid, user_id, name, is_public, created_at, updated_at)
            VALUES (1, 'p', 1, 'demo', 0, 1, 1);
            """
        )
        yield folder, connection
    close_database()


def test_data_of_schema_1_is_migrated(schema_1):
    folder, connection = schema_1
    connection.executescript(
        """
        INSERT INTO token (user_id, name, digest, created_at) VALUES (1, 't', 'd', 1);
        INSERT INTO job (id, uuid, project_id, user_id, is_managed, runner, status, created_at, updated_at, finished_at)
        VALUES (1, 'x', 1, 1, 1, 'process', 'succeeded', 1, 1, 1), (2, 'y', 1, 1, 1, 'process', 'created', 1, 1, NULL);
        UPDATE job SET data_refs = '["a", "b"]', tags = '["x", "y", "x"]' WHERE id = 2;
        INSERT INTO bookmark (user_id, job_id, is_set, created_at, updated_at) VALUES (1, 2, 1, 1, 1);
        """
    )
    open_database(folder)
    assert migrations.migrate(folder) == migrations.latest_version() - 1
    assert migrations.migrate(folder) == 0
    assert (folder / f"polyjob.db.before-{migrations.latest_version():04d}").exists()
    for table in TABLES:
        list(table.select())
    ana, job = User.get(), Job.get_by_id(2)
    assert Token.get().scope == "admin"
    assert bookmarks.is_bookmarked(job, ana)
    assert (job.data_refs, Job.get_by_id(1).data_refs) == ({"a": None, "b": None}, None)
    assert sorted(JobTag.select(JobTag.job, JobTag.tag).tuples()) == [(2, "x"), (2, "y")]
    assert Queue.get_by_id("process").length == 1
    before = Project.get()
    assert before.job_count == 2
    database.execute_sql("UPDATE job SET archived_at = 2, version = version + 1 WHERE id = 1")
    after = Project.get()
    assert (after.job_count, after.jobs_version) == (1, before.jobs_version + 1)
    database.execute_sql("DELETE FROM job WHERE id = 2")
    assert (Project.get().job_count, bookmarks.is_bookmarked(job, ana)) == (0, False)
    assert JobTag.select().count() == 0
    assert Queue.get_by_id("process").length == 0


def test_migrated_jobs_show_the_commands_of_new_ones(schema_1):
    folder, connection = schema_1
    columns = "uuid, project_id, user_id, is_managed, runner, status, created_at, updated_at, config, content"
    connection.executemany(
        f"INSERT INTO job ({columns}) VALUES (?, 1, 1, 1, 'process', 'created', 1, 1, ?, 'text')",
        [(str(number), Job.config.db_value(config)) for number, config in enumerate(CONFIGS)],
    )
    open_database(folder)
    migrations.migrate(folder)
    rows = list(Job.select(Job.command, Job.config, Job.content).order_by(Job.id).tuples())
    assert rows == [(shown_command(config), config, "text") for config in CONFIGS]


def test_config_and_content_are_the_last_columns_of_jobs(schema_1):
    folder, _ = schema_1
    open_database(folder)
    migrations.migrate(folder)
    assert [column.name for column in database.get_columns("job")][-2:] == ["config", "content"]


@pytest.fixture
def old_folder(schema_1):
    """A data folder with schema 1, open in this process."""
    folder, connection = schema_1
    connection.close()
    open_database(folder)
    return folder


def users_of(file) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return [name for (name,) in connection.execute("SELECT username FROM user")]


def test_backup_before_a_migration_is_private(old_folder):
    migrations.migrate(old_folder)
    (backup,) = old_folder.glob("polyjob.db.before-*")
    assert backup.stat().st_mode & 0o777 == 0o600
    assert users_of(backup) == ["ana"]


def test_failing_migration_leaves_the_database_unchanged(old_folder, monkeypatch):
    real = migrations._migrations()
    monkeypatch.setattr(migrations, "_migrations", lambda: {**real, max(real) + 1: "INSERT INTO nonsense VALUES (1);"})
    with pytest.raises(migrations.MigrationError, match=r"copy of the database: no such table: nonsense\. Nothing was"):
        migrations.migrate(old_folder)
    assert migrations.current_version() == 1
    assert not (old_folder / migrations.REHEARSAL_FILE).exists()


def test_damaging_migration_leaves_the_database_unchanged(old_folder, monkeypatch):
    real = migrations._migrations()
    damage = "CREATE TABLE t (x CHECK (x > 1));\nPRAGMA ignore_check_constraints = on;\nINSERT INTO t VALUES (0);"
    monkeypatch.setattr(migrations, "_migrations", lambda: {**real, max(real) + 1: damage})
    with pytest.raises(migrations.MigrationError, match="the migrated copy of the database is damaged"):
        migrations.migrate(old_folder)
    assert migrations.current_version() == 1


def test_migration_without_disk_space_changes_nothing(old_folder, monkeypatch):
    monkeypatch.setattr(migrations.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 5 << 20))
    monkeypatch.setattr(migrations, "NEEDED_COPIES", 1 << 20)
    with pytest.raises(migrations.MigrationError, match=r"needs \d+ MiB of free disk space, and 5 MiB are free"):
        migrations.migrate(old_folder)
    assert migrations.current_version() == 1
    assert not list(old_folder.glob("polyjob.db.before-*"))


MIGRATE = """
import pathlib, sys
from polyjob.db.database import open_database
from polyjob.db.migrations import migrate
folder = pathlib.Path(sys.argv[1])
open_database(folder)
migrate(folder)
"""
POINTS = [f"{name}:{side}" for name in ("back-up-database", "migrate") for side in ("before", "after")]


@pytest.mark.parametrize("point", POINTS)
def test_killed_migration_is_complete_after_the_next_start(old_folder, point):
    close_database()
    (old_folder / migrations.REHEARSAL_FILE).write_bytes(b"left by a crash")
    command = [sys.executable, "-c", MIGRATE, str(old_folder)]
    killed = subprocess.run(command, env=os.environ | {"POLYJOB_CRASH_AT": point}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert subprocess.run(command, timeout=60).returncode == 0
    (backup,) = old_folder.glob("polyjob.db.before-*")
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert users_of(backup) == users_of(old_folder / "polyjob.db") == ["ana"]
    open_database(old_folder)
    assert migrations.current_version() == migrations.latest_version()
    assert not (old_folder / migrations.REHEARSAL_FILE).exists()


def test_copy_made_before_a_migration_can_be_put_back(old_folder):
    migrations.migrate(old_folder)
    close_database()
    (backup,) = old_folder.glob("polyjob.db.before-*")
    for name in ("polyjob.db-wal", "polyjob.db-shm"):
        (old_folder / name).unlink(missing_ok=True)
    backup.rename(old_folder / "polyjob.db")
    open_database(old_folder)
    assert migrations.current_version() == 1
    assert users_of(old_folder / "polyjob.db") == ["ana"]
