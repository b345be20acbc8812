"""What a person does on the pages, in a real browser: with JavaScript and, where it says so, without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Server

from .conftest import Pages

SUBMIT = "/root/quick-start/submit"
Check = Callable[[Page], None]
Take = Callable[..., Path]


def number(page: Page) -> int:
    found = re.search(r"/jobs/(\d+)$", page.url)
    assert found, page.url
    return int(found.group(1))


def status(server: Server, job: int) -> str:
    return str(server.call("GET", f"/root/quick-start/jobs/{job}")["last_status"])


@pytest.mark.parametrize("script", [True, False])
def test_a_job_is_submitted_stopped_and_run_again_with_another_command(new_page: Pages, script: bool) -> None:
    page = new_page(java_script_enabled=script)
    page.goto("/")
    page.get_by_role("link", name="Submit").click()
    page.get_by_label("Command").fill("echo first; sleep 600")
    page.get_by_label("Variables").fill("A=1\nB=2")
    page.get_by_role("button", name="Submit").click()
    first = number(page)
    expect(page.get_by_role("status")).to_contain_text(f"Job {first} is submitted.")
    page.get_by_role("button", name="Stop").click()
    assert number(page) == first
    expect(page.get_by_role("status")).to_contain_text("stopped")
    page.get_by_role("link", name="Edit and run").click()
    config = page.get_by_label("Config")
    config.fill(config.input_value().replace("echo first; sleep 600", "echo second"))
    page.get_by_role("button", name="Run").click()
    assert number(page) == first + 1
    expect(page.get_by_role("status")).to_contain_text(f"This job restarts job {first}.")
    expect(page.locator("main")).to_contain_text("echo second")
    page.get_by_role("button", name="Restart").click()
    assert number(page) == first + 2
