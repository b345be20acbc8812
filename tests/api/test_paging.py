"""Pages of lists by cursor, and their links."""

from __future__ import annotations

import base64

import pytest

from polyjob.db.database import database
from polyjob.statuses import Status

from .conftest import BASE, JOBS, pointers, write


def walk(client, **parameters):
    """Return the ids of each page."""
    path = f"{JOBS}?" + "&".join(f"{name}={value}" for name, value in ({"cursor": "", "limit": 2} | parameters).items())
    pages = []
    while path:
        response = client.get(path)
        assert response.status_code == 200, response.text
        pages.append([job["id"] for job in response.json["results"]])
        path = response.json["next"]
        if path:
            assert f'<{path}>; rel="next"' in response.headers["Link"]
            path = path.removeprefix("http://localhost")
    return pages


@pytest.fixture
def five(client):
    for number in range(5):
        client.submit(name=f"j{number}")
    with write("test"):
        for number, (started, updated) in enumerate([(3, 10), (None, 10), (1, 30), (None, 20), (3, 10)], start=1):
            sql = "UPDATE job SET started_at = ?, updated_at = ? WHERE id = ?"
            database.execute_sql(sql, (started, updated, number))


@pytest.mark.parametrize(
    ("sort", "pages"),
    [
        ("-updated_at", [[3, 4], [5, 2], [1]]),
        ("updated_at", [[1, 2], [5, 4], [3]]),
        ("started_at", [[3, 1], [5, 2], [4]]),
        ("-started_at", [[5, 1], [3, 4], [2]]),
        ("id", [[1, 2], [3, 4], [5]]),
        ("-id", [[5, 4], [3, 2], [1]]),
    ],
)
def test_cursor_pages_have_every_job_once_in_order(client, five, sort, pages):
    assert walk(client, sort=sort) == pages
    ids = [number for page in pages for number in page]
    listed = [job["id"] for job in client.get(f"{JOBS}?sort={sort}").json["results"]]
    assert listed == ids


def test_new_jobs_do_not_disturb_cursor_pages(client, five):
    first = client.get(f"{JOBS}?cursor=&limit=2&sort=-id").json
    client.submit()
    second = client.get(first["next"].removeprefix("http://localhost")).json
    assert [job["id"] for job in second["results"]] == [3, 2]


def test_cursor_works_with_a_query(client, five):
    assert walk(client, query="name:j1|j3|j4", sort="id") == [[2, 4], [5]]


def test_every_cursor_page_uses_an_index(client, five, monkeypatch):
    executed = []
    original = database.execute_sql

    def note(sql, parameters=None):
        executed.append((sql, parameters))
        return original(sql, parameters)

    monkeypatch.setattr(database, "execute_sql", note)
    for sort in ("-updated_at", "updated_at", "-created_at", "created_at", "id"):
        executed.clear()
        walk(client, sort=sort)
        page_queries = [item for item in executed if "ORDER BY" in item[0] and "LIMIT" in item[0]]
        assert len(page_queries) == 3
        for sql, parameters in page_queries:
            plan = " ".join(row[3] for row in original(f"EXPLAIN QUERY PLAN {sql}", parameters))
            assert "USING" in plan, plan
            assert "TEMP B-TREE" not in plan, f"{sort}: {plan}"


@pytest.mark.parametrize(
    "cursor",
    [b"x", b"\xff", b'["-id",1,1]', b'["-updated_at",1]', b'["-updated_at","a",1]', b"[" * 100_000],
)
def test_invalid_cursor_is_refused(client, five, cursor):
    for text in (cursor.decode("latin-1"), base64.urlsafe_b64encode(cursor).decode()):
        assert pointers(client.get(JOBS, query_string={"cursor": text})) == ["cursor"]


def test_cursor_needs_a_single_sort_column(client, five):
    assert pointers(client.get(f"{JOBS}?cursor=&sort=created_at,-id")) == ["sort"]


def test_cursor_works_for_builds(client):
    assert client.get(f"{BASE}/builds?cursor=").json == {"count": 0, "next": None, "previous": None, "results": []}


def test_offset_pages_have_links(client, five):
    response = client.get(f"{JOBS}?limit=2&offset=2")
    links = dict(reversed(part.split("; ")) for part in response.headers["Link"].split(", "))
    assert links == {
        'rel="next"': f"<http://localhost{JOBS}?limit=2&offset=4>",
        'rel="prev"': f"<http://localhost{JOBS}?limit=2>",
        'rel="first"': f"<http://localhost{JOBS}?limit=2>",
    }
    assert "Link" not in client.get(f"{JOBS}?limit=7").headers


@pytest.mark.parametrize("condition", ["status:~" + "|".join(Status), "status:created,status:~" + "|".join(Status)])
def test_excluding_all_statuses_matches_nothing(client, five, condition):
    page = client.get(f"{JOBS}?query={condition}")
    assert (page.status_code, page.json["count"], page.json["results"]) == (200, 0, []), page.text
