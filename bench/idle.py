"""The footprint of an idle server: memory, CPU time, and the time to its first response."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

from bench.peers import TASK_SPOOLER, is_installed, task_spooler
from bench.plan import Plan
from bench.rows import FLOOR, Row
from bench.servers import Checkout, await_ok, free_port, precise_cpu_of, processes_with, pss_of, running
from bench.turns import Figures, take_turns

MEMORY = "idle: memory of all processes (PSS)"
CPU = "idle: CPU time"
START = "start to the first 200"
UNITS = {MEMORY: "MB", CPU: "% of a core", START: "ms"}
EMPTY = "empty Flask app"
NOTE = "floor: in gunicorn with 2 workers"
APP = """
import flask
app = flask.Flask(__name__)
app.add_url_rule("/healthz", view_func=lambda: "ok")
"""
SETTLE_SECONDS = 2.0


def rows(plan: Plan) -> list[Row]:
    subjects: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_server, plan, checkout) for name, checkout in plan.checkouts.items()
    }
    subjects[FLOOR] = functools.partial(_empty_app, plan)
    if is_installed(TASK_SPOOLER):
        subjects[TASK_SPOOLER] = functools.partial(_task_spooler, plan)
    found = take_turns(plan.size(3, 1), subjects)
    return [Row.of(name, unit, found[name], EMPTY, NOTE) for name, unit in UNITS.items()]


def _server(plan: Plan, checkout: Checkout) -> Figures:
    with plan.serve(checkout) as server:
        return {**_observe(server.processes, plan.size(15.0, 5.0)), START: server.start_ms}


def _empty_app(plan: Plan) -> Figures:
    folder = plan.new_folder()
    folder.mkdir()
    (folder / "empty.py").write_text(APP)
    port, python = free_port(), next(iter(plan.checkouts.values())).python
    options = ["--workers", "2", "--threads", "128", "--no-control-socket", "--chdir", str(folder)]
    command = [python, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}", "empty:app"]
    log = folder / "log"
    with running(command, dict(os.environ), folder, log) as process:
        start = await_ok(process, port, "/healthz", log)
        processes = functools.partial(processes_with, str(folder))
        return {**_observe(processes, plan.size(15.0, 5.0)), START: start}


def _task_spooler(plan: Plan) -> Figures:
    started = time.perf_counter()
    with task_spooler(plan.new_folder()) as spooler:
        start = (time.perf_counter() - started) * 1000
        return {**_observe(spooler.processes, plan.size(15.0, 5.0)), START: start}


def _observe(processes: Callable[[], list[int]], seconds: float) -> Figures:
    time.sleep(SETTLE_SECONDS)
    pids = processes()  # some start a moment after the first response
    started, before = time.monotonic(), sum(map(precise_cpu_of, pids))
    time.sleep(seconds)
    used = (sum(map(precise_cpu_of, pids)) - before) / (time.monotonic() - started)
    return {MEMORY: pss_of(pids), CPU: used * 100}
