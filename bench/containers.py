"""Jobs in containers, compared with plain `docker run`: one job alone, and eight in parallel."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.client import Client, job
from bench.load import generate
from bench.plan import NotMeasured, Plan
from bench.rows import FLOOR, Row
from bench.servers import Checkout, Server
from bench.turns import Figures, median_ms, take_turns
from tests.runners.docker_engine import engine_answers, make_images, remove_engine_objects
from tests.runners.harness import IMAGE

LANES = 8
BUILD = {"image": IMAGE}
PLAIN = f"docker run --rm {IMAGE} true"
ALONE = "docker: one job on an idle server, seen done"
MANY = f"docker: {LANES} jobs at once"


def rows(plan: Plan) -> list[Row]:
    if not (engine_answers() and shutil.which("docker")):
        raise NotMeasured("no Docker Engine answers, or `docker` or `/bin/busybox` is missing")
    make_images()
    rounds, count = plan.size(3, 1), plan.size(80, 16)
    with contextlib.ExitStack() as stack:
        subjects: dict[str, Callable[[], Figures]] = {FLOOR: functools.partial(_docker_run, count)}
        for name, checkout in plan.checkouts.items():
            server = stack.enter_context(_serve(plan, checkout))
            client = server.client()
            client.run("true", build=BUILD)
            subjects[name] = functools.partial(_jobs, server, client, count)
        found = take_turns(rounds, subjects)
    return [
        Row.of(ALONE, "ms", found[ALONE], "`docker run`", "p50"),
        Row.of(MANY, "/s", found[MANY], f"`docker run` in {LANES} lanes"),
    ]


@contextlib.contextmanager
def _serve(plan: Plan, checkout: Checkout) -> Iterator[Server]:
    with plan.serve(checkout, "docker", slots=str(LANES)) as server:
        yield server
    with contextlib.closing(sqlite3.connect(server.data / "polyjob.db")) as connection:
        (installation,) = connection.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    remove_engine_objects(installation)


def _jobs(server: Server, client: Client, count: int) -> Figures:
    alone = median_ms(lambda: client.run("true", build=BUILD), 5)
    before = client.run("true", build=BUILD)
    started = time.perf_counter()
    generate(server.port, client.request("POST", "", job("true", build=BUILD)), LANES, count=count)
    for number in range(before + 1, before + 1 + count):
        if (status := client.wait(number)) != "succeeded":
            raise RuntimeError(f"job {number} is {status}")
    return {ALONE: alone, MANY: count / (time.perf_counter() - started)}


def _docker_run(count: int) -> Figures:
    alone = median_ms(lambda: subprocess.run(PLAIN.split(), check=True), 5)
    lane = f"for i in $(seq {count // LANES}); do {PLAIN}; done"
    lanes = " ".join(f"({lane}) &" for _ in range(LANES))
    started = time.perf_counter()
    subprocess.run(["sh", "-c", f"{lanes} wait"], check=True)
    return {ALONE: alone, MANY: count / (time.perf_counter() - started)}
