"""Sizes, ages and durations as text."""

from __future__ import annotations

import datetime

import pytest

from polyjob.formatting import (
    describe_exit,
    describe_position,
    format_age,
    format_duration,
    format_size,
    sentence,
    status_message,
)

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 << 20, "20 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_size_has_binary_units(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_age_has_its_largest_unit_or_a_date(seconds: int, text: str) -> None:
    assert format_age(NOW - datetime.timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(datetime.timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("text", "result"), [("it is so", "It is so."), ("Is it?", "Is it?"), ("", ""), ("`x` fails.", "`x` fails.")]
)
def test_sentence_has_a_capital_and_a_full_stop(text: str, result: str) -> None:
    assert sentence(text) == result


@pytest.mark.parametrize(
    ("status", "exit_record", "stop_kind", "text"),
    [
        ("succeeded", {"reason": "exited", "code": 0}, None, None),
        ("failed", {"reason": "exited", "code": 3}, None, "exit code 3"),
        ("failed", {"reason": "signalled", "code": 139, "signal": 11}, None, "SIGSEGV"),
        ("failed", {"reason": "signalled", "code": 143, "signal": 15}, "timeout", "timeout"),
        ("failed", {"reason": "oom", "code": 137}, None, "out of memory"),
        ("failed", {"reason": "lost"}, None, "lost"),
        ("failed", {"reason": "build", "step": 2}, None, "build failed at step 2"),
        ("failed", {"reason": "build"}, None, "build failed"),
        ("failed", None, None, None),
        ("stopped", {"reason": "signalled", "code": 143, "signal": 15}, "person", None),
        ("stopped", {"reason": "exited", "code": 5}, "person", "exit code 5"),
        ("upstream_failed", None, None, "a dependency failed"),
    ],
)
def test_exit_is_described_in_a_few_words(
    status: str, exit_record: dict[str, object] | None, stop_kind: str | None, text: str | None
) -> None:
    assert describe_exit(status, exit_record, stop_kind) == text


@pytest.mark.parametrize(
    ("position", "text"), [(None, None), (1, "next in the queue"), (2, "1 job ahead"), (4, "3 jobs ahead")]
)
def test_queue_position_is_described(position: int | None, text: str | None) -> None:
    assert describe_position(position) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("exit-code(7)", "exit code 7"),
        ("exit-code(137): out of memory", "exit code 137: out of memory"),
        ("see exit-code(7)", "see exit-code(7)"),
        (None, ""),
    ],
)
def test_status_message_has_a_readable_exit_code(message: str | None, text: str) -> None:
    assert status_message(message) == text
