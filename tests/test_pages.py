"""The pages, read as a browser without script gets them."""

from __future__ import annotations

import datetime
import re
import time
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from polyjob.app import create_app
from polyjob.clock import now
from polyjob.database import write
from polyjob.models import Build, Job, JobStatus, Project, SignInLink, User
from polyjob.pages import reference, template_folder, words
from polyjob.pages.lists import PAGE_SIZE
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.store import Store
from polyjob.tokens import digest

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser makes of a page: its tags, its links and the text that people read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def visitor(settings: Settings) -> FlaskClient:
    """Nobody is signed in."""
    return create_app(settings).test_client()


@pytest.fixture
def client(visitor: FlaskClient, user: User) -> FlaskClient:
    sign_in(visitor, user)
    return visitor


def sign_in(client: FlaskClient, user: User) -> None:
    key = make_link(user)
    assert client.get(f"/sign-in/{key}").status_code == 303


def make_link(user: User, minutes: float = 5) -> str:
    key = uuid.uuid4().hex
    with write("test"):
        SignInLink.create(digest=digest(key), user=user, expires_at=now() + datetime.timedelta(minutes=minutes))
    return key


def make_job(project: Project, *steps: tuple[Status, str | None, dict[str, Any] | None], **columns: Any) -> Job:
    """A job a minute old that went through these statuses, a second each."""
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


# Signing in.


def test_a_visitor_is_told_how_to_sign_in(visitor: FlaskClient, project: Project) -> None:
    job = make_job(project, name="hidden")
    for path in ("/", "/ana/demo", url(job)):
        page = read(visitor, path, 401)
        assert "link" in page.text
        assert "hidden" not in page.text


def test_a_link_signs_its_user_in_once(visitor: FlaskClient, settings: Settings, user: User) -> None:
    key = make_link(user)
    answer = visitor.get(f"/sign-in/{key}")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "ana" in read(visitor, "/").text
    another = create_app(settings).test_client()
    assert "used already" in read(another, f"/sign-in/{key}", 410).text
    read(another, "/", 401)


@pytest.mark.parametrize(("hours", "status"), [(3, 200), (-3, 200), (-24 * 15, 401)])
def test_a_session_outlives_a_step_of_the_clock(
    visitor: FlaskClient, user: User, monkeypatch: pytest.MonkeyPatch, hours: int, status: int
) -> None:
    moment = time.time() + hours * 3600
    with monkeypatch.context() as then:
        then.setattr("itsdangerous.timed.time.time", lambda: moment)
        sign_in(visitor, user)
    read(visitor, "/", status)


def test_an_unknown_or_expired_link_signs_nobody_in(visitor: FlaskClient, user: User) -> None:
    for key in ("nonsense", make_link(user, minutes=-1)):
        read(visitor, f"/sign-in/{key}", 410)
        read(visitor, "/", 401)


def test_a_look_ahead_does_not_use_the_link_up(visitor: FlaskClient, user: User) -> None:
    key = make_link(user)
    assert visitor.head(f"/sign-in/{key}").status_code == 200
    assert visitor.get(f"/sign-in/{key}", headers={"Sec-Purpose": "prefetch;prerender"}).status_code == 503
    read(visitor, "/", 401)
    assert visitor.get(f"/sign-in/{key}").status_code == 303


def test_the_links_to_log_and_outputs_work_with_the_cookie(
    client: FlaskClient, project: Project, data_dir: Path
) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, "Completed", {}), exit={"reason": "exited", "code": 0})
    write_log(data_dir, job, b"caf\xe9")
    page = read(client, url(job))
    log = next(link for link in page.links if link.endswith("/logs"))
    assert client.get(log).data == b"caf\xe9"
    assert f"/api/v1/ana/demo/jobs/{job.id}/outputs" in page.links


# What is shown.


def test_the_first_page_lists_the_newest_jobs_first(client: FlaskClient, project: Project) -> None:
    make_job(project, *BEGUN, (Status.UPSTREAM_FAILED, "m", {}), name="old")
    make_job(project, *BEGUN, name="new")
    make_job(project)
    page = read(client, "/")
    assert page.text.index("Job 3") < page.text.index("new") < page.text.index("old")
    assert "upstream failed" in page.text
    assert "running" in page.text
    assert "ana/demo" in page.text


