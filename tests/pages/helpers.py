"""Helpers that create jobs, builds, logs and outputs, and read pages as a browser without JavaScript."""

from __future__ import annotations

import datetime
import re
import uuid
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, BuildStatus, Job, JobStatus, Project, SignInLink, User
from polyjob.statuses import Status
from polyjob.storage.store import Store

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The parsed page: its tags, links, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        """Without the scripts from the server's static files."""
        self.links: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not (tag == "script" and (dict(attrs).get("src") or "").startswith("/static/")):
            self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def sign_in(client: FlaskClient, user: User) -> None:
    key = make_link(user)
    assert client.get(f"/sign-in/{key}").status_code == 303


def make_link(user: User, minutes: float = 5) -> str:
    key = uuid.uuid4().hex
    with write("test"):
        SignInLink.create(digest=digest(key), user=user, expires_at=now() + datetime.timedelta(minutes=minutes))
    return key


def make_job(project: Project, *steps: tuple[Status, str | None, dict[str, Any] | None], **columns: Any) -> Job:
    """Create a job that was submitted a minute ago and had each of these statuses for a second."""
    moment = now() - datetime.timedelta(minutes=1)
    with write("test"):
        job = Job.create(
            project=project,
            user=columns.pop("user", project.user),
            created_at=moment,
            updated_at=moment,
            **{"uuid": uuid.uuid4().hex, "is_managed": True, "runner": "fake"} | columns,
        )
        for status, message, details in ((Status.CREATED, None, None), *steps):
            JobStatus.create(
                uuid=uuid.uuid4().hex, job=job, status=status, message=message, details=details, created_at=moment
            )
            dates = {"started_at": moment} if status is Status.SCHEDULED else {}
            dates |= {"finished_at": moment} if status.is_done else {}
            Job.update(status=status, **dates).where(Job.id == job.id).execute()
            moment += datetime.timedelta(seconds=1)
    return Job.get_by_id(job.id)


BEGUN = ((Status.SCHEDULED, None, None), (Status.RUNNING, None, None))


def read(client: FlaskClient, path: str, status: int = 200) -> Page:
    answer = client.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "text/html"
    return Page(answer.text)


def url(job: Job) -> str:
    return f"/{job.project.user.username}/{job.project.name}/jobs/{job.id}"


def write_log(data_dir: Path, job: Job, content: bytes) -> None:
    path = Store(data_dir).job_log(job.uuid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_build(project: Project, status: Status = Status.SUCCEEDED, **columns: Any) -> Build:
    """Create a build that was submitted a minute ago and took two seconds."""
    moment = now() - datetime.timedelta(minutes=1)
    defaults = {
        "uuid": uuid.uuid4().hex,
        "runner": "process",
        "key": "5" * 64,
        "key_parts": {},
        "config": {"build": {}},
    }
    dates = dict.fromkeys(("created_at", "updated_at", "started_at"), moment)
    if status.is_done:
        dates["finished_at"] = moment + datetime.timedelta(seconds=2)
    with write("test"):
        build = Build.create(project=project, user=project.user, status=status, **defaults | dates | columns)
        for number, step in enumerate(dict.fromkeys((Status.CREATED, status))):
            later = moment + datetime.timedelta(seconds=number)
            BuildStatus.create(uuid=uuid.uuid4().hex, build=build, status=step, created_at=later)
    return build


def seal(data_dir: Path, job: Job, files: dict[str, bytes]) -> None:
    """Write the job's outputs, and seal them if the job has ended. Names can have any bytes but zeros and slashes."""
    folder = Store(data_dir).live_outputs(job.uuid).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if job.status.is_done:
        Store(data_dir).seal(job.uuid, str(job.id), 0)


def log_rows(html: str) -> list[tuple[str, str]]:
    """Return (id, text) of each row of a log page."""
    rows = re.findall(r'<div class="row"(?: id="(L\d+)")?><a[^>]*>\d*</a>(.*?)\n</div>', html, re.DOTALL)
    return [(number, re.sub(r"<[^>]+>", "", text)) for number, text in rows]
