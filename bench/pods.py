"""Many running pods, compared with few: requests to the API server, and CPU time of the engine.

The cluster is the simulator of the tests, in which pods are only objects.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from bench.client import Client
from bench.plan import NotMeasured, Plan
from bench.rows import FLOOR, POLYJOB, Row
from bench.servers import Checkout, cpu_of
from bench.turns import Figures
from tests.simulators.kubernetes.remote import start

FEW = 10
TICK_SECONDS = 1.0


def rows(plan: Plan) -> list[Row]:
    if os.geteuid() != 0:
        raise NotMeasured("the cluster simulator needs root")
    many = plan.size(1000, 100)
    few, found = (
        {name: _measure(plan, checkout, count) for name, checkout in plan.checkouts.items()} for count in (FEW, many)
    )
    return [
        Row.of(
            f"{many:,} running pods: {name}",
            unit,
            {**{who: figures[name] for who, figures in found.items()}, FLOOR: few[POLYJOB][name]},
            f"{FEW} pods",
        )
        for name, unit in (("requests to the API server", "/tick"), ("CPU time of the engine", "% of a core"))
    ]


def _measure(plan: Plan, checkout: Checkout, count: int) -> Figures:
    folder = plan.new_folder()
    folder.mkdir()
    with start(folder / "cluster") as cluster:
        cluster.add_node("large", {}, cpu="4000", pods="4000", memory="16Ti")
        cluster.schedule_nothing("pretending")
        settings = {"kube_config": str(cluster.kubeconfig), "kube_helper_image": "busybox", "slots": str(count)}
        with plan.serve(checkout, "kubernetes", **settings) as server:
            client = server.client()
            _run_pods(client, cluster, count)
            time.sleep(20 + count / 10)  # until quiet logs are looked at seldom
            engine = server.engine()
            cluster.forget_counts()
            cpu, started = cpu_of(engine), time.monotonic()
            time.sleep(plan.size(30.0, 10.0))
            took = time.monotonic() - started
            requests = Counter(cluster.counted())
            return {
                "requests to the API server": requests.total() / (took / TICK_SECONDS),
                "CPU time of the engine": (cpu_of(engine) - cpu) / took * 100,
            }


def _run_pods(client: Client, cluster: Any, count: int) -> None:
    numbers = [client.submit("sleep 100000", build={"image": "busybox"}) for _ in range(count)]
    taken = 0
    while taken < count:
        taken += cluster.take_up()
        time.sleep(0.2)
    for number in numbers:
        client.await_status(number, "running")