def test_a_deleted_job_is_in_no_list_and_has_no_page(client: FlaskClient, project: Project) -> None:
    job = make_job(project, name="gone", deleted_at=now())
    assert "gone" not in read(client, "/").text
    assert "gone" not in read(client, "/ana/demo").text
    read(client, url(job), 404)


def test_an_empty_list_teaches_how_to_submit(client: FlaskClient, project: Project) -> None:
    for path in ("/", "/ana/demo"):
        assert "/api/v1/ana/demo/jobs" in read(client, path).text
        assert "curl" in read(client, path).text


def test_pages_lead_through_all_jobs_and_back(client: FlaskClient, project: Project) -> None:
    numbers = [make_job(project).id for _ in range(2 * PAGE_SIZE + 3)][::-1]

    def walk(path: str, word: str) -> list[list[int]]:
        found = []
        while path:
            html = client.get(path).text
            found.append([int(number) for number in re.findall(r'<th scope="row"><a href="[^"]*/jobs/(\d+)"', html)])
            link = re.search(rf'<a rel="{word}" href="([^"]+)"', html)
            path = link.group(1) if link else ""
        return found

    forward = walk("/ana/demo", "next")
    assert forward == [numbers[:PAGE_SIZE], numbers[PAGE_SIZE : 2 * PAGE_SIZE], numbers[2 * PAGE_SIZE :]]
    backward = walk(f"/ana/demo?before={numbers[2 * PAGE_SIZE - 1]}", "prev")
    assert backward == forward[::-1]


@pytest.mark.parametrize("query", ["?before=x", "?before=-1", "?after=", "?before=" + "9" * 40])
def test_a_page_that_cannot_be_is_the_first(client: FlaskClient, project: Project, query: str) -> None:
    make_job(project, name="here")
    assert "here" in read(client, f"/{query}").text


def test_a_failed_job_says_why(client: FlaskClient, project: Project) -> None:
    end = {"reason": "signalled", "code": 137, "signal": 9, "max_rss": 5 << 20, "cpu_seconds": 1.5}
    job = make_job(project, *BEGUN, (Status.FAILED, "exit-code(137)", {"reason": "signalled"}), exit=end)
    text = read(client, url(job)).text
    assert "Signal 9 (KILL) ended the command: exit code 137." in text
    assert "5.0 MiB" in text
    assert "1.50 s" in text
    assert [text.index(status) for status in ("created", "scheduled", "running", "exit-code(137)")] == sorted(
        text.index(status) for status in ("created", "scheduled", "running", "exit-code(137)")
    )


def test_a_job_whose_build_failed_names_it_and_links_its_log(
    client: FlaskClient, project: Project, data_dir: Path
) -> None:
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
    message = "Build ana.demo.builds.1 failed: step 2 ended with exit code 1"
    job = make_job(project, (Status.SCHEDULED, None, None), (Status.UPSTREAM_FAILED, message, {}), build=build)
    page = read(client, url(job))
    assert message in page.text
    assert f"/api/v1/ana/demo/builds/{build.id}/logs" in page.links


def test_a_waiting_job_says_for_what_and_one_being_stopped_for_whom(
    client: FlaskClient, project: Project, user: User
) -> None:
    make_job(project)
    assert "1 job is ahead" in read(client, url(make_job(project))).text
    stopping = make_job(project, *BEGUN, stop_at=now(), stop_kind="person", stop_by=user)
    assert "ana asked to stop it" in read(client, url(stopping)).text


def test_the_config_notes_and_origin_are_shown(client: FlaskClient, project: Project) -> None:
    first = make_job(project, name="first")
    config = {"run": {"cmd": "echo “hello” && true"}}
    notes = [{"kind": "build.image", "text": "`build.image` was not used."}]
    job = make_job(project, config=config, notes=notes, original=first, cloning_strategy="restart")
    page = read(client, url(job))
    assert "echo “hello” && true" in page.text
    assert "`build.image` was not used." in page.text
    assert url(first) in page.links


