"""Log pages, as a browser without JavaScript gets them."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from polyjob.app import create_app
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, User
from polyjob.logs import follow as watch
from polyjob.logs.watcher import Watcher
from polyjob.pages import logs
from polyjob.services import jobs
from polyjob.services.transitions import insert_first_status, transition
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.common.log_times import append_times
from tests.pages.helpers import BEGUN, log_rows, make_job, read, url, write_log

from ..background import soon

EVIL = b'</div><script>alert(1)</script><img src=x onerror="alert(1)">'


@pytest.fixture(autouse=True)
def watched(watcher: Watcher) -> Iterator[None]:
    """No watch outlives a test, nor does a limit."""
    yield
    watcher.limit = 112
    watcher.close()


@pytest.fixture
def job(project: Project) -> Job:
    """A running job."""
    moment = now()
    with write("test"):
        job = Job.create(
            project=project,
            user=project.user,
            uuid=uuid.uuid4().hex,
            is_managed=True,
            runner="fake",
            created_at=moment,
            updated_at=moment,
        )
        insert_first_status(job)
        for status in (Status.SCHEDULED, Status.RUNNING):
            assert transition(job, status)
    return job


@pytest.fixture
def log(job: Job, data_dir: Path) -> Path:
    path = Store(data_dir).job_log(job.uuid)
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def page(job: Job) -> str:
    return f"/ana/demo/jobs/{job.id}/log"


def end(job: Job) -> None:
    with write("test"):
        Job.update(exit={"reason": "exited", "code": 0}).where(Job.id == job.id).execute()
        assert transition(Job.get_by_id(job.id), Status.SUCCEEDED)


def _once_watched(watcher: Watcher, act: Callable[[], object], waiting: int = 1) -> None:
    """Act once so many wait."""
    deadline = time.monotonic() + 60
    while len(watcher) < waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    act()


class TestPlainPage:
    def test_page_ends_with_the_job_and_explains_the_end(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        log.write_bytes(b"one\ntwo")

        def go_on() -> None:
            with log.open("ab") as file:
                file.write(b" and more\nthree\n")
            end(job)

        with soon(go_on):
            answer = client.get(f"{page}?plain=1")
        assert log_rows(answer.text) == [("L1", "one"), ("L2", "two and more"), ("L3", "three")]
        assert "Succeeded.</strong> The command ended with exit code 0." in answer.text
        assert f'href="/ana/demo/jobs/{job.id}"' in answer.text
        assert answer.text.rstrip().endswith("</html>")
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert len(watcher) == 0

    def test_unfinished_line_is_shown(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
    ) -> None:
        monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.05)
        log.write_bytes(b"Working: ")
        answer = client.get(f"{page}?plain=1", buffered=False)
        html = ""
        for chunk in answer.iter_encoded():
            html += chunk.decode()
            if "Working: " in html:
                break
        answer.close()
        assert '<a href="#L1">1</a>Working: ' in html
        assert len(watcher) == 0

    def test_silent_log_sends_keepalives(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.01)
        monkeypatch.setattr(logs, "KEEPALIVE_EVENTS", 2)
        answer = client.get(f"{page}?plain=1", buffered=False)
        pieces = answer.iter_encoded()
        next(pieces)
        assert next(pieces) == b"\n"
        answer.close()

    def test_ended_job_takes_no_follower_slot(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        log.write_bytes(b"one\n")
        end(job)
        watcher.limit = 0
        assert log_rows(client.get(f"{page}?plain=1").text) == [("L1", "one")]
        assert client.get(f"{page}?plain=1&all=1").status_code == 503  # reading a full log can take long

    def test_page_counts_as_a_follower(self, client: FlaskClient, job: Job, page: str, watcher: Watcher) -> None:
        watcher.limit = 0
        answer = client.get(f"{page}?plain=1", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.mimetype, "Retry-After" in answer.headers) == (503, "text/html", True)
        assert client.head(f"{page}?plain=1").status_code == 200
        assert client.get(page).status_code == 200

    def test_empty_log_is_reported(self, client: FlaskClient, job: Job, page: str) -> None:
        end(job)
        assert "The log is empty. Succeeded." in client.get(f"{page}?plain=1").text

    def test_deleted_job_is_reported(
        self, client: FlaskClient, job: Job, log: Path, page: str, user: User, settings: Settings
    ) -> None:
        log.write_bytes(b"one\n")
        with soon(lambda: jobs.delete(Job.get_by_id(job.id), user, settings)):
            text = client.get(f"{page}?plain=1").text
        assert "The job and its log were deleted." in text

    def test_lost_access_ends_the_page(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
    ) -> None:
        monkeypatch.setattr(watch, "ACCESS_CHECK_SECONDS", 0.1)
        log.write_bytes(b"one\n")

        monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.05)
        answer = client.get(f"{page}?plain=1", buffered=False)
        pieces = answer.iter_encoded()
        html = b"".join(next(pieces) for _ in range(2))
        with write("test"):
            User.update(session_version=User.session_version + 1).execute()
        html += b"".join(pieces)
        assert b"You no longer have access to this log." in html
        assert len(watcher) == 0

    def test_server_restart_is_reported(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        with soon(lambda: _once_watched(watcher, watcher.close)):
            text = client.get(f"{page}?plain=1").text
        assert "The server is restarting." in text

    def test_reassigned_slot_is_reported(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
    ) -> None:
        watcher.limit = 2
        follower = watch.follow(watcher, job, log, owner=job.user_id)
        newcomer = lambda: watch.follow(watcher, job, log, owner=0).close()  # noqa: E731
        with soon(lambda: _once_watched(watcher, newcomer, 2)):
            text = client.get(f"{page}?plain=1").text
        assert "closed for another user" in text
        follower.close()
        watcher.limit = 112

    def test_long_log_starts_near_its_end(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "MAX_PLAIN_BYTES", 100)
        log.write_bytes(b"".join(b"\x1b[31mline %03d\n" % number for number in range(1, 101)))
        end(job)
        text = client.get(f"{page}?plain=1").text
        rows = log_rows(text)
        assert rows[0] == (f"L{101 - len(rows)}", f"line {101 - len(rows):03}")
        assert (rows[-1], 0 < len(rows) < 10) == (("L100", "line 100"), True)
        assert f"It starts at line {101 - len(rows)}" in text
        assert 'class="fg-1"' in text
        assert len(log_rows(client.get(f"{page}?plain=1&all=1").text)) == 100
        log.write_bytes(b"x\n" + b"y" * 1000)
        assert [number for number, _ in log_rows(client.get(f"{page}?plain=1").text)] == ["L2"]

    def test_log_is_escaped(self, client: FlaskClient, job: Job, log: Path, page: str) -> None:
        log.write_bytes(EVIL + b"\xff\x1b[31m" + EVIL + b"\n" + EVIL)
        end(job)
        for query in ("?plain=1", "?frame=1"):
            text = client.get(page + query).text
            assert not re.search(r"<script(?! src=\"/static/)", text)
            assert "<img" not in text
            assert text.count("&lt;script&gt;") == 3

    def test_build_log_is_shown(self, client: FlaskClient, project: Project, data_dir: Path) -> None:
        with write("test"):
            build = Build.create(
                uuid=uuid.uuid4().hex,
                project=project,
                user=project.user,
                config={},
                runner="fake",
                key="0",
                key_parts={},
                status=Status.FAILED,
                created_at=now(),
                updated_at=now(),
            )
        path = Store(data_dir).build_log(build.uuid)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"step 1\n")
        page = f"/ana/demo/builds/{build.id}/log"
        text = client.get(f"{page}?plain=1").text
        assert log_rows(text) == [("L1", "step 1")]
        assert "Failed." in text
        assert f'data-api="/api/v1/ana/demo/builds/{build.id}/logs"' in client.get(page).text


class TestAccess:
    def test_log_needs_access_to_the_project(self, client: FlaskClient, settings: Settings, page: str) -> None:
        visitor = create_app(settings).test_client()
        headers = {"Accept": "text/html"}
        for query in ("", "?plain=1", "?frame=1"):
            assert visitor.get(page + query, headers=headers).status_code == 401
        with write("test"):
            bob = User.create(username="bob", created_at=now())
        visitor.get(f"/sign-in/{create_sign_in_link(bob)}")
        for query in ("", "?plain=1", "?frame=1"):
            assert visitor.get(page + query, headers=headers).status_code == 404

    def test_only_the_frame_page_may_be_framed(self, client: FlaskClient, job: Job, page: str) -> None:
        end(job)
        for path, ancestors in (
            (page, "'none'"),
            (f"{page}?plain=1", "'none'"),
            (f"{page}?frame=1", "'self'"),
            ("/?frame=1", "'none'"),
        ):
            policy = client.get(path).headers["Content-Security-Policy"]
            assert policy.endswith(f"frame-ancestors {ancestors}")
            for kind in ("script", "connect", "frame"):
                assert f"{kind}-src 'self';" in policy
            assert "unsafe" not in policy

    def test_page_with_javascript_has_no_lines(self, client: FlaskClient, log: Path, page: str) -> None:
        log.write_bytes(b"secret\n" * 100)
        text = client.get(page).text
        assert f'<noscript><meta http-equiv="refresh" content="0; url={page}?plain=1"></noscript>' in text
        assert f'data-api="/api/v1{page}s"' in text
        assert "secret" not in text
        assert not re.search(r"<script(?! src=)", text)


def test_lines_are_wrapped_on_demand(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    write_log(data_dir, job, b"x" * 500)
    page = read(client, f"{url(job)}/log")
    assert f"{url(job)}/log?plain=1&wrap=1" in page.links
    assert 'class="log-plain"' in client.get(f"{url(job)}/log?plain=1").text
    assert 'class="log-plain wraps"' in client.get(f"{url(job)}/log?plain=1&wrap=1").text


def test_times_are_shown_on_demand(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    write_log(data_dir, job, b"one\ntwo\n")
    append_times(str(Store(data_dir).job_log(job.uuid)), 4, [(0, 1_795_435_200_000)])
    assert f"{url(job)}?times=1#log" in read(client, url(job)).links
    page = client.get(f"{url(job)}?times=1").text
    assert " data-times>" in page and f'href="{url(job)}#log">Hide times</a>' in page
    assert f'src="{url(job)}/log?frame=1&amp;times=1"' in page
    page = client.get(f"{url(job)}/log?plain=1&times=1").text
    assert log_rows(page) == [("L1", "-one"), ("L2", "2026-11-23 12:00:00two")]
    assert "Times are in UTC." in page and f'href="{url(job)}/log?plain=1">Hide times</a>' in page
    assert f'href="{url(job)}/log?plain=1&amp;wrap=1&amp;times=1"' in page


def test_times_of_a_growing_log_are_shown(client: FlaskClient, job: Job, log: Path, page: str) -> None:
    log.write_bytes(b"\xc3")

    def go_on() -> None:
        append_times(str(log), 0, [(4, 1_795_435_200_000)])
        with log.open("ab") as file:
            file.write(b"\xa9a\ntwo\n")
        end(job)

    with soon(go_on):
        answer = client.get(f"{page}?plain=1&times=1")
    assert log_rows(answer.text) == [("L1", "-éa"), ("L2", "2026-11-23 12:00:00two")]
