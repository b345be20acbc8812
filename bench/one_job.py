"""One job on an idle server: the time to its first command, and until its end is seen."""

from __future__ import annotations

import contextlib
import functools
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from bench.client import Client, job, parse
from bench.floors import Fifo, fifo
from bench.peers import TASK_SPOOLER, TaskSpooler, is_installed, task_spooler
from bench.plan import Plan
from bench.rows import FLOOR, Row
from bench.turns import Figures, take_turns

T = TypeVar("T")
FIRST = "one job on an idle server: first command"
DONE = "one job on an idle server: seen done"
PAUSE_SECONDS = 0.1
"""Time between two jobs, in which the server becomes idle."""


def rows(plan: Plan) -> list[Row]:
    count = plan.size(10, 5)
    with contextlib.ExitStack() as stack:
        signal = stack.enter_context(fifo(plan.new_folder()))
        subjects: dict[str, Callable[[], Figures]] = {FLOOR: functools.partial(_shell, signal, count)}
        for name, server in stack.enter_context(plan.serve_all()).items():
            client = server.client()
            client.run("true")
            subjects[name] = functools.partial(_server, client, signal, count)
        if is_installed(TASK_SPOOLER):
            spooler = stack.enter_context(task_spooler(plan.new_folder()))
            subjects[TASK_SPOOLER] = functools.partial(_spooler, spooler, signal, count)
        found = take_turns(plan.size(5, 2), subjects)
    return [Row.of(name, "ms", found[name], "spawn", "p50") for name in (FIRST, DONE)]


def _server(client: Client, signal: Fifo, count: int) -> Figures:
    post = client.request("POST", "", job(signal.command))

    def submit() -> bytes:
        number = parse(client.connection.exchange(post))["id"]
        wait = client.request("GET", f"/{number}?wait=30")
        client.connection.send(wait)
        return wait

    def finish(wait: bytes) -> None:
        while not (response := client.connection.receive()):
            pass
        while not parse(response)["finished_at"]:
            response = client.connection.exchange(wait)

    return _times(signal, count, submit, finish)


def _spooler(spooler: TaskSpooler, signal: Fifo, count: int) -> Figures:
    return _times(
        signal,
        count,
        lambda: spooler.submit("sh", "-c", signal.command),
        lambda number: spooler.act("-w", number),
    )


def _shell(signal: Fifo, count: int) -> Figures:
    return _times(signal, count, lambda: subprocess.Popen(["sh", "-c", signal.command]), lambda shell: shell.wait())


def _times(signal: Fifo, count: int, submit: Callable[[], T], finish: Callable[[T], object]) -> Figures:
    """Measure jobs one after the other. `submit` does not wait for the job that it starts, `finish` does."""
    first, done = [], []
    for _ in range(count):
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        submitted = submit()
        first.append(signal.wait() - started)
        finish(submitted)
        done.append(time.perf_counter() - started)
    return {FIRST: statistics.median(first) * 1000, DONE: statistics.median(done) * 1000}
