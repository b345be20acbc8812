"""Compare many running pods with few: requests to the API server, and CPU time of the engine.

    python bench/pods.py [--pods 1000] [--seconds 30]

Uses the cluster simulator of the tests, in which pods are only objects. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from throughput import JOBS, Client, server, temporary_folder

from tests.simulators.kubernetes.remote import start

FEW = 10
TICK = 1.0
JOB = {"config": {"version": 1, "kind": "job", "build": {"image": "busybox"}, "run": {"cmd": "sleep 100000"}}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("pods: not measured, because the cluster simulator needs root")
        return
    for count in (FEW, arguments.pods):
        with temporary_folder() as folder, start(folder / "cluster") as cluster:
            measure(folder, cluster, count, arguments.seconds)


def measure(folder: Path, cluster: Any, count: int, seconds: float) -> None:
    cluster.add_node("large", {}, cpu="4000", pods="4000", memory="16Ti")
    cluster.schedule_nothing("pretending")
    settings = {"kube_config": str(cluster.kubeconfig), "kube_helper_image": "busybox", "slots": str(count)}
    with server(folder / "data", runner="kubernetes", **settings) as (port, token):
        client = Client(port, token)
        numbers = [client.call("POST", JOBS, JOB)["id"] for _ in range(count)]
        taken = 0
        while taken < count:
            taken += cluster.take_up()
            time.sleep(0.2)
        for number in numbers:
            while client.call("GET", f"{JOBS}{number}")["last_status"] != "running":
                time.sleep(0.2)
        time.sleep(20 + count / 10)  # until quiet logs are looked at seldom
        engine = engine_of(folder / "data")
        cluster.forget_counts()
        cpu, began = cpu_of(engine), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        used = (cpu_of(engine) - cpu) / took
        asked = Counter(cluster.counted())
    ticks = took / TICK
    told = ", ".join(f"{number / ticks:.2f} {name}" for name, number in asked.most_common())
    print(f"{count:5} running pods: {sum(asked.values()) / ticks:6.2f} requests a tick ({told}); {used:6.1%} of a core")


def engine_of(data: Path) -> int:
    """The engine's process."""
    return int(json.loads((data / "engine.json").read_text())["pid"])


def cpu_of(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
