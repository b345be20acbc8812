"""Fill a data folder with many jobs, as years of use leave them behind.

    python -m bench.history FOLDER [--jobs 100000]

The rows are written directly by SQL into a database that the migrations create. Their distribution is the same in each
run: most jobs have succeeded, a few are queued or running, some have tags, names, builds and descriptions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyjob.clock import now, to_microseconds
from polyjob.db.database import close_database, database, open_database, write
from polyjob.db.migrations import migrate
from polyjob.db.models import Project, User
from polyjob.storage.store import Store

USERS = ("root", "ana", "bo", "cy")
PROJECTS = ("quick-start", "vision", "speech", "nightly", "empty")
SECONDS_BETWEEN_JOBS = 60

_BULK_SETTINGS = ("wal_checkpoint(TRUNCATE)", "journal_mode = off", "synchronous = off", "cache_size = -100000")
"""A crash leaves a broken database, which costs nothing but another run."""
_JOBS = """
WITH RECURSIVE
numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :jobs),
draws AS (SELECT n, (n * 7919) % 1000 AS a, (n * 104729) % 1009 AS b, (n * 1299709) % 997 AS c FROM numbers),
drawn AS (
    SELECT n, a, b, c, :now - (:jobs - n + 1) * :gap AS moment,
        CASE
            WHEN n > :jobs - 20 THEN 'created'
            WHEN n > :jobs - 25 THEN 'running'
            WHEN a < 870 THEN 'succeeded'
            WHEN a < 960 THEN 'failed'
            WHEN a < 990 THEN 'stopped'
            WHEN a < 999 THEN 'upstream_failed'
            ELSE 'skipped'
        END AS status
    FROM draws
)
INSERT INTO job (
    uuid, project_id, user_id, name, description, tags, is_managed, runner, status,
    created_at, updated_at, started_at, finished_at,
    original_id, cloning_strategy, build_id, exit_code, exit, archived_at, config, content
)
SELECT
    lower(hex(randomblob(16))),
    :project + CASE WHEN b < 700 THEN 0 WHEN b < 900 THEN 1 WHEN b < 1000 THEN 2 ELSE 3 END,
    :user + CASE WHEN c < 900 THEN 0 WHEN c < 980 THEN 1 WHEN c < 996 THEN 2 ELSE 3 END,
    iif(n % 5 = 0, 'train-' || n, NULL),
    iif(n % 20 = 0, 'Fold ' || (n % 10) || ' of the experiment', NULL),
    CASE
        WHEN n % 4 = 0 THEN '["nightly"]'
        WHEN n % 10 = 1 THEN '["gpu","resnet"]'
        WHEN n % 5000 = 3 THEN '["rare"]'
    END,
    n % 10007 <> 0,
    'process',
    status,
    moment,
    moment + iif(status = 'created', 0, :gap / 2),
    iif(status = 'created', NULL, moment + :gap / 4),
    iif(status IN ('created', 'running'), NULL, moment + :gap / 2),
    iif(n % 100 = 0, n - 7, NULL),
    iif(n % 100 = 0, 'restart', NULL),
    iif(n % 3 = 0, 1 + n % (1 + :jobs / 1000), NULL),
    CASE status WHEN 'succeeded' THEN 0 WHEN 'failed' THEN iif(n % 500 = 10, 137, 1) END,
    iif(status = 'succeeded', '{"reason":"exited","code":0}', NULL),
    iif(n % 333 = 0, moment + :gap, NULL),
    '{"version":1,"kind":"job","run":{"cmd":"python train.py --seed ' || n || '"},"environment":{"resources":{}}}',
    'version: 1' || char(10) || 'kind: job' || char(10) || 'run: {cmd: python train.py --seed ' || n || '}'
FROM drawn
"""
_BUILDS = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1 + :jobs / 1000)
INSERT INTO build (
    uuid, project_id, user_id, config, runner, key, key_parts, status, created_at, updated_at, started_at, finished_at
)
SELECT lower(hex(randomblob(16))), :project, :user, '{}', 'process', n, '{}', 'succeeded', at, at, at, at
FROM (SELECT n, :now - :jobs * :gap + n AS at FROM numbers)
"""
_STATUSES = (
    ("'created'", "created_at", ""),
    ("'scheduled'", "started_at", "WHERE started_at IS NOT NULL"),
    ("'running'", "started_at + 1", "WHERE started_at IS NOT NULL"),
    (None, "finished_at", "WHERE finished_at IS NOT NULL"),
)


def make_many_jobs(data_dir: Path, count: int) -> None:
    """Create the data folder with `count` jobs, and leave its database closed."""
    Store(data_dir).prepare()
    open_database(data_dir)
    try:
        migrate(data_dir)
        for setting in _BULK_SETTINGS:
            database.execute_sql(f"PRAGMA {setting}")
        with write("bench"), _without_indexes_and_triggers():
            _insert_rows(count)
        database.execute_sql("PRAGMA journal_mode = wal")
    finally:
        close_database()


def _insert_rows(count: int) -> None:
    moment = now()
    users = [User.create(username=name, is_admin=name == "root", created_at=moment) for name in USERS]
    projects = [
        Project.create(
            uuid=f"{number:032x}", user=users[0], name=name, is_public=False, created_at=moment, updated_at=moment
        )
        for number, name in enumerate(PROJECTS)
    ]
    values = {
        "jobs": count,
        "now": to_microseconds(moment),
        "gap": SECONDS_BETWEEN_JOBS * 1_000_000,
        "user": users[0].id,
        "project": projects[0].id,
    }
    database.execute_sql(_BUILDS, values)
    database.execute_sql(_JOBS, values)
    for status, at, where in _STATUSES:
        database.execute_sql(
            "INSERT INTO job_status (uuid, job_id, status, created_at)"
            f" SELECT lower(hex(randomblob(16))), id, {status or 'status'}, {at} FROM job {where}"
        )
    database.execute_sql(
        "INSERT INTO job_tag (job_id, tag, project_id, created_at, updated_at)"
        " SELECT job.id, value, project_id, created_at, updated_at FROM job, json_each(tags)"
        " WHERE tags IS NOT NULL AND archived_at IS NULL"
    )
    for table in ("job", "build"):
        database.execute_sql(
            f"UPDATE project SET {table}_count = (SELECT COUNT(*) FROM {table} WHERE project_id = project.id"
            " AND deleted_at IS NULL AND archived_at IS NULL)"
        )


@contextmanager
def _without_indexes_and_triggers() -> Iterator[None]:
    """Drop them during the block, and create them again at its end, which is many times faster."""
    sql = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    objects = list(database.execute_sql(sql))
    for kind, name, _ in objects:
        database.execute_sql(f"DROP {kind} {name}")
    yield
    for _, _, definition in objects:
        database.execute_sql(definition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=100_000)
    arguments = parser.parse_args()
    make_many_jobs(arguments.folder, arguments.jobs)


if __name__ == "__main__":
    main()
