"""Lists of jobs: which ones, in which order, page by page."""

from __future__ import annotations

import html
import re

import pytest
from flask.testing import FlaskClient

from polyjob.clock import now
from polyjob.models import Project
from polyjob.pages.lists import PAGE_SIZE
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, make_job, read, url


def test_the_first_page_lists_the_newest_jobs_first(client: FlaskClient, project: Project) -> None:
    make_job(project, *BEGUN, (Status.UPSTREAM_FAILED, "m", {}), name="earlier")
    make_job(project, *BEGUN, name="later")
    make_job(project)
    page = read(client, "/")
    assert page.text.index("Job 3") < page.text.index("later") < page.text.index("earlier")
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


@pytest.mark.parametrize("order", ["", "?sort=created_at", "?sort=-updated_at", "?sort=updated_at"])
def test_pages_lead_through_all_jobs_and_back(client: FlaskClient, project: Project, order: str) -> None:
    numbers = [make_job(project).id for _ in range(2 * PAGE_SIZE + 3)]
    if order in ("", "?sort=-updated_at"):
        numbers.reverse()

    def walk(path: str, word: str) -> tuple[list[list[int]], str]:
        found, last = [], path
        while path:
            last, page = path, client.get(path).text
            found.append([int(number) for number in re.findall(r'<th scope="row"><a href="[^"]*/jobs/(\d+)"', page)])
            link = re.search(rf'<a rel="{word}" href="([^"]+)"', page)
            path = html.unescape(link.group(1)) if link else ""
        return found, last

    forward, last = walk(f"/ana/demo{order}", "next")
    assert forward == [numbers[:PAGE_SIZE], numbers[PAGE_SIZE : 2 * PAGE_SIZE], numbers[2 * PAGE_SIZE :]]
    assert walk(last, "prev")[0] == forward[::-1]
    assert walk(f"/{order}", "next")[0] == forward


@pytest.mark.parametrize("query", ["next=x", "next=-1.2", "previous=", "next=1.2.3", "next=1." + "9" * 40])
def test_a_page_that_cannot_be_is_the_first(client: FlaskClient, project: Project, query: str) -> None:
    make_job(project, name="here")
    assert "here" in read(client, f"/?{query}").text
