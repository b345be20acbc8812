"""A job in a response: it has the members that its schema defines."""

from __future__ import annotations

import pytest

from polyjob.api.schemas.jobs import JobSchema, JobView
from polyjob.db.models import Job, Upload, User
from polyjob.services import bookmarks
from polyjob.statuses import Status

from .conftest import JOBS, move_job, now

FULL = {
    "node": "n", "ttl": 60, "readme": "r", "exit_code": 1, "original": 1, "cloning_strategy": "restart",
    "exit": {"reason": "exited", "code": 1, "signal": None, "max_rss": 5, "cpu_seconds": 0.5, "stragglers": ["sh"]},
    "notes": [{"kind": "image", "text": "not used"}], "data_refs": {"a": "1"}, "params": {"x": 2},
    "reported": [{"status": "running", "message": None, "created_at": "2026-01-01T00:00:00+00:00"}],
}  # fmt: skip


@pytest.fixture
def full_job(client, project):
    """Create a job, and a second one that has all optional values."""
    client.submit()
    client.submit(name="full", tags=["ä"], description='"\n', environment={"resources": {"cpu": {"requests": 1}}})
    upload = Upload.create(project=project, user=project.user, digest="d", size=1, files={}, created_at=now())
    move_job(2, Status.SCHEDULED, Status.RUNNING, Status.FAILED, code=upload, **FULL)
    bookmarks.add(Job.get_by_id(2), User.get(username="ana"))
    return Job.get_by_id(2)


@pytest.mark.parametrize("job_id", [1, 2])
def test_job_document_equals_its_schema(client, full_job, job_id):
    view = JobView.from_job(
        Job.get_by_id(job_id),
        bookmarked=True,
        queue_position=3,
        waiting_reason="w",
        schedule_id=4,
        root="http://localhost",
    )
    document = view.to_document()
    assert document == JobSchema().dump(view)
    assert list(document) == list(JobSchema().fields)


def test_response_is_the_document(client, full_job):
    shown = client.get(f"{JOBS}/2").json
    assert shown.keys() == JobSchema().fields.keys()
    missing = {name for name, value in shown.items() if value is None}
    assert missing == {"build_job", "queue_position", "waiting", "wait_until", "retries", "schedule"}
    assert shown["bookmarked"] is True