def test_the_end_of_a_long_log_is_shown_and_no_more(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    write_log(data_dir, job, b"".join(b"line %d\n" % number for number in range(1000)))
    text = read(client, url(job)).text
    assert "line 999\n" in text
    assert "line 800\n" in text
    assert "line 799\n" not in text


def test_a_line_without_end_is_cut(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    write_log(data_dir, job, b"x" * (5 << 20) + b"END")
    answer = client.get(url(job))
    assert "END" in answer.text
    assert len(answer.data) < 100_000


# Nothing runs.


def test_names_descriptions_notes_and_logs_are_text(client: FlaskClient, project: Project, data_dir: Path) -> None:
    with write("test"):
        Project.update(description=EVIL).where(Project.id == project.id).execute()
    job = make_job(
        project,
        *BEGUN,
        (Status.FAILED, EVIL, {}),
        name=EVIL,
        description=EVIL,
        tags=[EVIL],
        node=EVIL,
        notes=[{"kind": "x", "text": EVIL}],
        config={EVIL: "</pre>" + EVIL},
        exit={"reason": "start", "message": EVIL},
    )
    write_log(data_dir, job, b"</pre>" + EVIL.encode() + b'<img src=x onerror="alert(1)">\xff\x1b[31m red\n')
    for path, count in ((url(job), 8), ("/", 1), ("/ana/demo", 2)):
        page = read(client, path)
        assert page.text.count(EVIL) >= count
        assert "script" not in page.tags
        assert "img" not in page.tags
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
    assert '<img src=x onerror="alert(1)">\ufffd red' in read(client, url(job)).text


def test_every_page_is_under_a_strict_policy(client: FlaskClient, project: Project) -> None:
    job = make_job(project)
    for path in ("/", "/ana/demo", url(job), "/ana/nothing", "/sign-in/nothing"):
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "no-store" in headers["Cache-Control"]


def test_the_style_sheet_is_served_and_small(visitor: FlaskClient) -> None:
    html = visitor.get("/").text
    found = re.search(r'<link rel="stylesheet" href="([^"]+)"', html)
    assert found
    with visitor.get(found.group(1)) as sheet:
        assert (sheet.status_code, sheet.mimetype) == (200, "text/css")
        assert len(sheet.data) < 8000
        assert b"url(" not in sheet.data


# Who may, and what there is not.


def test_anothers_private_project_is_a_404_in_the_same_voice(
    client: FlaskClient, project: Project, settings: Settings
) -> None:
    job = make_job(project, name="secret")
    with write("test"):
        other = User.create(username="bob", created_at=now())
    stranger = create_app(settings).test_client()
    sign_in(stranger, other)
    assert "secret" not in read(stranger, "/").text
    pages = [read(stranger, path, 404).text for path in (url(job), "/ana/demo", "/ana/nothing", "/nobody/demo/jobs/1")]
    assert not any("secret" in text for text in pages)
    assert len(set(pages)) == 1


def test_anothers_public_project_is_there_for_all(client: FlaskClient, project: Project, settings: Settings) -> None:
    job = make_job(project, name="shared")
    with write("test"):
        Project.update(is_public=True).where(Project.id == project.id).execute()
        other = User.create(username="bob", created_at=now())
    stranger = create_app(settings).test_client()
    sign_in(stranger, other)
    assert "shared" in read(stranger, "/").text
    assert "shared" in read(stranger, url(job)).text


def test_a_path_of_no_page_is_a_page_that_says_so(client: FlaskClient) -> None:
    assert "Not found" in read(client, "/no/such/page/at/all", 404).text


@pytest.mark.parametrize("path", ["/ana/demo/", "/ana//demo", "/ana//demo/jobs/{}/", "/sign-in/x/"])
def test_slashes_more_or_less_do_not_matter(client: FlaskClient, project: Project, path: str) -> None:
    job = make_job(project)
    assert client.get(path.format(job.id)).status_code == (410 if "sign-in" in path else 200)


def test_templates_are_found_from_a_checkout_and_from_a_package(tmp_path: Path) -> None:
    assert (template_folder() / "base.html").is_file()


# Words.


@pytest.fixture
def moment() -> Iterator[datetime.datetime]:
    yield datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "just now"),
        (0, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (7200, "2 h ago"),
        (86400, "1 d ago"),
        (7 * 86400, "2026-02-22"),
    ],
)
def test_ago(moment: datetime.datetime, seconds: int, said: str) -> None:
    assert words.ago(moment - datetime.timedelta(seconds=seconds), moment) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (1.26, "1.3 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3725, "1 h 02 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_lasting(seconds: float, said: str) -> None:
    assert words.lasting(datetime.timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 30, "3.0 GiB")]
)
def test_size(count: int, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"caf\xe9", "caf\ufffd"),
        ("größer ✓\n".encode(), "größer ✓\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        (b" 1%\r50%\r99%\nnext\r\n", "99%\nnext\n"),
        (b"a\0b\x07\tc", "a\u2400b\u2407\tc"),
    ],
)
def test_log_text(data: bytes, shown: str) -> None:
    assert words.log_text(data) == shown


