"""The page of the server itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from polyjob.auth.tokens import digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Project, Token, User
from polyjob.engine.disk_usage import measure
from polyjob.engine_link import DISK_USAGE_FILE, write_disk_usage
from polyjob.pages import chart
from polyjob.statuses import Status
from runners.base import RunnerUnavailable
from tests.pages.helpers import BEGUN, EVIL, make_build, make_job, read, url


@pytest.fixture
def admin(client: FlaskClient, user: User) -> FlaskClient:
    with write("test"):
        User.update(is_admin=True).where(User.id == user.id).execute()
    return client


def test_it_is_for_administrators(client: FlaskClient, visitor: FlaskClient) -> None:
    page = read(client, "/status", 403)
    assert "Not allowed" in page.text
    assert "/status" not in page.links
    read(visitor.application.test_client(), "/status", 401)


@pytest.mark.parametrize(
    ("scope", "is_bound", "status"), [("read", False, 403), ("admin", True, 403), ("admin", False, 200)]
)
def test_a_key_that_is_not_good_for_everything_is_not_good_for_it(
    admin: FlaskClient, user: User, project: Project, scope: str, is_bound: bool, status: int
) -> None:
    key = new_token()
    with write("test"):
        bound = project if is_bound else None
        Token.create(user=user, name="k", digest=digest(key), created_at=now(), scope=scope, project=bound)
    browser = admin.application.test_client()
    form = browser.get("/sign-in").text
    found = re.search(r'name="csrf_token" value="(\w+)"', form)
    assert found
    sent = {"key": key, "csrf_token": found.group(1)}
    assert browser.post("/sign-in", data=sent, headers={"Origin": "http://localhost"}).status_code == 303
    assert ("/status" in read(browser, "/projects").links) == (status == 200)
    read(browser, "/status", status)


def test_it_tells_slots_queue_disk_and_failures(admin: FlaskClient, project: Project) -> None:
    make_job(project, *BEGUN)
    make_job(project)
    failed = make_job(project, *BEGUN, (Status.FAILED, None, None), name=EVIL, exit_code=3)
    fine = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    page = read(admin, "/status/")
    text = " ".join(page.text.split())
    assert "Slots1 of 2" in text
    assert "Queue1first submitted" in text
    assert "GiB free" in text
    assert "No engine is running" in text
    assert "exit 3" in text
    assert EVIL in text
    assert "script" not in page.tags
    assert url(failed) in page.links
    assert url(fine) not in page.links
    assert "/status" in page.links


@pytest.mark.parametrize(("query", "hours"), [("", 6), ("?hours=1", 1), ("?hours=24", 24), ("?hours=999", 6)])
def test_the_chart_is_of_the_hours_asked_for(admin: FlaskClient, project: Project, query: str, hours: int) -> None:
    make_job(project, *BEGUN)
    html = admin.get(f"/status{query}").text
    assert f"Slots in use over the last {hours} hours: peak 1 of 2" in html
    assert f'<a href="?hours={hours}" aria-current="true">' in html


class Holder:
    """A runner that holds something for two builds, and for nobody."""

    def cached_artifacts(self) -> dict[str, int]:
        return {"a": 3 << 20, "b": 1 << 20, "nobody's": 1 << 10}

    def artifact_name(self, artifact: str) -> str | None:
        return artifact if artifact in "ab" else None


class Away:
    def cached_artifacts(self) -> dict[str, int]:
        raise RunnerUnavailable("It is away.")


def test_the_largest_builds_are_those_that_the_engine_measured(
    admin: FlaskClient, project: Project, data_dir: Path
) -> None:
    assert "Not measured by the engine yet" in read(admin, "/status").text
    old, new, other = (make_build(project, runner="docker", artifact=name) for name in ("a", "a", "b"))
    make_build(project, runner="docker", artifact="elsewhere")
    runners = {"docker": Holder(), "process": Away()}
    usage = measure(runners)  # type: ignore[arg-type]
    assert usage.builds == {new.id: 3 << 20, other.id: 1 << 20}
    write_disk_usage(data_dir, usage)
    page = read(admin, "/status")
    assert page.text.index("3.0 MiB") < page.text.index("1.0 MiB")
    assert "4.0 MiB" in page.text
    assert f"/ana/demo/builds/{new.id}" in page.links
    assert f"/ana/demo/builds/{old.id}" not in page.links


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"at": "x", "builds": 3}'])
def test_a_report_that_is_none_counts_as_none(admin: FlaskClient, data_dir: Path, report: str) -> None:
    (data_dir / DISK_USAGE_FILE).write_text(report)
    assert "Not measured by the engine yet" in read(admin, "/status").text


# The drawing.


def heights(drawn: chart.Chart) -> list[tuple[float, float]]:
    """(where, how high) of each step of the curve."""
    found = re.findall(r"H([\d.]+)V([\d.]+)", drawn.path)
    return [(float(x), chart.HEIGHT - float(y)) for x, y in found][:-1]


def test_nothing_in_use_is_a_flat_line() -> None:
    drawn = chart.draw([], 0, 1800, 4)
    assert heights(drawn) == [(0, 0)]
    assert (drawn.peak, drawn.utilization) == (0, 0)


def test_a_job_is_as_wide_as_it_took_and_others_stand_on_it() -> None:
    drawn = chart.draw([(900, 1800), (1350, 1500)], 0, 1800, 2)
    curve = [(x, height) for x, height in heights(drawn)]
    assert curve[:2] == [(0, 0), (chart.WIDTH / 2, chart.HEIGHT / 2)]
    assert max(height for _, height in curve) == chart.HEIGHT
    assert drawn.peak == 2
    assert drawn.utilization == pytest.approx((900 + 150) / 3600)


def test_what_reaches_out_of_the_time_is_cut() -> None:
    drawn = chart.draw([(-500, 100), (1700, 9999), (-9, -1), (5000, 6000)], 0, 1800, 1)
    assert drawn.utilization == pytest.approx(200 / 1800)


def test_no_more_slots_are_in_use_than_there_are() -> None:
    drawn = chart.draw([(0, 101), (100, 1800)], 0, 1800, 1)
    assert (drawn.peak, drawn.utilization) == (1, 1)


def test_a_job_too_short_to_be_seen_is_seen() -> None:
    assert chart.draw([(1000, 1001)], 0, 1800, 1).peak == 1
