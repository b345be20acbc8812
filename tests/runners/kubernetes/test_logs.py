"""Logs of pods: parsing from a cursor, and reading over the cluster simulator."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runners.base import HandleNotFound, RunnerUnavailable, Running
from runners.kubernetes.logs import DROPPED_LINE, Lines, LogCursor
from runners.kubernetes.manifests import BEGIN_LINE
from tests.runners.harness import wait_for
from tests.runners.kubernetes.helpers import final_state, read_log, release, run_to_end, start_running
from tests.runners.kubernetes_harness import KubernetesHarness

T = "2026-01-01T00:00:0"


def stamped(*lines: tuple[str, bytes]) -> bytes:
    return b"".join(moment.encode() + b"Z " + data for moment, data in lines)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, cursor: LogCursor | None = None, size: int = 7) -> tuple[bytes, LogCursor]:
    lines = Lines(chunks(data, size), cursor or LogCursor())
    return lines.read(1 << 20), lines.cursor


FIRST = (f"{T}1.000000001", BEGIN_LINE)
LOG = [
    FIRST,
    (f"{T}1.000000001", b"a\n"),
    (f"{T}1.500000000", b"b\n"),
    (f"{T}1.500000000", b"b\n"),
    (f"{T}2.000000000", b"c\n"),
    (f"{T}3.000000000", b"d"),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_timestamps_and_the_first_line_are_left_out(size: int) -> None:
    assert read(stamped(*LOG), size=size)[0] == b"a\nb\nb\nc\nd"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_of_each_tenth_of_a_second_have_a_time(size: int) -> None:
    lines = Lines(chunks(stamped(*LOG), size), LogCursor())
    lines.read(1 << 20)
    moments = [f"{T}1.000000001", f"{T}1.500000000", f"{T}2.000000000", f"{T}3.000000000"]
    assert lines.moments == list(zip([0, 2, 6, 8], moments, strict=True))


@pytest.mark.parametrize("limit", range(1, 12))
def test_reading_from_any_cursor_repeats_and_loses_nothing(limit: int) -> None:
    """Each read has its own snapshot, which begins with the second of the cursor."""
    log, cursor = b"", LogCursor()
    for _ in range(20):
        second = cursor.moment[:19]
        since = stamped(*[line for line in LOG if line[0][:19] >= second])
        lines = Lines(chunks(since, 11), LogCursor.parse(cursor.text()))
        log += lines.read(limit)
        cursor = lines.cursor
    assert log == b"a\nb\nb\nc\nd"


def test_unfinished_line_is_continued() -> None:
    for first, second in itertools.combinations([b"", b"a", b"ab", b"abc\n"], 2):
        data, cursor = read(stamped(FIRST, (f"{T}2.000000000", first)))
        more, cursor = read(stamped((f"{T}2.000000000", second)), cursor)
        assert data + more == second
    rest, _ = read(stamped((f"{T}2.000000000", b"abc\n"), (f"{T}2.100000000", b"x\n")), cursor)
    assert rest == b"x\n"


def test_rest_of_an_earlier_line_is_skipped() -> None:
    _, cursor = read(stamped(FIRST, (f"{T}2.000000000", b"x\n")))
    assert (
        read(b"rest of a long line\n" + stamped((f"{T}2.000000000", b"x\n"), (f"{T}2.5", b"y\n")), cursor)[0] == b"y\n"
    )


def test_timestamps_of_other_precision_and_zone_are_compared() -> None:
    _, cursor = read(b"2026-01-01T02:00:01.5+02:00 " + BEGIN_LINE)
    assert (cursor.moment, cursor.count, cursor.size) == ("2026-01-01T00:00:01.500000000", 1, len(BEGIN_LINE))
    data = b"2026-01-01T02:00:01.5+02:00 " + BEGIN_LINE + b"2026-01-01T02:00:01.500000001+02:00 a\n"
    assert read(data, cursor)[0] == b"a\n"


def test_rotation_adds_a_line() -> None:
    _, cursor = read(stamped(*LOG))
    assert read(stamped((f"{T}3.500000000", b"e\n")), cursor)[0] == DROPPED_LINE + b"e\n"
    assert read(stamped(LOG[1], LOG[2]))[0] == DROPPED_LINE + b"a\nb\n"


def test_rotation_within_a_second_adds_a_line() -> None:
    _, cursor = read(stamped(FIRST, (f"{T}1.100000000", b"a\n")))
    later = stamped((f"{T}1.200000000", b"b\n"), (f"{T}1.300000000", b"c\n"))
    assert read(later, cursor)[0] == DROPPED_LINE + b"b\nc\n"


def test_empty_read_leaves_the_cursor() -> None:
    _, cursor = read(stamped(*LOG))
    assert read(stamped(LOG[-1]), cursor) == (b"", cursor)
    assert read(b"", cursor) == (b"", cursor)


@pytest.mark.parametrize("cursor", [LogCursor(), LogCursor("2026-01-01T00:00:01.000000000", 1, 2)])
def test_removed_log_is_not_found(cursor: LogCursor) -> None:
    with pytest.raises(HandleNotFound, match="removed the log"):
        read(b"unable to retrieve container logs for containerd://1", cursor, 100)


def test_any_bytes_are_preserved() -> None:
    data = b"\xff\x00\r\n\n 2026-01-01T00:00:01Z x\n"
    lines = data.splitlines(keepends=True)
    data_with_times = stamped(FIRST, *[(f"{T}2.00000000{number}", line) for number, line in enumerate(lines)])
    assert read(data_with_times)[0] == data


@pytest.mark.parametrize("size", [1, 5, 30, 100])
def test_pauses_never_split_a_timestamp(size: int) -> None:
    """A followed log can pause between any two chunks."""
    data = stamped(*LOG)
    paused = itertools.chain.from_iterable((chunk, b"") for chunk in chunks(data, size))
    lines, log = Lines(paused, read(stamped(FIRST))[1]), b""
    for _ in range(2 * len(data)):
        log += lines.read(1 << 20)
    assert log == b"a\nb\nb\nc\nd"


def test_log_removed_by_its_machine_is_not_found(harness: KubernetesHarness) -> None:
    _, _, handle = run_to_end(harness, "echo x")
    harness.cluster.fail(400, path="/log$", message="unable to retrieve container logs for containerd://1")
    with pytest.raises(HandleNotFound, match="removed the log"):
        harness.remote.logs(handle, None, 100)


def test_rotated_log_mentions_the_missing_bytes(harness: KubernetesHarness) -> None:
    spec = harness.spec("echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo three")
    handle = start_running(harness, spec)
    read = wait_for(lambda: read_log(harness.runner, handle))
    assert read[0] == b"one\n"
    harness.cluster.rotate_log(spec.name, "job")
    release(harness, spec)
    harness.end(handle)
    assert harness.remote.logs(handle, read[1], 1 << 20)[0] == DROPPED_LINE + b"three\n"


def test_followed_log_survives_rotation(harness: KubernetesHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
    spec = harness.spec("for i in $(seq 300); do echo $i; sleep 0.01; done")
    handle = harness.runner.start(spec, None)
    log, cursor, turned = b"", None, 0
    while not final_state(harness, handle):
        data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
        log += data
        if log.count(b"\n") > 100 * (turned + 1):
            harness.cluster.rotate_log(spec.name, "job")
            turned += 1
    for _ in range(5):
        data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
        log += data
    assert turned == 2
    assert log == b"".join(b"%d\n" % number for number in range(1, 301))


def test_followed_log_continues_after_a_broken_connection(harness: KubernetesHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 500)
    spec = harness.spec("for i in $(seq 200); do echo $i; sleep 0.02; done")
    handle = harness.runner.start(spec, None)
    log, cursor, has_cut = b"", None, False
    while not final_state(harness, handle):
        with contextlib.suppress(RunnerUnavailable):
            data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
            log += data
        if len(log) > 300 and not has_cut:
            harness.cluster.go_away()
            harness.cluster.come_back()
            has_cut = True
    for _ in range(5):
        data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
        log += data
    assert has_cut
    assert log == b"".join(b"%d\n" % number for number in range(1, 201))


@pytest.mark.parametrize(("lines", "width"), [(20_000, 100), (40_000, 5)])
def test_fast_followed_log_arrives_in_a_few_reads(
    harness: KubernetesHarness, monkeypatch: Any, lines: int, width: int
) -> None:
    monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
    line = "x" * width
    handle = start_running(
        harness, harness.spec(f"yes | head -n 100; sleep 1; yes {line} | head -n {lines}; sleep 1000")
    )
    log, cursor = wait_for(lambda: read_log(harness.runner, handle))
    expected, looks = b"y\n" * 100 + f"{line}\n".encode() * lines, 0
    while len(log) < len(expected) and looks < 40:
        data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
        log, looks = log + data, looks + 1
        time.sleep(0.1)
    assert log == expected, f"{len(log)} bytes after {looks} looks"


def test_first_read_of_a_reopened_log_has_data(harness: KubernetesHarness, monkeypatch: Any) -> None:
    """The whole second of the cursor is repeated before it."""
    monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
    monkeypatch.setattr("runners.kubernetes.log_feed.CHUNK_BYTES", 1000)
    handle = start_running(harness, harness.spec("seq 20000; sleep 1000"))
    log, cursor = wait_for(lambda: (result := harness.remote.logs(handle, None, 100_000)) and result[0] and result)
    data, _ = harness.another().logs(handle, cursor, 1 << 20)  # type: ignore[attr-defined]
    assert data
    assert log + data == b"".join(b"%d\n" % number for number in range(1, 20_001))[: len(log + data)]


def test_long_lines_and_many_lines_are_complete(harness: KubernetesHarness) -> None:
    _, log, _ = run_to_end(harness, "head -c 100000 /dev/zero | tr '\\0' x; echo; seq 1 50000; head -c 40000 /dev/zero")
    assert log == b"x" * 100_000 + b"\n" + b"".join(b"%d\n" % n for n in range(1, 50_001)) + b"\0" * 40_000


def test_growing_log_is_continued_by_another_runner(harness: KubernetesHarness) -> None:
    spec = harness.spec("for i in $(seq 40); do echo $i; printf '%s' x; sleep 0.03; done")
    handle = harness.runner.start(spec, None)
    log, cursor = b"", None
    while not final_state(harness, handle):
        runner = harness.another()
        data, cursor = runner.logs(handle, cursor, 50)  # type: ignore[attr-defined]
        log += data
        runner.close()
    while data := harness.remote.logs(handle, cursor, 50)[0]:
        _, cursor = harness.another().logs(handle, cursor, 50)  # type: ignore[attr-defined]
        log += data
    assert log == b"".join(b"%d\nx" % number for number in range(1, 41))


def test_log_of_an_unscheduled_pod_is_empty(harness: KubernetesHarness) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    spec = harness.endless_job()
    handle = harness.runner.start(spec, None)
    assert harness.remote.logs(handle, None, 100)[0] == b""


def test_log_of_a_waiting_pod_is_not_requested(harness: KubernetesHarness) -> None:
    harness.cluster.add_image("slow", seconds=1.5)
    spec = harness.spec("echo begun; sleep 1000", image="slow")
    handle = harness.runner.start(spec, None)
    harness.cluster.forget_counts()
    while not isinstance(harness.state(handle), Running):
        assert harness.remote.logs(handle, None, 100) == (b"", None)
        time.sleep(0.1)
    assert "get pods/log" not in harness.cluster.counted()
    assert wait_for(lambda: read_log(harness.runner, handle))[0] == b"begun\n"
