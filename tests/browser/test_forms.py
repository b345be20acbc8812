"""Forms in a real browser, with JavaScript and without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Server

from .conftest import PHONE, Pages

SUBMIT = "/root/quick-start/submit"
Check = Callable[[Page], None]
Take = Callable[..., None]


def number(page: Page) -> int:
    match = re.search(r"/jobs/(\d+)$", page.url)
    assert match, page.url
    return int(match.group(1))


@pytest.mark.parametrize("script", [True, False])
def test_job_is_submitted_stopped_and_run_again(new_page: Pages, script: bool) -> None:
    page = new_page(java_script_enabled=script)
    page.goto("/")
    page.get_by_role("link", name="Submit", exact=True).click()
    page.get_by_label("Command", exact=True).fill("echo first; sleep 600")
    page.get_by_label("Environment variables").fill("A=1\nB=2")
    page.get_by_role("button", name="Submit").click()
    first = number(page)
    expect(page.locator(".flash")).to_contain_text(f"Job {first} was submitted.")
    page.get_by_role("button", name="Stop").click()
    assert number(page) == first
    expect(page.locator(".flash")).to_contain_text("Stop of job")
    page.get_by_text("Run again").click()
    page.get_by_role("link", name="Edit and run").click()
    config = page.get_by_label("Config")
    config.fill(config.input_value().replace("echo first; sleep 600", "echo second"))
    page.get_by_role("button", name="Run").click()
    assert number(page) == first + 1
    expect(page.locator(".flash")).to_contain_text(f"This job restarts job {first}.")
    expect(page.locator("main")).to_contain_text("echo second")
    page.get_by_text("Run again").click()
    page.get_by_role("button", name="Restart").click()
    assert number(page) == first + 2


def test_buttons_follow_the_status(page: Page, server: Server) -> None:
    job = server.submit("sleep 3")["id"]
    server.until(job, "running")
    page.goto(f"/root/quick-start/jobs/{job}")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=20_000)
    page.get_by_text("Run again").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.get_by_text("Run again").click()
    page.get_by_role("button", name="Resume").click()
    assert number(page) == job + 1


@pytest.mark.parametrize("script", [True, False])
def test_delete_asks_first(new_page: Pages, server: Server, script: bool) -> None:
    job = server.submit("true", name=f"doomed-{script}")["id"]
    page = new_page(java_script_enabled=script)
    page.goto(f"/root/quick-start/jobs/{job}")
    page.get_by_label("More actions").click()
    page.get_by_role("link", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Delete")
    page.get_by_role("link", name="Cancel").click()
    assert number(page) == job
    page.get_by_label("More actions").click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name=f"Delete job {job}").click()
    expect(page.locator(".flash")).to_have_text(f"Job {job} was deleted.")


def test_errors_are_shown_beside_their_fields(page: Page, new_page: Pages, accessible: Check, screenshot: Take) -> None:
    page.goto(SUBMIT)
    page.get_by_label("Image").fill("No Image")
    page.get_by_text("Name, resources and limits").click()
    page.get_by_label("Memory").fill("12")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_be_focused()
    expect(page.get_by_label("Memory")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Memory")).to_have_accessible_description(re.compile("For example .* Add a unit"))
    page.get_by_role("alert").get_by_role("link", name="Image").click()
    expect(page.get_by_label("Image")).to_be_focused()
    expect(page.get_by_label("Image")).to_have_value("No Image")
    accessible(page)
    screenshot(page, "submit-wrong", full_page=True)
    new_page.faults.clear()  # the browser logs every response other than 200


def test_commands_follow_the_fields(page: Page, plain_page: Page, screenshot: Take) -> None:
    page.goto(SUBMIT)
    expect(page.locator("#commands")).to_be_hidden()
    page.get_by_label("Command", exact=True).fill("echo it's")
    expect(page.locator("#run-command")).to_have_text("polyjob run -p root/quick-start --clean -- 'echo it'\"'\"'s'")
    page.get_by_label("Image").fill("python:3.12")
    expect(page.locator("#run-command")).to_contain_text("--image python:3.12")
    page.get_by_label("Image").fill("No Image")
    expect(page.locator("#commands")).to_be_hidden()
    plain_page.goto(SUBMIT)
    plain_page.get_by_label("Command", exact=True).fill("echo 1")
    plain_page.get_by_role("button", name="Show as command").click()
    expect(plain_page.locator("#run-command")).to_have_text("polyjob run -p root/quick-start --clean -- 'echo 1'")
    expect(plain_page.get_by_label("Command", exact=True)).to_have_value("echo 1")
    screenshot(plain_page, "submit-commands", full_page=True)


def test_folder_is_uploaded(page: Page, server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine/lib").mkdir(parents=True)
    (tmp_path / "mine/lib/é.txt").write_text("from a folder")
    (tmp_path / "mine/.git").mkdir()
    (tmp_path / "mine/.git/config").write_text("secret")
    page.goto(SUBMIT)
    page.get_by_label("Command", exact=True).fill("cat lib/*; ls -a")
    page.locator("#upload").evaluate("input => input.dataset.limit = 5")
    page.get_by_label("or a folder").set_input_files(tmp_path / "mine")
    page.get_by_role("button", name="Submit").click()
    assert "the limit is 5 bytes" in page.locator("#upload").evaluate("input => input.validationMessage")
    page.locator("#upload").evaluate("input => input.dataset.limit = 1000")
    page.get_by_label("or a folder").set_input_files(tmp_path / "mine")
    page.get_by_role("button", name="Submit").click()
    job = server.until_done(number(page))
    assert job["last_status"] == "succeeded"
    log = server.log(job["id"]).decode()
    assert "from a folder" in log
    assert ".git" not in log


def test_password_sign_in_and_sign_out(new_page: Pages, server: Server) -> None:
    server.call("POST", "/api/v1/users/create", {"username": "pat", "password": "a long password"})
    for script in (True, False):
        page = new_page(storage_state=None, java_script_enabled=script)
        page.goto("/projects")
        page.get_by_label("Username").fill("pat")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("Incorrect username or password.")
        page.get_by_label("Password").fill("a long password")
        page.get_by_role("button", name="Sign in").click()
        assert page.url.endswith("/projects")
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator(".flash")).to_have_text("You are signed out.")
    new_page.faults.clear()  # the browser logs every response other than 200


def test_command_line_token_is_created_and_signs_in(new_page: Pages, plain_page: Page, server: Server) -> None:
    plain_page.goto("/app/token")
    plain_page.get_by_role("button", name="Create a command-line token").click()
    token = plain_page.get_by_label("Token", exact=True).inner_text()
    assert server.call("GET", "/api/v1/users", token=token).json["username"] == "root"
    visitor = new_page(storage_state=None)
    visitor.goto("/sign-in")
    visitor.get_by_text("Sign in with a token instead").click()
    visitor.get_by_label("Token", exact=True).fill(token)
    visitor.get_by_role("button", name="Sign in").click()
    visitor.goto("/keys")
    visitor.get_by_role("row", name="command line").get_by_role("link", name="Revoke").click()
    visitor.get_by_role("button", name="Revoke token").click()
    assert visitor.get_by_label("Password").is_visible()
    new_page.faults.clear()  # the token that it was signed in by is gone: 401


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(("screen", "viewport"), [("wide", {"width": 1100, "height": 900}), ("phone", PHONE)])
def test_every_form_is_accessible(
    new_page: Pages, server: Server, accessible: Check, screenshot: Take, screen: str, viewport: dict[str, int]
) -> None:
    def check(page: Page, title: str, path: str) -> None:
        page.emulate_media(color_scheme="light")
        page.goto(path)
        accessible(page)
        screenshot(page, f"{title}-light-{screen}", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.emulate_media(color_scheme="dark")
        accessible(page, "color-contrast")
        screenshot(page, f"{title}-dark-{screen}", full_page=True)

    server.call("POST", "/api/v1/projects", {"name": f"{'long_name' * 12}-{screen}"})  # for the audit trail
    job = server.submit("sleep 300", build={"image": "python:3.12"})["id"]
    build = server.submit("true", build={"build_steps": [f"echo {screen}"]})["id"]
    build_number = server.until_done(build)["build_job"].rpartition(".")[2]
    page = new_page(viewport=viewport)
    places = {
        "submit": SUBMIT,
        "new-project": "/new-project",
        "keys": "/keys",
        "command-line": "/app/token",
        "password": "/password",
        "capacity": "/status/capacity",
        "users": "/users",
        "audit": "/audit",
        "project-settings": "/root/quick-start/settings",
        "clone": f"/root/quick-start/jobs/{job}/clone",
        "delete": f"/root/quick-start/jobs/{job}/delete",
        "job": f"/root/quick-start/jobs/{job}",
        "build": f"/root/quick-start/builds/{build_number}",
    }
    for title, path in places.items():
        check(page, title, path)
    check(new_page(storage_state=None, viewport=viewport), "sign-in", "/sign-in")
    server.call("POST", f"/api/v1/root/quick-start/jobs/{job}/stop")
