"""The wall clock is stepped back and forth by hours under a server that works, by Debian's libfaketime."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

from .conftest import JOBS, Server, eventually

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""
"""For the library makes nonsense of a sleep until a moment of the monotonic clock, which Python's sleep is."""
HOURS = (5, -7, 9, -9, 0)
"""Steps of the wall clock, one after the other."""


class Wall:
    """Return the server's wall clock."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        modules = folder / "modules"
        modules.mkdir()
        (modules / "sitecustomize.py").write_text(SLEEP)
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(modules),
        }

    def step(self, hours: float) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(f"{hours * 3600:+.0f}\n")
        part.rename(self._file)
        self.offset = datetime.timedelta(hours=hours)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.offset


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[Wall, Server, str]]:
    """A server whose wall clock can be stepped, and the cookie of a browser that signed in before it was."""
    require("faketime", LIBRARY is not None, "apt install faketime")
    folder = tmp_path_factory.mktemp("clock")
    wall, server = Wall(folder), Server(folder, slots="8")
    server.environment |= wall.environment
    with server:
        link = re.search(r"(/sign-in/\S+)", "".join(server.lines)).group(1)
        yield wall, server, server.call("GET", link).headers["Set-Cookie"].split(";")[0]


@pytest.fixture
def wall(served) -> Iterator[Wall]:
    yield served[0]
    served[0].step(0)


@pytest.fixture
def server(served) -> Server:
    return served[1]


def rows(server: Server, number: int) -> list[dict[str, Any]]:
    return server.call("GET", f"{JOBS}/{number}/statuses").json["results"]


def moments(server: Server, number: int) -> list[datetime.datetime]:
    return [datetime.datetime.fromisoformat(row["created_at"]) for row in rows(server, number)]


def test_stepped_clock_is_visible_to_the_server(server, wall):
    """Or nothing is tried here."""
    for hours in (5, -7):
        wall.step(hours)
        job = server.submit("true")
        made = datetime.datetime.fromisoformat(job["created_at"])
        assert abs(made - wall.now()) < datetime.timedelta(minutes=10)
        assert server.until_done(job["id"])["last_status"] == "succeeded"


def test_clock_steps_do_not_change_time_limits(server, wall):
    whole = server.submit("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done")
    late = server.submit("sleep 1000", termination={"timeout": 4, "grace": 1})
    deaf = server.submit("trap '' TERM; echo up; while :; do sleep 1; done", termination={"grace": 3})
    followed: list[bytes] = []
    follower = threading.Thread(
        target=lambda: followed.append(server.call("GET", f"{JOBS}/{whole['id']}/logs?follow=true").body)
    )
    follower.start()
    parts = server.engine_pids(), server.web_pids()
    server.until(late["id"], "running")
    begun = time.monotonic()
    eventually(lambda: server.log(deaf["id"]) == b"up\n")
    server.call("POST", f"{JOBS}/{deaf['id']}/stop")
    asked = time.monotonic()
    ended: dict[int, float] = {}
    steps = iter(HOURS * 10)
    stepped_at = 0.0
    while len(ended) < 2 and time.monotonic() < begun + 60:
        if time.monotonic() >= stepped_at + 0.7:
            stepped_at = time.monotonic()
            wall.step(next(steps))
            assert server.call("GET", "/readyz").status == 200
        for job in (late, deaf):
            if server.job(job["id"])["finished_at"]:
                ended.setdefault(job["id"], time.monotonic())
        time.sleep(0.05)
    assert 3.5 < ended[late["id"]] - begun < 20
    assert 3 <= ended[deaf["id"]] - asked < 20
    assert rows(server, late["id"])[-1]["details"]["reason"] == "timeout"
    assert server.job(deaf["id"])["last_status"] == "stopped"
    assert server.until_done(whole["id"])["last_status"] == "succeeded"
    follower.join(30)
    assert followed == [b"".join(b"%d\n" % number for number in range(1, 9))]
    for job in (whole, late, deaf):
        assert moments(server, job["id"]) == sorted(set(moments(server, job["id"])))
        shown = server.job(job["id"])
        assert shown["created_at"] <= shown["started_at"] <= shown["finished_at"]
    assert parts == (server.engine_pids(), server.web_pids()), "a part was taken for dead"


def test_server_starts_after_the_clock_is_set_back(server, wall):
    wall.step(9)
    job = server.submit("echo 1; sleep 4; echo 2; exit 3", termination={"timeout": 60})
    server.until(job["id"], "running")
    wall.step(-9)
    (engine,) = server.engine_pids()
    os.kill(engine, signal.SIGTERM)
    eventually(lambda: server.engine_pids() not in ([], [engine]), what="another engine")
    assert server.until_done(job["id"])["exit_code"] == 3
    assert server.log(job["id"]) == b"1\n2\n"
    assert server.statuses(job["id"]) == ["created", "scheduled", "running", "failed"]
    assert moments(server, job["id"]) == sorted(set(moments(server, job["id"])))


def test_clock_steps_do_not_change_waits_or_tokens(server, wall):
    job = server.submit("sleep 1000")
    server.until(job["id"], "running")
    body = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}
    sent = {"Idempotency-Key": uuid.uuid4().hex}
    first = server.call("POST", JOBS, body, **sent)
    for hours in HOURS:
        wall.step(hours)
        begun = time.monotonic()
        with stepping(wall, hours):
            assert server.call("GET", f"{JOBS}/{job['id']}?wait=1").json["last_status"] == "running"
        assert 0.9 < time.monotonic() - begun < 10
        again = server.call("POST", JOBS, body, **sent)
        assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (201, first.body, "true")
        assert server.call("POST", f"{JOBS}/{job['id']}/_heartbeat").status == 200
        assert server.job(job["id"])["last_status"] == "running"
    server.call("POST", f"{JOBS}/{job['id']}/stop")
    assert server.until_done(job["id"])["last_status"] == "stopped"


@contextlib.contextmanager
def stepping(wall: Wall, hours: float) -> Iterator[None]:
    """A step while the block runs, and back."""
    timer = threading.Timer(0.3, wall.step, [hours + 3])
    timer.start()
    yield
    timer.join()
    wall.step(hours)


def test_browser_stays_signed_in(server, wall, served):
    cookie = served[2]
    for hours in HOURS:
        wall.step(hours)
        page = server.call("GET", "/", token="none", Cookie=cookie, Authorization="")
        assert page.status == 200, (hours, page)
        cookie = page.headers.get("Set-Cookie", cookie).split(";")[0]
