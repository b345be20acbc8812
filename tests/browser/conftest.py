"""A real server, and Chromium on its pages.

A test fails if one of its pages logs an error, violates its Content Security Policy, or sends a request to another
host. Set POLYJOB_TEST_SCREENSHOTS to a folder to keep the screenshots.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.e2e.conftest import Server
from tests.require import require

CHROMIUM = shutil.which("chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MILLISECONDS = 20_000
expect.set_options(timeout=TIMEOUT_MILLISECONDS)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for all tests. Its contexts share nothing."""
    require("chromium", bool(CHROMIUM), "`chromium` is not on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield started
        started.close()


@pytest.fixture(scope="package")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not stop it. It has the jobs of earlier tests."""
    with Server(tmp_path_factory.mktemp("server"), slots="4") as started:
        yield started


def sign_in_link(server: Server) -> str:
    """Return the one-time link that the server printed at its start."""
    match = re.search(r"http://\S+/sign-in/\S+", "".join(server.lines))
    assert match, server.lines
    return match.group()


@pytest.fixture(scope="package")
def cookies(browser: Browser, server: Server) -> Any:
    """The storage state of a browser with `root` signed in."""
    return sign_in(browser, server)


def sign_in(browser: Browser, server: Server) -> Any:
    """Sign in with the server's link. Return a `storage_state` for `new_page`."""
    with contextlib.closing(browser.new_context()) as context:
        context.new_page().goto(sign_in_link(server))
        return context.storage_state()


class Pages:
    """Opens pages, and collects their errors."""

    def __init__(self, browser: Browser, server: Server | None, cookies: Any) -> None:
        self.faults: list[str] = []
        """Unexpected errors. A test that provokes errors must clear them."""
        self._browser = browser
        self._server = server
        self._cookies = cookies
        self._contexts: list[BrowserContext] = []

    def __call__(self, server: Server | None = None, **options: Any) -> Page:
        """Open a page in a new context: with root signed in on the shared server, or without sign-in on the given one.

        The options are playwright's: `java_script_enabled`, `color_scheme`, `viewport`, `storage_state`…
        """
        defaults = {} if server else {"storage_state": self._cookies}
        server = server or self._server
        assert server is not None
        base = f"http://127.0.0.1:{server.port}"
        context = self._browser.new_context(base_url=base, **defaults | options)
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((base, "blob:", "data:")) else self.faults.append(request.url)
            ),
        )
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def new_page(browser: Browser, server: Server, cookies: Any) -> Iterator[Pages]:
    """Open further pages."""
    pages = Pages(browser, server, cookies)
    yield pages
    pages.close()
    assert not pages.faults, pages.faults


@pytest.fixture
def page(new_page: Pages) -> Page:
    """A page with root signed in."""
    return new_page()


@pytest.fixture
def plain_page(new_page: Pages) -> Page:
    """A page with root signed in and JavaScript disabled."""
    return new_page(java_script_enabled=False)


@pytest.fixture
def visitor(new_page: Pages) -> Page:
    """A page without sign-in."""
    return new_page(storage_state=None)


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def accessible(axe: str) -> Callable[..., None]:
    """Check the current page with axe, by all rules or the given ones. Serious problems fail the test."""

    def check(page: Page, *rules: str) -> None:
        if not page.evaluate("'axe' in window"):
            page.evaluate(axe)
        options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        violations = page.evaluate("options => axe.run(document, options)", options)["violations"]
        faults = [
            f"{fault['impact']}: {fault['help']}: {node['html']} {node['failureSummary']}"
            for fault in violations
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not faults, "\n".join(faults)

    return check


@pytest.fixture
def screenshot() -> Callable[..., None]:
    """Save a screenshot of a page under a name, if POLYJOB_TEST_SCREENSHOTS names a folder."""

    def take(page: Page, name: str, **options: Any) -> None:
        if folder := os.environ.get("POLYJOB_TEST_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{name}.png", **options)

    return take
