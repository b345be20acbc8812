"""Lists of jobs and projects: selection, order and paging."""

from __future__ import annotations

import html
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from polyjob.auth import users
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Job, Project, User
from polyjob.pages import builds, job_list, projects
from polyjob.pages.job_list import PAGE_SIZE
from polyjob.services import bookmarks
from polyjob.settings import Settings
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, Page, make_build, make_job, read, sign_in, url


def test_first_page_lists_the_newest_jobs_first(client: FlaskClient, project: Project) -> None:
    make_job(project, *BEGUN, (Status.UPSTREAM_FAILED, "m", {}), name="earlier")
    make_job(project, *BEGUN, name="later")
    make_job(project)
    page = read(client, "/")
    assert page.text.index("Job 3") < page.text.index("later") < page.text.index("earlier")
    assert "upstream failed" in page.text
    assert "running" in page.text
    assert "ana/demo" in page.text


@pytest.mark.parametrize("path", ["/", "/ana/demo", "/?query=status:created&sort=-updated_at"])
def test_lists_do_not_read_configs(
    client: FlaskClient, project: Project, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    make_job(project, name="listed")
    statements: list[str] = []
    original = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *call: statements.append(sql) or original(sql, *call))
    assert "listed" in read(client, path).text
    assert any(re.search(r"\bstop_kind\b", sql) for sql in statements), "the rows were read"
    assert not [sql for sql in statements if re.search(r"\b(config|content)\b", sql)]


def test_deleted_jobs_are_not_shown(client: FlaskClient, project: Project) -> None:
    job = make_job(project, name="gone", deleted_at=now())
    assert "gone" not in read(client, "/").text
    assert "gone" not in read(client, "/ana/demo").text
    read(client, url(job), 404)


def test_empty_list_shows_how_to_submit(client: FlaskClient, project: Project) -> None:
    for path in ("/", "/ana/demo"):
        assert "/api/v1/ana/demo/jobs" in read(client, path).text
        assert "curl" in read(client, path).text


@pytest.mark.parametrize("order", ["", "?sort=created_at", "?sort=-updated_at", "?sort=updated_at"])
def test_page_links_lead_through_all_jobs_and_back(client: FlaskClient, project: Project, order: str) -> None:
    numbers = [make_job(project).id for _ in range(2 * PAGE_SIZE + 3)]
    if order in ("", "?sort=-updated_at"):
        numbers.reverse()

    def walk(path: str, rel: str) -> tuple[list[list[int]], str]:
        pages, last_path = [], path
        while path:
            last_path, page = path, client.get(path).text
            pages.append([int(number) for number in re.findall(r'<th scope="row"><a href="[^"]*/jobs/(\d+)"', page)])
            link = re.search(rf'<a rel="{rel}" href="([^"]+)"', page)
            path = html.unescape(link.group(1)) if link else ""
        return pages, last_path

    forward, last_path = walk(f"/ana/demo{order}", "next")
    assert forward == [numbers[:PAGE_SIZE], numbers[PAGE_SIZE : 2 * PAGE_SIZE], numbers[2 * PAGE_SIZE :]]
    assert walk(last_path, "prev")[0] == forward[::-1]
    assert walk(f"/{order}", "next")[0] == forward


@pytest.mark.parametrize("query", ["next=x", "next=-1.2", "previous=", "next=1.2.3", "next=1." + "9" * 40])
def test_invalid_cursor_shows_the_first_page(client: FlaskClient, project: Project, query: str) -> None:
    make_job(project, name="here")
    assert "here" in read(client, f"/?{query}").text


# Filters.


def names(client: FlaskClient, path: str) -> list[str]:
    """Return the names of the jobs in a list, in its order."""
    rows = r'<tr data-part="job-\d+">.*?<th scope="row">(?:<a [^>]*>)?([^< ]+)'
    return re.findall(rows, client.get(path).text, re.S)


