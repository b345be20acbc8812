import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from polyjob.db import models
from polyjob.db.database import close_database, database, open_database, write
from polyjob.db.migrations import current_version, latest_version, migrate
from polyjob.db.models import Meta


def test_models_match_the_migrated_tables(data_dir):
    for table in models.TABLES:
        name = table._meta.table_name
        columns = {row[1] for row in database.execute_sql(f"PRAGMA table_info({name})")}
        assert columns == {field.column_name for field in table._meta.sorted_fields}, name
    names = {table._meta.table_name for table in models.TABLES}
    assert set(database.get_tables()) - {"sqlite_sequence"} == names


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        (models.QUEUED & (models.Job.runner == "fake"), "job_queue"),
        (models.CLAIMED, "job_claimed"),
        (models.DELETED, "job_deleted"),
    ],
)
def test_queries_of_each_pass_use_their_index(data_dir, condition, index):
    sql, parameters = models.Job.select().where(condition).order_by(models.Job.id).sql()
    plan = " ".join(row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters))
    assert index in plan


def test_query_of_live_builds_uses_its_index(data_dir):
    sql, parameters = models.Build.select().where(models.LIVE_BUILDS).order_by(models.Build.id).sql()
    plan = " ".join(row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters))
    assert "build_live" in plan


def test_job_count_follows_the_rows(project, settings, user):
    from polyjob.services import jobs, submission

    def count():
        return models.Project.get_by_id(project.id).job_count

    config = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}
    first, second = (submission.create(project, user, config, settings) for _ in range(2))
    assert count() == 2
    jobs.delete(first, user, settings)
    assert count() == 1
    with write("test"):
        models.Job.delete().where(models.Job.id == first.id).execute()
    assert count() == 1
    with write("test"):
        models.Job.delete().where(models.Job.id == second.id).execute()
    assert count() == 0


def test_tags_follow_the_rows(project, settings, user):
    from polyjob.services import jobs, submission

    def tags():
        return sorted(models.JobTag.select(models.JobTag.job, models.JobTag.tag, models.JobTag.updated_at).tuples())

    config = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}, "tags": ["x", "y"]}}
    first, second = (submission.create(project, user, config | {"tags": ["x", "y"]}, settings) for _ in range(2))
    assert [tag[:2] for tag in tags()] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    jobs.update(first, {"tags": ["z"]}, settings)
    jobs.delete(second, user, settings)
    changed = models.Job.get_by_id(1)
    assert tags() == [(1, "z", changed.updated_at)]
    jobs.archive(first, user, settings)
    assert tags() == []
    jobs.restore(project, 1)
    jobs.request_stop(first, user, settings)
    assert tags() == [(1, "z", models.Job.get_by_id(1).updated_at)]


def test_every_commit_is_synced(data_dir):
    pragmas = {name: database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_write_that_raises_is_rolled_back(data_dir):
    with pytest.raises(ZeroDivisionError), write("test"):
        Meta.create(key="a", value="b")
        raise ZeroDivisionError
    assert Meta.get_or_none(Meta.key == "a") is None
    with write("test"):
        Meta.create(key="a", value="b")


def test_nested_write_is_part_of_the_outer_one(data_dir):
    with pytest.raises(ZeroDivisionError), write("outer"):
        with write("inner"):
            Meta.create(key="a", value="b")
        raise ZeroDivisionError
    assert Meta.get_or_none(Meta.key == "a") is None


def _count_up(data_dir, times, threads):
    open_database(data_dir)

    def work():
        for _ in range(times):
            with write("test"):
                value = int(Meta.get_by_id("counter").value)
                Meta.update(value=str(value + 1)).where(Meta.key == "counter").execute()
        database.close()

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_concurrent_writers_lose_no_update(data_dir):
    with write("test"):
        Meta.create(key="counter", value="0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_up, args=(data_dir, 20, 4)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert Meta.get_by_id("counter").value == str(3 * 4 * 20)


def test_killed_process_releases_the_write_lock(data_dir):
    code = (
        "import sys, time, pathlib\n"
        "from polyjob.db.database import open_database, write\n"
        "from polyjob.db.models import Meta\n"
        "open_database(pathlib.Path(sys.argv[1]))\n"
        "with write('test'):\n"
        "    Meta.create(key='torn', value='x')\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(data_dir)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"in\n"
        process.kill()
    started = time.monotonic()
    with write("test"):
        Meta.create(key="mine", value="x")
    assert time.monotonic() - started < 10
    assert Meta.get_or_none(Meta.key == "torn") is None


def test_crash_point_kills_before_or_after_the_commit(data_dir):
    code = (
        "import sys, pathlib\n"
        "from polyjob.db.database import open_database, write\n"
        "from polyjob.db.models import Meta\n"
        "open_database(pathlib.Path(sys.argv[1]))\n"
        "with write('here'):\n"
        "    Meta.create(key=sys.argv[2], value='x')\n"
    )
    for when, is_committed in (("before", False), ("after", True)):
        environment = os.environ | {"POLYJOB_CRASH_AT": f"here:{when}"}
        process = subprocess.run([sys.executable, "-c", code, str(data_dir), when], env=environment, timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert (Meta.get_or_none(Meta.key == when) is not None) is is_committed


class TestMigrations:
    def test_migration_is_idempotent(self, data_dir):
        assert current_version() == latest_version()
        assert migrate(data_dir) == 0

    def test_database_of_a_newer_polyjob_is_refused(self, data_dir):
        database.execute_sql(f"PRAGMA user_version = {latest_version() + 1}")
        with pytest.raises(RuntimeError, match="newer"):
            migrate(data_dir)

    def test_concurrent_migrations_create_one_database(self, tmp_path):
        code = (
            "import sys, pathlib\n"
            "from polyjob.db.database import open_database\n"
            "from polyjob.db.migrations import migrate\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "open_database(folder)\n"
            "migrate(folder)\n"
        )
        running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
        assert [process.wait(60) for process in running] == [0] * 4
        with sqlite3.connect(tmp_path / "polyjob.db") as connection:
            assert connection.execute("SELECT count(*) FROM meta WHERE key = 'installation'").fetchone() == (1,)
        connection.close()


def test_writer_waits_for_other_processes(data_dir):
    """SQLite's own busy handler has no queue, so a writer could starve."""
    code = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'r+')\n"
        "fcntl.lockf(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(data_dir / "write.lock")]
    written = threading.Event()

    def write_something():
        with write("test"):
            written.set()
        database.close()

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        writer = threading.Thread(target=write_something)
        writer.start()
        assert not written.wait(0.3)
        other.stdin.close()
        assert written.wait(20)
        writer.join()


def test_closing_is_idempotent(data_dir):
    close_database()
    close_database()
