"""A window on a log: lines by number, waiting for more, and searches."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from polyjob.db.models import Job
from polyjob.logs import ansi, line_index
from polyjob.logs import lines as loglines
from polyjob.logs.line_index import BLOCK_BYTES, LogLines
from polyjob.logs.lines import MAX_LINE_BYTES, MAX_RESPONSE_BYTES, find_lines, read_lines
from polyjob.statuses import Status
from polyjob.storage.store import Store

from ..beside import soon
from .conftest import BASE, JOBS, Client, bring, pointers, publish

CONTENT = st.lists(
    st.sampled_from([b"", b"a", b"bc needle", b"\xff", "é".encode(), b"\r", b"x" * 40, b"\n", b"\n\n"])
).map(b"".join)
MANY = hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def small(monkeypatch):
    """Limits so small that short texts meet all of them."""
    monkeypatch.setattr(line_index, "BLOCK_BYTES", 8)
    monkeypatch.setattr(line_index, "_READ_BYTES", 32)
    monkeypatch.setattr(loglines, "_WINDOW_BYTES", 32)
    monkeypatch.setattr(loglines, "MAX_LINE_BYTES", 16)
    monkeypatch.setattr(loglines, "_SEARCH_BLOCK_BYTES", 24)


def lines_of(content):
    """As a person counts them."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


