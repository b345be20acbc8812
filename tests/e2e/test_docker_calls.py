"""The number of calls of a real server to a Docker Engine, counted by a socket between the two."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import JOBS, Server, eventually
from tests.require import is_long_run, require
from tests.runners.docker_engine import engine_answers, make_images
from tests.runners.harness import IMAGE

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) /v[\d.]+/([\w/]+?)(/json)?(\?\S*)? HTTP/1\.1\r\n")
SLOTS, QUEUED = (8, 60) if is_long_run() else (3, 20)
WINDOW = 6.0


class Counting:
    """Passes on what comes, and counts the requests by what they ask."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._lines: list[socket.socket] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def during(self, seconds: float) -> Counter[str]:
        self.counts = Counter()
        time.sleep(seconds)
        return self.counts.copy()

    def close(self) -> None:
        for line in (self._door, *self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = self._door.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(ENGINE.removeprefix("unix://"))
                self._lines += (near, far)
                for ends in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_asking: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_asking:
                    for method, path, *_ in REQUEST.findall(data):
                        what = re.sub(r"[0-9a-f]{64}", "…", path.decode())
                        self.counts[f"{method.decode()} {what}"] += 1
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    require("docker", engine_answers() and ENGINE.startswith("unix://"), "no Docker Engine answers at a socket")
    make_images()
    made = Counting(tmp_path_factory.mktemp("c") / "s")
    yield made
    made.close()


def test_pass_needs_the_same_requests_for_many_jobs(counting: Counting, tmp_path: Path) -> None:
    server = Server(tmp_path, slots=str(SLOTS), runner="docker")
    server.environment["DOCKER_HOST"] = f"unix://{counting._door.getsockname()}"

    def running() -> int:
        listed = server.call("GET", f"{JOBS}?limit=100&sort=created_at&query=status:running").json
        return len(listed["results"])

    with server:
        jobs = [server.submit("sleep 1000", build={"image": IMAGE})]
        eventually(lambda: running() == 1, 60, "one that runs")
        one = counting.during(WINDOW)
        jobs += [server.submit("sleep 1000", build={"image": IMAGE}) for _ in range(QUEUED)]
        eventually(lambda: running() == SLOTS, 120, f"{SLOTS} that run")
        many = counting.during(WINDOW)
        server.call("POST", f"{JOBS}/stop", {"ids": [job["id"] for job in jobs]})
        for job in jobs:
            server.until_done(job["id"])
    logs = "GET containers/…/logs"
    assert one["GET containers"] > 0, one
    assert many["GET containers"] <= WINDOW + 1, many
    assert many.total() - many[logs] <= one.total() - one[logs] + 2, (one, many)
    assert many[logs] <= SLOTS * (WINDOW + 1), many
