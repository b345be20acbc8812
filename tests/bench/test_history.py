"""The data folder with many jobs that benches read."""

from __future__ import annotations

from bench.history import make_many_jobs
from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import Job, JobStatus, Project
from polyjob.services.listing import Listing


def test_history_has_jobs_of_each_kind(tmp_path):
    make_many_jobs(tmp_path, 2_000)
    open_database(tmp_path)
    try:
        projects = [project.id for project in Project.select()]
        for query in ("status:succeeded", "status:failed", "status:created", "status:running", "tags:nightly"):
            assert Listing(Job, projects, projects, query).count(1)
        listed = Job.select().where(Job.archived_at.is_null()).count()
        assert sum(project.job_count for project in Project.select()) == listed
        last = JobStatus.select().where(JobStatus.job == 1).order_by(JobStatus.id.desc()).get()
        assert last.status == Job.get_by_id(1).status
        sql = "SELECT COUNT(*) FROM sqlite_master WHERE type IN ('index', 'trigger') AND tbl_name = 'job'"
        assert database.execute_sql(sql).fetchone()[0] > 20
    finally:
        close_database()