class TestIndex:
    @MANY
    @given(pieces=st.lists(CONTENT, min_size=1, max_size=4))
    def test_every_line_is_found_however_the_file_grows(self, tmp_path, small, pieces):
        path, content = tmp_path / uuid.uuid4().hex, b""
        for piece in pieces:
            content += piece
            with path.open("ab") as log:
                log.write(piece)
            with LogLines(path) as lines:
                expected = lines_of(content)
                assert (lines.total, lines.length) == (len(expected), len(content))
                starts = [lines.start(number) for number in range(lines.total + 2)]
            offset = 0
            for number, line in enumerate(expected):
                assert starts[number] == offset
                offset += len(line) + 1
            assert starts[len(expected) :] == [len(content)] * 2

    def test_a_file_that_is_not_there_has_no_lines(self, tmp_path):
        with LogLines(tmp_path / "none") as lines:
            assert (lines.total, lines.length, lines.start(0), lines.start(3), lines.read(0, 9)) == (0, 0, 0, 0, b"")
            assert read_lines(lines, 1, 10) == []

    def test_a_file_that_was_replaced_is_read_anew(self, tmp_path):
        path = tmp_path / "log"
        for content in (b"a\nb\n", b"c\n", b"long\nlonger\nlongest\n"):
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").replace(path)
            with LogLines(path) as lines:
                assert lines.total == len(lines_of(content))

    def test_what_is_written_later_is_not_seen_by_who_looked_before(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\n")
        with LogLines(path) as before:
            path.write_bytes(b"one\ntwo\n")
            with LogLines(path) as after:
                assert after.total == 2
            assert (before.total, before.read(0, 100), before.start(1)) == (1, b"one\n", 4)

    def test_few_files_are_kept_in_mind(self, tmp_path):
        for number in range(300):
            path = tmp_path / str(number)
            path.write_bytes(b"x\n" * number)
            with LogLines(path) as lines:
                assert lines.total == number
        assert len(line_index._counts) <= 256


class TestReading:
    @MANY
    @given(content=CONTENT, first=st.integers(-12, 12).filter(bool), count=st.integers(0, 12))
    def test_gives_the_lines_that_a_person_counts(self, tmp_path, small, content, first, count):
        path = tmp_path / uuid.uuid4().hex
        path.write_bytes(content)
        with LogLines(path) as lines:
            found = read_lines(lines, first, count)
        expected = list(enumerate(lines_of(content), 1))
        begin = max(0, len(expected) + first) if first < 0 else first - 1
        expected = expected[begin : begin + count]
        assert [line.number for line in found] == [number for number, _ in expected]
        for line, (_, data) in zip(found, expected, strict=True):
            assert content[line.offset : line.offset + line.bytes] == data
            if not line.is_cut:
                assert line.text == ansi.plain_text(data.decode(errors="replace"))
            else:
                assert len(data) > 16

    def test_a_line_of_megabytes_is_cut_and_the_next_one_is_found(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\n" + "é".encode() * (1 << 20) + b"\nthree\n")
        with LogLines(path) as lines:
            one, two, three = read_lines(lines, 1, 10)
        assert (one.text, three.text, three.number, three.offset) == ("one", "three", 3, 4 + (2 << 20) + 1)
        assert (two.is_cut, two.bytes, set(two.text)) == (True, 2 << 20, {"é"})
        assert len(two.text) == MAX_LINE_BYTES // 2

    def test_a_progress_bar_of_megabytes_is_shown_as_it_was_last(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"".join(b"\r%7d of 400000" % number for number in range(400_001)) + b"\ndone\n")
        with LogLines(path) as lines:
            bar, done = read_lines(lines, 1, 10)
        assert (bar.text.strip(), bar.is_cut, done.text) == ("400000 of 400000", False, "done")

    def test_an_answer_is_bounded(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes((b"x" * 20_000 + b"\n") * 1000)
        with LogLines(path) as lines:
            found = read_lines(lines, 1, 1000)
        assert MAX_RESPONSE_BYTES <= sum(len(line.text) for line in found) < MAX_RESPONSE_BYTES + MAX_LINE_BYTES

    def test_a_window_begins_in_the_style_that_was_set_before(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"\x1b[31mred\nstill\nstill\x1b[0m\nplain\n")
        with LogLines(path) as lines:
            assert [line.spans for line in read_lines(lines, 2, 3)] == [
                [("fg-1", "still")],
                [("fg-1", "still")],
                [("", "plain")],
            ]

    def test_a_million_lines_are_fast(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"".join(b"%07d %s\n" % (number, b"x" * 92) for number in range(1_000_000)))
        begun = time.perf_counter()
        with LogLines(path) as lines:
            first = time.perf_counter() - begun
            assert lines.total == 1_000_000
        begun = time.perf_counter()
        for number in (1, 500_000, 999_900):
            with LogLines(path) as lines:
                assert read_lines(lines, number, 100)[99].text.startswith(f"{number + 98:07}")
        each = (time.perf_counter() - begun) / 3
        begun = time.perf_counter()
        with LogLines(path) as lines:
            assert find_lines(lines, "0777777", 0, 10, 60).lines == [777_778]
        assert (first < 3, each < 0.3, time.perf_counter() - begun < 10) == (True, True, True)
        assert each < first


class TestSearching:
    @MANY
    @given(content=CONTENT, after=st.integers(0, 8), count=st.integers(1, 5))
    def test_finds_the_lines_that_a_person_finds(self, tmp_path, small, content, after, count):
        path = tmp_path / uuid.uuid4().hex
        path.write_bytes(content)
        with LogLines(path) as lines:
            found = find_lines(lines, "Needle", after, count, 60)
        expected = [
            number
            for number, line in enumerate(lines_of(content), 1)
            if number > after and b"needle" in line.rstrip(b"\r").rpartition(b"\r")[2]
        ]
        assert found.lines == expected[:count]
        assert found.is_cut == (found.searched_to < found.total)
        assert found.is_cut or len(expected) <= count

    def test_colours_within_a_word_do_not_hide_it(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\n\x1b[31mEr\x1b[1mr\x1b[0mor here\n31m\n")
        with LogLines(path) as lines:
            assert find_lines(lines, "error HERE", 0, 10, 60).lines == [2]
            assert find_lines(lines, "31m", 0, 10, 60).lines == [3]

    def test_a_line_of_megabytes_is_searched_in_part(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loglines, "MAX_SEARCHED_LINE_BYTES", 3 << 20)
        path = tmp_path / "log"
        path.write_bytes(b"x" * (2 << 20) + b"here\n" + b"x" * (4 << 20) + b"here\nhere\n")
        with LogLines(path) as lines:
            assert find_lines(lines, "here", 0, 10, 60).lines == [1, 3]
            assert find_lines(lines, "here", 1, 10, 60).lines == [3]

    def test_says_where_it_was_cut_for_time(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"x\n" * (3 << 20))
        with LogLines(path) as lines:
            found = find_lines(lines, "y", 0, 10, 0)
            assert (found.lines, found.is_cut) == ([], True)
            assert 0 < found.searched_to < lines.total
            searched = 0
            while found.is_cut:
                assert found.searched_to > searched
                searched = found.searched_to
                found = find_lines(lines, "y", searched, 10, 0)
            assert found.searched_to == lines.total


@pytest.fixture
def log(client, settings, watcher):
    """Of a job that runs."""
    client.submit()
    bring(1, Status.SCHEDULED, Status.RUNNING)
    store = Store(settings.data_dir)
    store.make_job_folder(Job.get().uuid)
    yield store.job_log(Job.get().uuid)
    watcher.close()


class TestRoutes:
    def test_lines(self, client, log):
        log.write_bytes(b"one\n\x1b[32mtwo\x1b[0m\ncaf\xe9 <b>")
        answer = client.get(f"{JOBS}/1/logs/lines").json
        assert answer == {
            "total": 3,
            "bytes": 25,
            "status": "running",
            "is_done": False,
            "lines": [
                {"number": 1, "offset": 0, "bytes": 3, "is_cut": False, "text": "one"},
                {"number": 2, "offset": 4, "bytes": 12, "is_cut": False, "text": "two"},
                {"number": 3, "offset": 17, "bytes": 8, "is_cut": False, "text": "caf\ufffd <b>"},
            ],
        }
        (line,) = client.get(f"{JOBS}/1/logs/lines?from=2&count=1&styled=true").json["lines"]
        assert line == {"number": 2, "offset": 4, "bytes": 12, "is_cut": False, "spans": [["fg-2", "two"]]}
        assert client.get(f"{JOBS}/1/logs/lines?from=-2").json["lines"][0]["text"] == "two"
        assert client.get(f"{JOBS}/1/logs/lines?from=4").json["lines"] == []

    def test_nothing_written_yet(self, client, log):
        answer = client.get(f"{JOBS}/1/logs/lines?from=-10").json
        assert (answer["total"], answer["bytes"], answer["lines"]) == (0, 0, [])
        assert client.get(f"{JOBS}/1/logs/search?find=x").json == {
            "lines": [],
            "searched_to": 0,
            "is_cut": False,
            "total": 0,
        }

    def test_search(self, client, log):
        log.write_bytes(b"Error 1\nfine\nerror 2\nERROR 3\n")
        ask = f"{JOBS}/1/logs/search?find=error"
        assert client.get(ask).json == {"lines": [1, 3, 4], "searched_to": 4, "is_cut": False, "total": 4}
        assert client.get(f"{ask}&count=1").json == {"lines": [1], "searched_to": 1, "is_cut": True, "total": 4}
        assert client.get(f"{ask}&after=1").json["lines"] == [3, 4]

    def test_of_a_build(self, client, settings):
        answer = client.post(f"{BASE}/builds", {"config": {"build": {"image": "a"}}})
        assert answer.status_code == 201
        store = Store(settings.data_dir)
        path = store.build_log(answer.json["uuid"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"step 1\nstep 2\n")
        assert client.get(f"{BASE}/builds/1/logs/lines?from=-1").json["lines"][0]["text"] == "step 2"
        assert client.get(f"{BASE}/builds/1/logs/search?find=step").json["lines"] == [1, 2]

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [
            ("from=0", ["from"]),
            ("from=x&count=-1&styled=perhaps&wait=nan&after=-1", ["from", "count", "styled", "wait", "after"]),
            ("from=" + "9" * 30, ["from"]),
            ("from=--1", ["from"]),
            ("wait=-1", ["wait"]),
        ],
    )
    def test_bad_questions_for_lines(self, client, log, query, wrong):
        assert pointers(client.get(f"{JOBS}/1/logs/lines?{query}")) == wrong

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [
            ("", ["find"]),
            ("find=", ["find"]),
            ("find=a%0Ab", ["find"]),
            ("find=" + "x" * 501, ["find"]),
            ("find=x&after=-1&count=0", ["after", "count"]),
        ],
    )
    def test_bad_searches(self, client, log, query, wrong):
        assert pointers(client.get(f"{JOBS}/1/logs/search?{query}")) == wrong

    def test_most_is_bounded(self, client, log):
        log.write_bytes(b"x\n" * 3000)
        assert len(client.get(f"{JOBS}/1/logs/lines?count=99999").json["lines"]) == 1000


class TestWaiting:
    def test_until_the_log_is_longer(self, client, log, watcher):
        log.write_bytes(b"one\n")
        with soon(lambda: log.write_bytes(b"one\ntwo\n")):
            answer = client.get(f"{JOBS}/1/logs/lines?from=-1&after=4&wait=30").json
        assert (answer["bytes"], answer["lines"][0]["text"]) == (8, "two")
        assert len(watcher) == 0

    def test_not_at_all_where_it_is_longer(self, client, log):
        log.write_bytes(b"one\n")
        begun = time.monotonic()
        assert client.get(f"{JOBS}/1/logs/lines?after=3&wait=30").json["bytes"] == 4
        assert time.monotonic() - begun < 15

    def test_until_the_job_is_done(self, client, log):
        log.write_bytes(b"one\n")
        with soon(lambda: bring(1, Status.SUCCEEDED)):
            answer = client.get(f"{JOBS}/1/logs/lines?after=4&wait=30").json
        assert (answer["is_done"], answer["status"]) == (True, "succeeded")

    def test_for_so_long_at_most(self, client, log):
        answer = client.get(f"{JOBS}/1/logs/lines?wait=0.2").json
        assert (answer["is_done"], answer["bytes"]) == (False, 0)

    def test_until_the_job_is_deleted(self, client, log):
        with soon(lambda: client.delete(f"{JOBS}/1")):
            assert client.get(f"{JOBS}/1/logs/lines?wait=30").status_code == 404

    def test_who_may_no_longer_see_it_is_told(self, client, other: Client, log):
        publish()
        log.write_bytes(b"one\n")

        def end():
            log.write_bytes(b"one\nsecret\n")

        with soon(lambda: [other.post("/api/v1/users/logout"), hide(), end()]):
            answer = other.get(f"{JOBS}/1/logs/lines?after=4&wait=30")
        assert answer.status_code in (401, 404)
        assert "secret" not in answer.text

    def test_the_limit_of_those_who_wait_counts(self, client, log, watcher):
        watcher.limit = 0
        try:
            answer = client.get(f"{JOBS}/1/logs/lines?wait=30")
        finally:
            watcher.limit = 112
        assert (answer.status_code, bool(re.fullmatch(r"\d+", answer.headers["Retry-After"]))) == (503, True)


def hide():
    from polyjob.db.models import Project

    from .conftest import write

    with write("test"):
        Project.update(is_public=False).execute()


def test_the_blocks_are_those_that_are_read():
    assert line_index._READ_BYTES % BLOCK_BYTES == 0


def test_as_many_logs_are_counted_once_as_one_process_has_followers(tmp_path, monkeypatch, settings):
    logs = [tmp_path / str(number) for number in range(settings.followers)]
    for log in logs:
        log.write_bytes(b"a\n")
        with LogLines(log) as lines:
            assert lines.total == 1
    counted = []
    monkeypatch.setattr(line_index.LineCounts, "_count", lambda self, data: counted.append(data))
    for log in logs:
        with LogLines(log):
            pass
    assert not counted
