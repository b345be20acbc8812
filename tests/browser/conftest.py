"""A real server and Debian's Chromium on its pages.

A page of these tests fails its test where it logs an error, breaks the page's own policy or asks another host for
anything. Set POLYJOB_TEST_SCREENSHOTS to a folder to keep what `screenshot` takes.
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
PATIENCE = 20_000
"""Milliseconds that a page may take for anything."""
expect.set_options(timeout=PATIENCE)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Started once; its contexts share nothing."""
    require("chromium", bool(CHROMIUM), "there is no `chromium` on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield started
        started.close()


@pytest.fixture(scope="package")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that does not end it, with nobody else's jobs in it but those of the tests before."""
    with Server(tmp_path_factory.mktemp("server"), slots="4") as started:
        yield started


def sign_in_link(server: Server) -> str:
    """The link that the server's start printed. It works once."""
    found = re.search(r"http://\S+/sign-in/\S+", "".join(server.lines))
    assert found, server.lines
    return found.group()


@pytest.fixture(scope="package")
def cookies(browser: Browser, server: Server) -> Any:
    """The state of a browser in which `root` is signed in."""
    return sign_in(browser, server)


def sign_in(browser: Browser, server: Server) -> Any:
    """Use the server's link up; what `new_page` takes as `storage_state`."""
    with contextlib.closing(browser.new_context()) as context:
        context.new_page().goto(sign_in_link(server))
        return context.storage_state()


class Pages:
    """Makes pages, and keeps what went wrong in them."""

    def __init__(self, browser: Browser, server: Server | None, cookies: Any) -> None:
        self.faults: list[str] = []
        """Errors on a page that no test expects. A test that provokes one clears it."""
        self._browser = browser
        self._server = server
        self._cookies = cookies
        self._contexts: list[BrowserContext] = []

    def __call__(self, server: Server | None = None, **options: Any) -> Page:
        """A page in a context of its own: root is signed in on the tests' server, or nobody on the one given.

        The options are playwright's: `java_script_enabled`, `color_scheme`, `viewport`, `storage_state`…
        """
        known = {} if server else {"storage_state": self._cookies}
        server = server or self._server
        assert server is not None
        base = f"http://127.0.0.1:{server.port}"
        context = self._browser.new_context(base_url=base, **known | options)
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((base, "blob:", "data:")) else self.faults.append(asked.url),
        )
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def new_page(browser: Browser, server: Server, cookies: Any) -> Iterator[Pages]:
    """Makes as many pages as a test wants; see `Pages`."""
    pages = Pages(browser, server, cookies)
    yield pages
    pages.close()
    assert not pages.faults, pages.faults


@pytest.fixture
def page(new_page: Pages) -> Page:
    """A page where root is signed in."""
    return new_page()


@pytest.fixture
def plain_page(new_page: Pages) -> Page:
    """The same with JavaScript off."""
    return new_page(java_script_enabled=False)


@pytest.fixture
def visitor(new_page: Pages) -> Page:
    """A page where nobody is signed in."""
    return new_page(storage_state=None)


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, from the package that carries it."""
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def accessible(axe: str) -> Callable[..., None]:
    """Fails where axe finds a serious fault on the page as it is now, by all of its rules or those given."""

    def check(page: Page, *rules: str) -> None:
        page.evaluate(axe)
        options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        found = page.evaluate("options => axe.run(document, options)", options)["violations"]
        faults = [
            f"{fault['impact']}: {fault['help']}: {node['html']} {node['failureSummary']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not faults, "\n".join(faults)

    return check


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[..., Path]:
    """Takes a picture of a page under a name; a folder of its own, or POLYJOB_TEST_SCREENSHOTS."""
    folder = Path(os.environ.get("POLYJOB_TEST_SCREENSHOTS") or tmp_path / "screenshots")

    def take(page: Page, name: str, **options: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, **options)
        return path

    return take
