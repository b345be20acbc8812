"""Migrations of a data folder with an earlier schema."""

from __future__ import annotations

import sqlite3

from polyjob.db import migrations
from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import TABLES, Job, JobTag, Project, Queue, Token, User
from polyjob.services import bookmarks
from polyjob.storage.store import Store


def test_data_of_schema_1_is_migrated(tmp_path):
    folder = tmp_path / "data"
    Store(folder).prepare()
    connection = sqlite3.connect(folder / "polyjob.db")
    connection.executescript(migrations._migrations()[1])
    connection.executescript(
        """
        PRAGMA user_version = 1;
        INSERT INTO meta VALUES ('installation', 'a'), ('secret', 'b'), ('made_at', 'c');
        INSERT INTO user (id, username, created_at) VALUES (1, 'ana', 1);
        INSERT INTO token (user_id, name, digest, created_at) VALUES (1, 't', 'd', 1);
        INSERT INTO project (id, uuid, user_id, name, is_public, created_at, updated_at)
        VALUES (1, 'p', 1, 'demo', 0, 1, 1);
        INSERT INTO job (id, uuid, project_id, user_id, is_managed, runner, status, created_at, updated_at, finished_at)
        VALUES (1, 'x', 1, 1, 1, 'process', 'succeeded', 1, 1, 1), (2, 'y', 1, 1, 1, 'process', 'created', 1, 1, NULL);
        UPDATE job SET data_refs = '["a", "b"]', tags = '["x", "y", "x"]' WHERE id = 2;
        INSERT INTO bookmark (user_id, job_id, is_set, created_at, updated_at) VALUES (1, 2, 1, 1, 1);
        """
    )
    connection.close()
    open_database(folder)
    try:
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
    finally:
        close_database()