@pytest.fixture
def jobs(project: Project) -> dict[str, Job]:
    done = (*BEGUN, (Status.SUCCEEDED, None, None))
    return {
        "waits": make_job(project, name="waits"),
        "runs": make_job(project, *BEGUN, name="runs", tags=["gpu", "a&b"]),
        "fails": make_job(project, *BEGUN, (Status.FAILED, None, None), name="fails", exit_code=3),
        "ends": make_job(project, *done, name="ends"),
        "old": make_job(project, *done, name="old", archived_at=now()),
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["ends", "fails", "runs", "waits"]),
        ("query=status:failed", ["fails"]),
        ("query=status:~failed,name:~ends", ["runs", "waits"]),
        ("query=%20tags:gpu%20", ["runs"]),
        ("query=tags:a%26b", ["runs"]),
        ("query=user.username:nobody", []),
        ("show=archived", ["old"]),
        ("query=archived:true", ["old"]),
        ("query=archived:true,status:running", []),
        ("show=bookmarked", ["fails"]),
        ("show=bookmarked&query=status:running", []),
        ("show=nothing&sort=", ["ends", "fails", "runs", "waits"]),
        ("sort=created_at", ["waits", "runs", "fails", "ends"]),
        ("query=status:failed&sort=updated_at", ["fails"]),
    ],
)
def test_query_string_selects_the_jobs(
    client: FlaskClient, user: User, jobs: dict[str, Job], query: str, expected: list[str]
) -> None:
    bookmarks.add(jobs["fails"], user)
    for path in ("/", "/ana/demo"):
        assert names(client, f"{path}?{query}") == expected


def test_filter_links_select_the_jobs(client: FlaskClient, jobs: dict[str, Job]) -> None:
    html = client.get("/ana/demo?sort=created_at").text
    links = dict(re.findall(r'<a href="([^"]+)"[^>]*>(All|Running|Queued|Failed|Mine|Bookmarked|Archived)<', html))
    lists = {name: names(client, address.replace("&amp;", "&")) for address, name in links.items()}
    assert lists == {
        "All": ["waits", "runs", "fails", "ends"],
        "Running": ["runs"],
        "Queued": ["waits"],
        "Failed": ["fails"],
        "Mine": ["waits", "runs", "fails", "ends"],
        "Bookmarked": [],
        "Archived": ["old"],
    }
    assert 'aria-current="true">Failed' in client.get("/?query=status:failed|upstream_failed").text


@pytest.mark.parametrize("sort", ["nothing", "-name", "created_at,updated_at", "<b>"])
def test_unknown_sort_field_is_reported_and_dropped(client: FlaskClient, jobs: dict[str, Job], sort: str) -> None:
    for path in ("/", "/ana/demo"):
        text = client.get(path, query_string={"sort": sort, "query": "name:runs"}).text
        assert f"Unknown sort field <code>{html.escape(sort)}</code>; use <code>created_at</code>" in text
        assert 'name="sort"' not in text
        assert 'value="name:runs"' in text
        assert names(client, f"{path}?sort={sort}") == []


def test_invalid_query_is_reported_and_kept(client: FlaskClient, jobs: dict[str, Job]) -> None:
    for query, message in (("stat:x", "Unknown job field stat"), ("exit_code:>x", "x is not a whole number")):
        answer = client.get("/ana/demo", query_string={"query": query})
        assert answer.status_code == 200
        assert message in Page(answer.text).text.replace("Key", "key")
        assert f'value="{html.escape(query)}"' in answer.text
        assert 'aria-invalid="true"' in answer.text
        assert "data-part" not in answer.text


def test_query_is_escaped(client: FlaskClient, jobs: dict[str, Job]) -> None:
    page = read(client, "/?query=" + '"><script>alert(1)</script>')
    assert "script" not in page.tags
    assert "alert(1)" not in "".join(page.tags)


def test_empty_results_are_explained(client: FlaskClient, project: Project) -> None:
    assert "No jobs match" in read(client, "/?query=status:failed").text
    assert "No bookmarks yet" in read(client, "/?show=bookmarked").text
    assert "No archived jobs" in read(client, "/?show=archived").text
    assert "No jobs on this page" in read(client, "/?next=5.5").text


