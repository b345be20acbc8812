"""Lists, jobs, builds, outputs and the status page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Server

from .conftest import PHONE, Pages

PROJECT = "/root/shown"
API = f"/api/v1{PROJECT}/jobs"
TRAIN = r"""
echo epoch 1; cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir plots
printf 'epoch,loss\n1,0.5\n' > metrics.csv
printf '<script>document.title = "ran"</script>' > page.html
printf '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><script>alert(1)</script></svg>' > plots/a.svg
exit 3
"""

SHORTEN = "for (const section of [...document.querySelectorAll('main > section')].slice(8, -4)) section.remove()"
"""Leaves a part of the API reference. All its sections come from two loops, and axe takes more than a minute on all."""


@pytest.fixture(scope="module")
def numbers(server: Server) -> dict[str, int]:
    """Ids by name, in a project with jobs of several kinds."""
    assert server.call("POST", "/api/v1/projects", {"name": "shown"}).status == 201

    def submit(name: str, **config: Any) -> int:
        body = {"version": 1, "kind": "job", "name": name} | config
        number: int = server.call("POST", API, {"config": body}).json["id"]
        return number

    numbers = {
        "fails": submit("fails", run={"cmd": TRAIN}, tags=["nightly"]),
        "built": submit("built", run={"cmd": "true"}, build={"build_steps": ["echo made"]}),
        "unbuilt": submit("unbuilt", run={"cmd": "true"}, build={"build_steps": ["echo oh no", "false"]}),
    }
    for name, number in list(numbers.items()):
        job = server.call("GET", f"{API}/{number}?wait=60").json
        assert job["finished_at"]
        if job["build_job"]:
            numbers[f"build of {name}"] = int(job["build_job"].rpartition(".")[2])
    clone = server.call("POST", f"{API}/{numbers['fails']}/restart", {"config": {"run": {"cmd": "echo other"}}})
    assert server.call("GET", f"{API}/{clone.json['id']}?wait=60").json["finished_at"]
    return numbers | {"clone": clone.json["id"], "driven": drive(server, "driven")}


def drive(server: Server, name: str) -> int:
    """Create an unmanaged job. Tests post its statuses."""
    answer = server.call("POST", API, {"name": name, "is_managed": False})
    assert answer.status == 201
    return int(answer.json["id"])


def report(server: Server, number: int, status: str) -> None:
    assert server.call("POST", f"{API}/{number}/statuses", {"status": status}).status == 201


@pytest.fixture
def paths(numbers: dict[str, int]) -> list[str]:
    """The paths of all pages without forms."""
    job, build = f"{PROJECT}/jobs/{numbers['fails']}", f"{PROJECT}/builds/{numbers['build of built']}"
    return [
        "/",
        PROJECT,
        f"{PROJECT}?query=status:failed",
        f"{PROJECT}?query=nonsense",
        "/?show=archived",
        "/projects",
        job,
        *(f"{PROJECT}/jobs/{numbers[name]}" for name in ("clone", "unbuilt", "driven")),
        f"{job}/outputs",
        f"{job}/outputs/metrics.csv",
        f"{job}/outputs/plots/a.svg",
        f"{PROJECT}/builds",
        build,
        "/status",
        "/docs/api",
    ]


def jobs_in(page: Page) -> list[str]:
    return [text.split("\n")[0] for text in page.locator("#rows th a:first-child").all_inner_texts()]


class TestLists:
    def test_lists_are_filtered_by_query_and_by_link(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(PROJECT)
        page.get_by_label("Filter", exact=True).fill("tags:nightly")
        page.keyboard.press("Enter")
        page.wait_for_url("**/shown?query=tags*")
        assert jobs_in(page) == ["echo other", "fails"]
        page.get_by_role("link", name="Failed", exact=True).click()
        page.wait_for_url("**upstream_failed*")
        assert jobs_in(page) == ["unbuilt", "fails"]
        page.go_back()
        assert jobs_in(page) == ["echo other", "fails"]

    def test_invalid_query_is_reported(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(PROJECT)
        box = page.get_by_label("Filter", exact=True)
        box.fill("stat:failed")
        page.get_by_role("button", name="Filter").click()
        expect(box).to_have_value("stat:failed")
        expect(box).to_have_accessible_description(re.compile("Unknown job field stat"))

    def test_lists_are_sorted_and_paged_by_links(self, page: Page, server: Server, numbers: dict[str, int]) -> None:
        assert server.call("POST", "/api/v1/projects", {"name": "long"}).status == 201
        for number in range(52):
            body = {"name": f"job-{number:02}", "is_managed": False}
            assert server.call("POST", "/api/v1/root/long/jobs", body).status == 201
        page.goto("/root/long")
        assert jobs_in(page)[:2] == ["job-51", "job-50"]
        page.get_by_role("link", name="Next page").click()
        page.wait_for_url("**next=*")
        assert jobs_in(page) == ["job-01", "job-00"]
        page.get_by_role("link", name="Previous page").click()
        page.wait_for_url("**previous=*")
        assert jobs_in(page)[:2] == ["job-51", "job-50"]
        page.get_by_role("link", name="Submitted").click()
        page.wait_for_url("**sort=created_at*")
        assert jobs_in(page)[:2] == ["job-00", "job-01"]
        expect(page.get_by_role("columnheader", name="Submitted")).to_have_attribute("aria-sort", "ascending")

    def test_lists_refresh_and_keep_the_focus(self, page: Page, server: Server, numbers: dict[str, int]) -> None:
        number = drive(server, "changes")
        page.goto(PROJECT)
        page.evaluate("window.mark = document.querySelector('#rows').lastElementChild")
        link = page.get_by_role("link", name="changes", exact=True)
        link.focus()
        report(server, number, "running")
        row = page.locator(f"[data-part='job-{number}']")
        expect(row).to_contain_text("running")
        expect(link).to_be_focused()
        newer = drive(server, "newer")
        expect(page.locator("#rows tr").first).to_contain_text("newer")
        report(server, number, "succeeded")
        expect(row).to_contain_text("succeeded")
        expect(link).to_be_focused()
        assert page.evaluate("window.mark === document.querySelector('#rows').lastElementChild")
        for job in (number, newer):
            server.call("DELETE", f"{API}/{job}")
        expect(page.locator("#rows")).not_to_contain_text("newer")

    def test_lists_work_without_javascript(self, plain_page: Page, numbers: dict[str, int]) -> None:
        plain_page.goto(PROJECT)
        assert "driven" in jobs_in(plain_page)
        plain_page.get_by_role("link", name="Refresh").click()
        assert "driven" in jobs_in(plain_page)
        plain_page.get_by_label("Filter", exact=True).fill("name:driven")
        plain_page.get_by_role("button", name="Filter").click()
        assert jobs_in(plain_page) == ["driven"]


class TestJob:
    def test_job_page_refreshes_until_the_job_ends(self, page: Page, server: Server) -> None:
        number = server.submit("sleep 3; exit 7")["id"]
        server.until(number, "running")  # a page without a log loads again when the job begins
        page.goto(f"/root/quick-start/jobs/{number}")
        stop = page.get_by_role("button", name="Stop")
        expect(stop).to_be_visible()
        page.evaluate("window.mark = 1")
        expect(page.locator(".card")).to_contain_text("The command ended with exit code 7.")
        expect(page.locator(".card > .timeline-bar rect")).not_to_have_count(0)
        expect(stop).to_have_count(0)
        assert "failed" in page.title()
        assert page.evaluate("window.mark") == 1

    def test_failed_build_step_is_named(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(f"{PROJECT}/jobs/{numbers['unbuilt']}")
        expect(page.locator(".card")).to_contain_text("step 2 ended with exit code 1")
        expect(page.get_by_text("oh no").first).to_be_visible()
        build = f"Build {numbers['build of unbuilt']}"
        page.get_by_role("link", name=build).first.click()
        expect(page.get_by_role("heading", name=build)).to_be_visible()

    def test_config_changes_of_a_clone_are_shown(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(f"{PROJECT}/jobs/{numbers['clone']}")
        expect(page.locator("ins")).to_contain_text("echo other")
        page.get_by_label("Facts").get_by_role("link", name="fails").click()
        expect(page.get_by_role("heading", name="fails")).to_be_visible()

    def test_commands_can_be_copied(self, new_page: Pages, numbers: dict[str, int]) -> None:
        page = new_page(permissions=["clipboard-read", "clipboard-write"])
        page.goto(f"{PROJECT}/jobs/{numbers['fails']}")
        page.get_by_text("Commands for this job").click()
        page.get_by_role("button", name="Copy: Job, as JSON", exact=True).click()
        expect(page.get_by_text("Copied")).to_be_visible()
        assert f"{API}/{numbers['fails']}" in page.evaluate("navigator.clipboard.readText()")


class TestOutputs:
    def test_outputs_are_shown_and_not_executed(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(f"{PROJECT}/jobs/{numbers['fails']}")
        page.get_by_role("link", name="page.html").click()
        expect(page.locator("pre")).to_contain_text("<script>")
        assert page.title().startswith("page.html")
        page.goto(f"{PROJECT}/jobs/{numbers['fails']}/outputs/metrics.csv")
        expect(page.get_by_role("cell", name="0.5")).to_be_visible()

    def test_images_are_loaded(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(f"{PROJECT}/jobs/{numbers['fails']}/outputs/plots/a.svg")
        page.wait_for_function("document.querySelector('main img').naturalWidth === 40")

    def test_outputs_are_downloaded(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(f"{PROJECT}/jobs/{numbers['fails']}/outputs/metrics.csv")
        with page.expect_download() as started:
            page.get_by_role("link", name="Download").click()
        assert started.value.suggested_filename == "metrics.csv"
        assert started.value.path().read_text() == "epoch,loss\n1,0.5\n"


class TestEveryPage:
    def test_page_is_accessible_in_light_and_dark_mode(
        self, new_page: Pages, accessible: Callable[..., None], paths: list[str]
    ) -> None:
        page = new_page()
        for path in paths:
            page.emulate_media(color_scheme="light")
            page.goto(path)
            page.evaluate(SHORTEN)
            accessible(page)
            page.emulate_media(color_scheme="dark")
            accessible(page, "color-contrast")

    def test_page_fits_a_phone(self, new_page: Pages, paths: list[str]) -> None:
        page = new_page(viewport=PHONE)
        for path in paths:
            page.goto(path)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path

    def test_page_follows_the_colour_scheme(self, new_page: Pages) -> None:
        grounds = []
        for scheme in ("light", "dark"):
            page = new_page(color_scheme=scheme)
            page.goto("/")
            color = page.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds.append(sum(int(part) for part in re.findall(r"\d+", color)))
        assert grounds[0] > 700
        assert grounds[1] < 100

    def test_times_are_in_the_time_zone_of_the_browser(
        self, new_page: Pages, plain_page: Page, numbers: dict[str, int]
    ) -> None:
        page = new_page(timezone_id="Asia/Tokyo")
        path = f"{PROJECT}/jobs/{numbers['fails']}"
        page.goto(path)
        plain_page.goto(path)
        local, utc = (where.locator("time.at").first for where in (page, plain_page))
        hours = [int(where.inner_text()[11:13]) for where in (local, utc)]
        assert (hours[0] - hours[1]) % 24 == 9
        title = local.get_attribute("title")
        assert title is not None
        assert "GMT+9" in title
        assert "UTC" in title

    def test_page_works_by_keyboard(self, page: Page, numbers: dict[str, int]) -> None:
        page.goto(PROJECT)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
            if reached[-1] == "fails":
                break
        positions = [reached.index(name) for name in ("All", "Failed", "query", "Filter", "Submitted ↓", "fails")]
        assert positions == sorted(positions)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="fails")).to_be_visible()


def test_status_page_shows_the_server(page: Page, numbers: dict[str, int]) -> None:
    page.goto("/status")
    expect(page.locator("[data-part=parts]")).not_to_contain_text("failing")
    expect(page.locator("[data-part=failures]")).to_contain_text("unbuilt")
    page.get_by_role("link", name="24 h").click()
    expect(page.get_by_role("img", name=re.compile("last 24 hours"))).to_be_visible()