@pytest.mark.parametrize(
    ("status", "end", "message", "details", "said"),
    [
        (Status.SUCCEEDED, {"reason": "exited", "code": 0}, "Completed", {}, "The command ended with exit code 0."),
        (Status.SUCCEEDED, None, "Completed", {}, "Completed."),
        (Status.FAILED, {"reason": "exited", "code": 7}, None, {}, "The command ended with exit code 7."),
        (Status.FAILED, {"reason": "lost"}, None, {}, "The job is gone, and nobody saw how it ended."),
        (
            Status.FAILED,
            {"reason": "oom", "code": 137},
            None,
            {},
            "The kernel ended the command for its memory: exit code 137.",
        ),
        (Status.FAILED, {"reason": "start", "message": "No sh"}, None, {}, "The command could not be started. No sh."),
        (
            Status.FAILED,
            {"reason": "signalled", "code": 143, "signal": 15},
            None,
            {"reason": "timeout"},
            "It ran longer than it may. Signal 15 (TERM) ended the command: exit code 143.",
        ),
        (Status.STOPPED, None, "Job was stopped", {"by": "ana"}, "ana stopped it."),
        (Status.STOPPED, None, "Build x was stopped", {}, "Build x was stopped."),
        (
            Status.FAILED,
            {"reason": "exited", "code": 1, "stragglers": ["sleep", "cat"]},
            None,
            {},
            "The command ended with exit code 1. Still running at the end, and killed: sleep, cat.",
        ),
    ],
)
def test_why(
    status: Status, end: dict[str, Any] | None, message: str | None, details: dict[str, Any], said: str
) -> None:
    assert words.why(status, end, message, details, None) == said


class TestReference:
    def test_shows_every_operation_and_shape_to_everybody(self, visitor: FlaskClient) -> None:
        answer = visitor.get("/docs/api/")
        assert answer.status_code == 200
        page = Page(answer.text)
        document = visitor.get("/openapi.json").json
        for path, members in document["paths"].items():
            for method in members.keys() - {"parameters"}:
                assert f"{method.upper()} {path}" in page.text
        for name, schema in document["components"]["schemas"].items():
            assert not schema.get("properties") or f'id="{name}"' in answer.text
        assert "script" not in page.tags

    def test_links_within_itself_lead_somewhere(self, visitor: FlaskClient) -> None:
        text = visitor.get("/docs/api").text
        for link in Page(text).links:
            assert not link.startswith("#") or f'id="{link[1:]}"' in text, link

    def test_says_types_in_words(self) -> None:
        assert reference.type_of({"type": ["array", "null"], "items": {"type": "string"}}) == "list of text or null"
        assert reference.type_of({"oneOf": [{"$ref": "#/x/Job"}, {"type": "integer"}]}) == "Job or whole number"
        assert reference.type_of({"type": "string", "format": "binary"}) == "bytes"
        assert reference.type_of({}) == "anything"
