"""Accepted jobs per second: while jobs run, and while they only queue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from bench.floors import commits_per_second
from bench.load import Load, generate_elsewhere
from bench.peers import TASK_SPOOLER, is_installed, task_spooler
from bench.plan import Plan
from bench.rows import FLOOR, POLYJOB, Row
from bench.servers import SLOTS, Checkout, Server
from bench.turns import Figures, take_turns

CLIENTS = 8
RUNNING = f"jobs accepted, {CLIENTS} clients, while jobs run"
QUEUED = f"jobs accepted, {CLIENTS} clients, nothing can start"
ALONE = "jobs accepted, 1 client, nothing can start"
COMMITS = "SQLite commits"
CPU = "cpu"


def rows(plan: Plan) -> list[Row]:
    subjects: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_server, plan, checkout) for name, checkout in plan.checkouts.items()
    }
    subjects[FLOOR] = lambda: {COMMITS: commits_per_second(plan.folder, plan.size(2.0, 0.5))}
    if is_installed(TASK_SPOOLER):
        subjects[TASK_SPOOLER] = functools.partial(_task_spooler, plan)
    found = take_turns(plan.size(3, 1), subjects)
    floor = found[COMMITS]
    return [
        *(Row.of(name, "/s", floor | found[name], COMMITS, _note(name, found)) for name in (RUNNING, QUEUED, ALONE)),
        Row.of(f"CPU time of the server for each, {CLIENTS} clients, nothing can start", "ms", found[CPU]),
    ]


def _server(plan: Plan, checkout: Checkout) -> Figures:
    seconds = plan.size(5.0, 2.0)
    with plan.serve(checkout) as server:
        while_running = generate_elsewhere(server.port, server.token, CLIENTS, seconds)
    with plan.serve(checkout) as server:
        hold_slots(server)
        cpu = server.cpu_seconds()
        queued = generate_elsewhere(server.port, server.token, CLIENTS, seconds)
        cpu = server.cpu_seconds() - cpu
        alone = generate_elsewhere(server.port, server.token, 1, seconds)
    return {
        **_figures(RUNNING, while_running),
        **_figures(QUEUED, queued),
        **_figures(ALONE, alone),
        CPU: cpu * 1000 / queued.accepted,
    }


def _figures(name: str, load: Load) -> Figures:
    if load.refused:
        raise RuntimeError(f"{name}: {load.refused} requests were refused")
    return {
        name: load.rate,
        f"{name}, p50": load.p50_ms,
        f"{name}, p99": load.p99_ms,
        f"{name}, client": load.client_cpu_ms,
    }


def _note(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    p50, p99, client = (found[f"{name}, {what}"][POLYJOB] for what in ("p50", "p99", "client"))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms; the client used {client:.2f} ms of CPU for each"


def hold_slots(server: Server) -> None:
    """Give each slot of a server a job that does not end."""
    client = server.client()
    for number in [client.submit("sleep 3600") for _ in range(SLOTS)]:
        client.await_status(number, "running")
    client.close()


def _task_spooler(plan: Plan) -> Figures:
    with task_spooler(plan.new_folder()) as spooler:
        return {RUNNING: spooler.submit_many(CLIENTS, plan.size(5.0, 2.0))}
