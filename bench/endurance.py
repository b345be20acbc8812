"""Clients that submit as fast as they can for ten minutes: latencies, refusals, the queue and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bench.floors import commits_per_second
from bench.load import generate_elsewhere
from bench.plan import Plan
from bench.rows import FLOOR, POLYJOB, Row
from bench.servers import Checkout, pss_of
from bench.turns import Figures

CLIENTS = 8
RATE = "jobs accepted"
P50 = "latency, p50"
P99 = "latency, p99"
REFUSED = "responses other than 201"
GROWTH = "growth of the queue"
EARLY = "memory (PSS) after a tenth of the time"
MEMORY = "memory (PSS) at the end"


def rows(plan: Plan) -> list[Row]:
    seconds = plan.size(600.0, 30.0)
    found = {name: _measure(plan, checkout, seconds) for name, checkout in plan.checkouts.items()}
    commits = commits_per_second(plan.folder, plan.size(2.0, 0.5))

    def row(name: str, unit: str, floor: str = "", floor_value: float = 0.0) -> Row:
        values: Mapping[str, float] = {who: figures[name] for who, figures in found.items()}
        return Row.of(f"{CLIENTS} clients for {seconds:.0f} s: {name}", unit, {**values, FLOOR: floor_value}, floor)

    return [
        row(RATE, "/s", "SQLite commits", commits),
        row(P50, "ms"),
        row(P99, "ms"),
        row(REFUSED, ""),
        row(GROWTH, "/s"),
        row(MEMORY, "MB", "after a tenth of the time", found[POLYJOB][EARLY]),
    ]


def _measure(plan: Plan, checkout: Checkout, seconds: float) -> Figures:
    with plan.serve(checkout) as server, ThreadPoolExecutor(1) as executor:
        loading = executor.submit(generate_elsewhere, server.port, server.token, CLIENTS, seconds)
        time.sleep(seconds / 10)
        early = pss_of(server.processes())
        load = loading.result()
        client = server.client()
        queued = client.call("GET", "?limit=1&sort=id&query=status:created")["results"]
        client.close()
        return {
            RATE: load.rate,
            P50: load.p50_ms,
            P99: load.p99_ms,
            REFUSED: load.refused,
            GROWTH: (load.accepted - queued[0]["id"] + 1) / load.seconds if queued else 0.0,
            EARLY: early,
            MEMORY: pss_of(server.processes()),
        }
