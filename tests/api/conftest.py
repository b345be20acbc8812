"""The application on a real database, and clients that call it as different users."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from polyjob.auth import users
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Project, User
from polyjob.services.transitions import transition

BASE = "/api/v1/ana/demo"
JOBS = f"{BASE}/jobs"
CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}


class Client:
    """A test client that sends a token."""

    def __init__(self, app: Any, token: str | None = None) -> None:
        self.http = app.test_client()
        self.headers = {"Authorization": f"token {token}"} if token else {}

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        headers = {"Accept": "application/problem+json, */*"} | self.headers | options.pop("headers", {})
        if body is not None:
            options["json"] = body
        return self.http.open(path, method=method, headers=headers, buffered=True, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("POST", path, body, **options)

    def patch(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("PATCH", path, body, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("PUT", path, body, **options)

    def delete(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("DELETE", path, body, **options)

    def submit(self, **config: Any) -> dict[str, Any]:
        response = self.post(JOBS, {"config": CONFIG | config})
        assert response.status_code == 201, response.text
        return response.json


@pytest.fixture
def client(app, user, project):
    """Ana, who owns the project `demo`."""
    return Client(app, users.create_token(user, "test")[1])


@pytest.fixture
def other(app, client):
    """Bob, who owns nothing."""
    return Client(app, users.create_token(users.create("bob"), "test")[1])


@pytest.fixture
def admin(app, client):
    return Client(app, users.create_token(users.create("eva", is_admin=True), "test")[1])


@pytest.fixture
def anonymous(app, client):
    return Client(app)


def publish():
    with write("test"):
        Project.update(is_public=True).execute()


def move_job(job_id: int, *statuses: Any, **columns: Any) -> Job:
    """Move the job through these statuses, as the engine would."""
    job = Job.get_by_id(job_id)
    with write("test"):
        for status in statuses:
            assert transition(job, status)
        if columns:
            Job.update(**columns).where(Job.id == job_id).execute()
    return Job.get_by_id(job_id)


def tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def pointers(response: Any) -> list[str]:
    """Return the pointers of the problems of a 400 response."""
    assert response.status_code == 400, response.text
    assert response.mimetype == "application/problem+json"
    return [item.get("pointer", item.get("parameter")) for item in json.loads(response.text)["errors"]]


__all__ = ["BASE", "CONFIG", "JOBS", "Client", "User", "move_job", "now", "pointers", "publish", "tar", "write"]
