"""Many short jobs: jobs per second from the first submit to the last end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from bench.client import Client, job, parse
from bench.floors import spawns_per_second
from bench.load import generate
from bench.peers import TASK_SPOOLER, is_installed, task_spooler
from bench.plan import Plan
from bench.rows import FLOOR, Row
from bench.servers import Checkout
from bench.turns import Figures, take_turns

CLIENTS = 8
PAUSE_SECONDS = 0.01
LIVE = "?limit=1&query=status:created|scheduled|building|running"
SPAWNS = "spawn and wait"


def rows(plan: Plan) -> list[Row]:
    count = plan.size(500, 100)
    each, listed = (f"{count} × `true`, client {how}" for how in ("polls each job", "polls one list"))
    subjects: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_server, plan, checkout, count, each, listed)
        for name, checkout in plan.checkouts.items()
    }
    subjects[FLOOR] = lambda: {SPAWNS: spawns_per_second(plan.size(1.0, 0.5))}
    if is_installed(TASK_SPOOLER):
        subjects[TASK_SPOOLER] = functools.partial(_spooled, plan, count, each)
    found = take_turns(plan.size(3, 1), subjects)
    note = "from the first POST to the last terminal status"
    return [Row.of(name, "/s", found[SPAWNS] | found[name], SPAWNS, note) for name in (each, listed)]


def _server(plan: Plan, checkout: Checkout, count: int, each: str, listed: str) -> Figures:
    figures = {}
    for name, wait in ((each, _poll_each), (listed, _poll_list)):
        with plan.serve(checkout) as server:
            client = server.client()
            before = client.run("true")
            request = client.request("POST", "", job("true"))
            started = time.perf_counter()
            generate(server.port, request, CLIENTS, count=count)
            wait(client, range(before + 1, before + 1 + count))
            figures[name] = count / (time.perf_counter() - started)
            succeeded = client.call("GET", "?limit=1&query=status:succeeded")["count"]
            if succeeded != count + 1:
                raise RuntimeError(f"{succeeded} of {count + 1} jobs succeeded")
    return figures


def _poll_each(client: Client, numbers: range) -> None:
    for number in numbers:
        request = client.request("GET", f"/{number}")
        while not parse(client.connection.exchange(request))["finished_at"]:
            time.sleep(PAUSE_SECONDS)


def _poll_list(client: Client, numbers: range) -> None:
    request = client.request("GET", LIVE)
    while parse(client.connection.exchange(request))["count"]:
        time.sleep(PAUSE_SECONDS)


def _spooled(plan: Plan, count: int, name: str) -> Figures:
    with task_spooler(plan.new_folder()) as spooler:
        started = time.perf_counter()
        spooler.submit_many(CLIENTS, count=count)
        spooler.act("-w", spooler.submit("true"))
        return {name: count / (time.perf_counter() - started)}
