"""The fixtures of the browser tests detect the errors that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from .conftest import PHONE, Pages


def test_signed_in_page_has_no_errors(
    new_page: Pages,
    accessible: Callable[[Page], None],
    screenshot: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYJOB_TEST_SCREENSHOTS", str(tmp_path))
    for scheme in ("light", "dark"):
        page = new_page(color_scheme=scheme, viewport=PHONE)
        page.goto("/")
        assert page.get_by_text("root", exact=True).first.is_visible()
        accessible(page)
        screenshot(page, f"jobs-{scheme}")
        assert (tmp_path / f"jobs-{scheme}.png").stat().st_size > 1000


def test_visitor_is_not_signed_in(visitor: Page, new_page: Pages) -> None:
    answer = visitor.goto("/root/quick-start")
    assert answer is not None
    assert answer.status == 401
    new_page.faults.clear()  # the browser logs every response other than 200


def test_javascript_runs_only_if_enabled(page: Page, plain_page: Page) -> None:
    for where, text in ((page, "after"), (plain_page, "before")):
        where.set_content("<body><p>before</p><script>document.body.textContent = 'after'</script></body>")
        assert where.inner_text("body") == text


def test_axe_reports_faults(page: Page, accessible: Callable[[Page], None]) -> None:
    page.goto("/")
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    with pytest.raises(AssertionError, match="discernible text"):
        accessible(page)


def test_policy_violations_are_reported(page: Page, new_page: Pages) -> None:
    page.goto("/")
    page.evaluate("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}))")
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in fault for fault in new_page.faults)
    new_page.faults.clear()
