"""The pages of logs, read as a browser without script gets them."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from polyjob.app import create_app
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, User
from polyjob.logs import ansi
from polyjob.logs import follow as watch
from polyjob.logs.watcher import Watcher
from polyjob.pages import log_html, logs
from polyjob.pages.log_html import LogRows
from polyjob.services import jobs
from polyjob.services.transitions import insert_first_status, transition
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

from ..beside import soon

EVIL = b'</div><script>alert(1)</script><img src=x onerror="alert(1)">'


@pytest.fixture(autouse=True)
def watched(watcher: Watcher) -> Iterator[None]:
    """No watch outlives a test, nor does a limit."""
    yield
    watcher.limit = 112
    watcher.close()


@pytest.fixture
def job(project: Project) -> Job:
    """It runs."""
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


def rows(html: str) -> list[tuple[str, str]]:
    """(its id, its text) of each row, as it is shown."""
    found = re.findall(r'<div class="row"(?: id="(L\d+)")?><a[^>]*>\d*</a>(.*?)\n</div>', html, re.DOTALL)
    return [(number, re.sub(r"<[^>]+>", "", text)) for number, text in found]


class TestThePageThatGrows:
    def test_ends_with_the_job_and_says_how(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        log.write_bytes(b"one\ntwo")

        def go_on() -> None:
            with log.open("ab") as file:
                file.write(b" and more\nthree\n")
            end(job)

        with soon(go_on):
            answer = client.get(f"{page}?plain=1")
        assert rows(answer.text) == [("L1", "one"), ("L2", "two and more"), ("L3", "three")]
        assert "Succeeded.</strong> The command ended with exit code 0." in answer.text
        assert f'href="/ana/demo/jobs/{job.id}"' in answer.text
        assert answer.text.rstrip().endswith("</html>")
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert len(watcher) == 0

    def test_shows_a_line_before_it_is_ended(
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

    def test_is_not_taken_for_dead_in_silence(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.01)
        monkeypatch.setattr(logs, "KEEPALIVE_EVENTS", 2)
        answer = client.get(f"{page}?plain=1", buffered=False)
        pieces = answer.iter_encoded()
        next(pieces)
        assert next(pieces) == b"\n"
        answer.close()

    def test_of_a_job_that_is_done_holds_no_place(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        log.write_bytes(b"one\n")
        end(job)
        watcher.limit = 0
        assert rows(client.get(f"{page}?plain=1").text) == [("L1", "one")]
        assert client.get(f"{page}?plain=1&all=1").status_code == 503  # the whole may take long

    def test_counts_as_a_follower(self, client: FlaskClient, job: Job, page: str, watcher: Watcher) -> None:
        watcher.limit = 0
        answer = client.get(f"{page}?plain=1", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.mimetype, "Retry-After" in answer.headers) == (503, "text/html", True)
        assert client.head(f"{page}?plain=1").status_code == 200
        assert client.get(page).status_code == 200

    def test_says_that_nothing_was_written(self, client: FlaskClient, job: Job, page: str) -> None:
        end(job)
        assert "The log is empty. Succeeded." in client.get(f"{page}?plain=1").text

    def test_says_that_the_job_was_deleted(
        self, client: FlaskClient, job: Job, log: Path, page: str, user: User, settings: Settings
    ) -> None:
        log.write_bytes(b"one\n")
        with soon(lambda: jobs.delete(Job.get_by_id(job.id), user, settings)):
            text = client.get(f"{page}?plain=1").text
        assert "The job and its log were deleted." in text

    def test_ends_where_who_watches_may_no_longer(
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

    def test_says_that_the_server_restarts(
        self, client: FlaskClient, job: Job, log: Path, page: str, watcher: Watcher
    ) -> None:
        with soon(lambda: _once_watched(watcher, watcher.close)):
            text = client.get(f"{page}?plain=1").text
        assert "The server is restarting." in text

    def test_says_that_another_user_needs_the_place(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
    ) -> None:
        watcher.limit = 2
        held = watch.follow(watcher, job, log, owner=job.user_id)
        newcomer = lambda: watch.follow(watcher, job, log, owner=0).close()  # noqa: E731
        with soon(lambda: _once_watched(watcher, newcomer, 2)):
            text = client.get(f"{page}?plain=1").text
        assert "closed for another user" in text
        held.close()
        watcher.limit = 112

    def test_begins_near_the_end_of_a_large_log(
        self, client: FlaskClient, job: Job, log: Path, page: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "MAX_PLAIN_BYTES", 100)
        log.write_bytes(b"".join(b"\x1b[31mline %03d\n" % number for number in range(1, 101)))
        end(job)
        text = client.get(f"{page}?plain=1").text
        found = rows(text)
        assert found[0] == (f"L{101 - len(found)}", f"line {101 - len(found):03}")
        assert (found[-1], 0 < len(found) < 10) == (("L100", "line 100"), True)
        assert f"It starts at line {101 - len(found)}" in text
        assert 'class="fg-1"' in text
        assert len(rows(client.get(f"{page}?plain=1&all=1").text)) == 100
        log.write_bytes(b"x\n" + b"y" * 1000)
        assert [number for number, _ in rows(client.get(f"{page}?plain=1").text)] == ["L2"]

    def test_nothing_in_it_runs(self, client: FlaskClient, job: Job, log: Path, page: str) -> None:
        log.write_bytes(EVIL + b"\xff\x1b[31m" + EVIL + b"\n" + EVIL)
        end(job)
        for query in ("?plain=1", "?frame=1"):
            text = client.get(page + query).text
            assert not re.search(r"<script(?! src=\"/static/)", text)
            assert "<img" not in text
            assert text.count("&lt;script&gt;") == 3

    def test_of_a_build(self, client: FlaskClient, project: Project, data_dir: Path) -> None:
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
        assert rows(text) == [("L1", "step 1")]
        assert "Failed." in text
        assert f'data-api="/api/v1/ana/demo/builds/{build.id}/logs"' in client.get(page).text


class TestAccess:
    def test_a_visitor_and_a_stranger_see_none(self, client: FlaskClient, settings: Settings, page: str) -> None:
        visitor = create_app(settings).test_client()
        headers = {"Accept": "text/html"}
        for query in ("", "?plain=1", "?frame=1"):
            assert visitor.get(page + query, headers=headers).status_code == 401
        with write("test"):
            bob = User.create(username="bob", created_at=now())
        visitor.get(f"/sign-in/{create_sign_in_link(bob)}")
        for query in ("", "?plain=1", "?frame=1"):
            assert visitor.get(page + query, headers=headers).status_code == 404

    def test_only_a_frame_may_be_framed_and_only_by_us(self, client: FlaskClient, job: Job, page: str) -> None:
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

    def test_the_window_is_left_to_the_script(self, client: FlaskClient, log: Path, page: str) -> None:
        log.write_bytes(b"secret\n" * 100)
        text = client.get(page).text
        assert f'<noscript><meta http-equiv="refresh" content="0; url={page}?plain=1"></noscript>' in text
        assert f'data-api="/api/v1{page}s"' in text
        assert "secret" not in text
        assert not re.search(r"<script(?! src=)", text)


class TestRows:
    def shown(self, *pieces: bytes, flush: bool = True) -> list[tuple[str, str]]:
        made = LogRows(1)
        html = "".join(made.add(piece) + (made.flush() if flush else "") for piece in pieces) + made.end()
        return rows(html)

    def test_a_line_in_pieces_is_one_row(self) -> None:
        assert self.shown(b"a", b"b", b"\nc") == [("L1", "ab"), ("L2", "c")]

    def test_a_character_in_pieces_is_one(self) -> None:
        first, second = "é".encode()[:1], "é".encode()[1:]
        assert self.shown(first, second + b"\n") == [("L1", "é")]
        assert self.shown(b"x", first) == [("L1", "x\ufffd")]

    def test_a_sequence_in_pieces_is_none(self) -> None:
        assert self.shown(b"a\x1b", b"[3", b"1mred\x1b]0;ti", b"tle\x07\n") == [("L1", "ared")]

    def test_each_state_of_a_progress_bar_that_was_shown_has_a_row(self) -> None:
        assert self.shown(b"10%\r", b"20%\r", b"30%\ndone\n") == [
            ("L1", "10%"),
            ("", "20%"),
            ("", "30%"),
            ("L2", "done"),
        ]
        assert self.shown(b"10%\r", b"20%\r", b"30%\n", flush=False) == [("L1", "30%")]

    def test_a_line_without_end_is_not_held_back(self) -> None:
        made = LogRows(1)
        assert made.add(b"x" * (log_html.MAX_PENDING_CHARACTERS + 1)).count("x") == log_html.MAX_PENDING_CHARACTERS + 1

    @pytest.mark.parametrize("piece", [b"\r", b"\x1b[" + b"1;" * 500, b"\x1b]0;"])
    def test_a_line_that_says_nothing_takes_neither_time_nor_room(self, piece: bytes) -> None:
        made, begin = LogRows(1), time.process_time()
        for _ in range(16):
            made.add(piece * (log_html.MAX_PENDING_CHARACTERS // len(piece)))
        made.add(b"x" + piece * (log_html.MAX_PENDING_CHARACTERS // len(piece)) + b"x")
        assert time.process_time() - begin < 5
        assert len(made._pending) <= log_html.MAX_PENDING_CHARACTERS

    def test_colours_go_on_in_the_next_row(self) -> None:
        html = LogRows(7, ansi.Style(1)).add(b"<red>\n\x1b[0mplain\n")
        assert html == (
            '<div class="row" id="L7"><a href="#L7">7</a><span class="fg-1">&lt;red&gt;</span>\n</div>'
            '<div class="row" id="L8"><a href="#L8">8</a>plain\n</div>'
        )

    @given(
        st.lists(st.sampled_from([b"a", b"<", b"\n", b"\xc3", b"\xa9", b"\x1b", b"[31m", b"]8;;", b"\x07", b"m"])),
        st.data(),
    )
    def test_pieces_make_no_difference(self, parts: list[bytes], data: Any) -> None:
        flushed = [data.draw(st.booleans()) for _ in parts]
        made = LogRows(1)
        html = "".join(
            made.add(part) + (made.flush() if flush else "") for part, flush in zip(parts, flushed, strict=True)
        )
        assert rows(html + made.end()) == self.shown(b"".join(parts), flush=False)
