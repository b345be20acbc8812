"""Times, sizes, logs and reasons in words."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from polyjob.pages import diffs, formatting, timeline
from polyjob.statuses import Status
from runners.base import Reason


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
    assert formatting.ago(moment - datetime.timedelta(seconds=seconds), moment) == said


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
    assert formatting.lasting(datetime.timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 30, "3.0 GiB")]
)
def test_size(count: int, said: str) -> None:
    assert formatting.size(count) == said


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"caf\xe9", "caf\ufffd"),
        ("größer ✓\n".encode(), "größer ✓\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        (b" 1%\r50%\r99%\nnext\r\n", "99%\nnext\n"),
        (b"a\0b\x07\tc", "a\u2400b\u2407\tc"),
        (b"\x1b]0;title\nnext\x07", "0;title\nnext\u2407"),
    ],
)
def test_log_text(data: bytes, shown: str) -> None:
    assert formatting.log_text(data) == shown


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
        (Status.FAILED, {"reason": "evicted", "message": "low"}, None, {}, "Its cluster ended the job. Low."),
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
    assert formatting.why(status, end, message, details, None) == said


def test_every_reason_has_words_of_its_own() -> None:
    said = [formatting.why(Status.FAILED, {"reason": str(reason), "code": 1}, None, {}, None) for reason in Reason]
    assert len(set(said)) == len(Reason)


@pytest.mark.parametrize(
    ("text", "said"), [("it is so", "It is so."), ("Is it?", "Is it?"), ("", ""), ("`x` fails.", "`x` fails.")]
)
def test_sentence(text: str, said: str) -> None:
    assert formatting.sentence(text) == said


def test_what_stands_between_backticks_is_code_and_the_rest_is_escaped() -> None:
    assert formatting.with_code("`a<b` & `c") == "<code>a&lt;b</code> &amp; `c"


@pytest.mark.parametrize(
    ("status", "shape"),
    [
        (Status.SUCCEEDED, "good"),
        (Status.UPSTREAM_FAILED, "bad"),
        (Status.SKIPPED, "stop"),
        (Status.BUILDING, "work"),
        (Status.UNSCHEDULABLE, "wait"),
    ],
)
def test_shape_of(status: Status, shape: str) -> None:
    assert formatting.shape_of(status) == shape


def test_resources_that_nobody_asked_for_or_knows_are_left_out() -> None:
    assert formatting.resources(None, None, None) == []
    wanted = {"resources": {"cpu": {"limits": 1.5}, "pids": {"limits": 64, "requests": 64}}}
    assert formatting.resources(wanted, None, {"cpu_seconds": 0.0}) == [
        ("CPU", "at most 1.5 cores", "0.00 s"),
        ("Processes", "at most 64", ""),
    ]


def test_a_config_of_several_lines_differs_line_by_line() -> None:
    before = {"run": {"cmd": "a\nb\nc\n"}, "same": [1, 2, 3, 4, 5, 6]}
    found = diffs.changed(before, before | {"run": {"cmd": "a\nB\nc\n"}})
    assert [line.strip() for kind, line in found if kind in ("new", "gone")] == ["b", "B"]
    assert ("skip", "…") in found
    assert diffs.changed(before, before) == []


def test_a_long_difference_is_cut() -> None:
    found = diffs.changed({}, {str(number): number for number in range(999)})
    assert len(found) == diffs.MOST + 1
    assert found[-1] == ("skip", "…")


def test_a_bar_has_no_more_parts_than_room() -> None:
    step = timeline.Step(Status.RUNNING, datetime.datetime.now(datetime.UTC), datetime.timedelta(1), None, None)
    assert timeline.bar([step] * 200) == []
    assert timeline.bar([]) == []
    assert [part.width for part in timeline.bar([step, step])] == [500, 500]