def test_status_shows_queue_position_stopping_and_reason(client: FlaskClient, project: Project) -> None:
    for _ in range(2):
        make_job(project)
    make_job(project, *BEGUN, stop_at=now(), stop_kind="person")
    make_job(project, *BEGUN, (Status.FAILED, None, None), exit={"reason": "exited", "code": 3})
    text = " ".join(read(client, "/").text.split())
    assert "queued next" in text
    assert "queued position 2" in text
    assert "running stopping" in text
    assert "failed exit code 3" in text


def test_only_the_head_of_the_queue_has_positions(
    client: FlaskClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyjob.pages.job_list.MAX_QUEUE_POSITION", 1)
    make_job(project)
    make_job(project)
    text = read(client, "/").text
    assert "next" in text
    assert "position" not in text


def test_tags_bookmarks_and_ids_stand_beside_names(client: FlaskClient, project: Project) -> None:
    job = make_job(project, name="<fit>", tags=["a&b", "night"])
    bookmarks.add(job, project.user)
    title = f'<a href="{url(job)}">&lt;fit&gt;</a> <span class="faint">#{job.id}</span>'
    bookmark = ' <span class="bookmarked" title="Bookmarked">★<span class="unseen"> bookmarked</span></span>'
    tags = ' <a class="tag" href="?query=tags%3Aa%26b">a&amp;b</a> <a class="tag" href="?query=tags%3Anight">night</a>'
    assert f'<th scope="row">{title}{bookmark}{tags}</th>' in client.get("/").text


@pytest.mark.parametrize("path", ["/", "/ana/demo", "/?show=archived"])
def test_statements_of_a_list_do_not_grow_with_its_rows(
    client: FlaskClient, project: Project, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    original = database.execute_sql
    monkeypatch.setattr(
        database, "execute_sql", lambda sql, *args, **options: statements.append(sql) or original(sql, *args, **options)
    )

    def count() -> int:
        statements.clear()
        assert client.get(path).status_code == 200
        return len(statements)

    def make_jobs(count: int) -> None:
        for _ in range(count):
            make_job(project, tags=["night"])
            make_job(project, *BEGUN, (Status.FAILED, None, None), archived_at=now())

    make_jobs(1)
    few = count()
    make_jobs(9)
    assert count() == few


# ETags, for the refresh script.


@pytest.mark.parametrize("path", ["/", "/ana/demo", "/projects", "/ana/demo/builds"])
def test_unchanged_list_is_a_304(
    client: FlaskClient, project: Project, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_build(project)
    first = client.get(path)
    tag = first.headers["ETag"]
    with monkeypatch.context() as patch:
        for module, name in ((job_list, "read_page"), (projects, "read_page"), (builds, "latest_builds")):
            patch.delattr(module, name)  # the content must not be looked up again
        again = client.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(f"{path}?query=status:failed", headers={"If-None-Match": tag}).status_code == 200
    make_job(project)
    make_build(project)
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_projects_are_listed_with_counts(client: FlaskClient, project: Project, settings: Settings) -> None:
    make_job(project, *BEGUN)
    make_job(project)
    make_build(project)
    with write("test"):
        other = User.create(username="bob", created_at=now())
        for name, is_public in (("hidden", False), ("open", True)):
            moment = now()
            Project.create(uuid=name, user=other, name=name, is_public=is_public, created_at=moment, updated_at=moment)
    page = read(client, "/projects/")
    text = " ".join(page.text.split())
    assert "ana/demo 2 jobs 1 running 1 builds owner" in text
    assert "bob/open" in text
    assert "hidden" not in text
    assert {"/ana/demo", "/new-project"} <= set(page.links)
    assert "bob/open" in read(client, "/projects?page=0").text
    assert "No projects." in read(client, "/projects?page=9").text


@pytest.mark.parametrize("query", ["show=archived", "query=archived:true"])
@pytest.mark.parametrize("path", ["/", "/ana/demo"])
def test_archived_jobs_are_shown_only_to_writers(
    app: Flask, client: FlaskClient, project: Project, path: str, query: str
) -> None:
    with write("test"):
        Project.update(is_public=True).execute()
    make_job(project, name="put-away", archived_at=now())
    reader = app.test_client()
    sign_in(reader, users.create("bob"))
    assert "put-away" in read(client, f"{path}?{query}").text
    assert "put-away" not in read(reader, f"{path}?{query}").text
