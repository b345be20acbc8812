"""Times, sizes, logs and reasons in words."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from polyjob.pages import words
from polyjob.statuses import Status


@pytest.fixture
def moment() -> Iterator[datetime.datetime]:
    yield datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "just now"),
        (0, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (7200, "2 h ago"),
        (86400, "1 d ago"),
        (7 * 86400, "2026-02-22"),
    ],
)
def test_ago(moment: datetime.datetime, seconds: int, said: str) -> None:
    assert words.ago(moment - datetime.timedelta(seconds=seconds), moment) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (1.26, "1.3 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3725, "1 h 02 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_lasting(seconds: float, said: str) -> None:
    assert words.lasting(datetime.timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 30, "3.0 GiB")]
)
def test_size(count: int, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"caf\xe9", "caf\ufffd"),
        ("größer ✓\n".encode(), "größer ✓\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        (b" 1%\r50%\r99%\nnext\r\n", "99%\nnext\n"),
        (b"a\0b\x07\tc", "a\u2400b\u2407\tc"),
    ],
)
def test_log_text(data: bytes, shown: str) -> None:
    assert words.log_text(data) == shown


@pytest.mark.parametrize(
    ("status", "end", "message", "details", "said"),
    [
        (Status.SUCCEEDED, {"reason": "exited", "code": 0}, "Completed", {}, "The command ended with exit code 0."),
        (Status.SUCCEEDED, None, "Completed", {}, "Completed."),
        (Status.FAILED, {"reason": "exited", "code": 7}, None, {}, "The command ended with exit code 7."),
        (Status.FAILED, {"reason": "lost"}, None, {}, "The job is gone, and nobody saw how it ended."),
        (
            Status.FAILED,
            {"reason": "oom", "code": 137},
            None,
            {},
            "The kernel ended the command for its memory: exit code 137.",
        ),
        (Status.FAILED, {"reason": "start", "message": "No sh"}, None, {}, "The command could not be started. No sh."),
        (
            Status.FAILED,
            {"reason": "signalled", "code": 143, "signal": 15},
            None,
            {"reason": "timeout"},
            "It ran longer than it may. Signal 15 (TERM) ended the command: exit code 143.",
        ),
        (Status.STOPPED, None, "Job was stopped", {"by": "ana"}, "ana stopped it."),
        (Status.STOPPED, None, "Build x was stopped", {}, "Build x was stopped."),
        (
            Status.FAILED,
            {"reason": "exited", "code": 1, "stragglers": ["sleep", "cat"]},
            None,
            {},
            "The command ended with exit code 1. Still running at the end, and killed: sleep, cat.",
        ),
    ],
)
def test_why(
    status: Status, end: dict[str, Any] | None, message: str | None, details: dict[str, Any], said: str
) -> None:
    assert words.why(status, end, message, details, None) == said
