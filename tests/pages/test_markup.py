"""Inline code, status icons, and logs as plain text."""

from __future__ import annotations

import datetime

import pytest

from polyjob.pages.markup import inline_code, plain_log, status_badge, status_icon, when
from polyjob.statuses import Status


def test_backticks_become_code_and_text_is_escaped() -> None:
    assert inline_code("`a<b` & `c") == "<code>a&lt;b</code> &amp; `c"


@pytest.mark.parametrize(
    ("status", "icon"),
    [
        (Status.SUCCEEDED, "good"),
        (Status.UPSTREAM_FAILED, "bad"),
        (Status.SKIPPED, "stop"),
        (Status.BUILDING, "work"),
        (Status.UNSCHEDULABLE, "wait"),
    ],
)
def test_status_has_an_icon(status: Status, icon: str) -> None:
    assert status_icon(status) == icon


def test_status_badge_states_the_status_as_text() -> None:
    badge = status_badge(Status.UPSTREAM_FAILED)
    assert badge.startswith('<span class="status upstream_failed"><svg ')
    assert badge.endswith("</svg>upstream failed</span>")
    assert status_badge(Status.FAILED, "<bad>").endswith("</svg>&lt;bad&gt;</span>")


def test_age_has_the_exact_time_as_its_title() -> None:
    moment = datetime.datetime(2026, 11, 3, 4, 5, 6, 7000, datetime.UTC)
    title = "2026-11-03 04:05:06 UTC"
    assert when(moment).startswith(f'<time datetime="2026-11-03T04:05:06.007000+00:00" title="{title}">')
    assert when(moment).endswith("</time>")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xe9", "caf\ufffd"),
        ("größer ✓\n".encode(), "größer ✓\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        (b" 1%\r50%\r99%\nnext\r\n", "99%\nnext\n"),
        (b"a\0b\x07\tc", "a\u2400b\u2407\tc"),
        (b"\x1b]0;title\nnext\x07", "0;title\nnext\u2407"),
    ],
)
def test_plain_log_has_no_control_characters(data: bytes, text: str) -> None:
    assert plain_log(data) == text
