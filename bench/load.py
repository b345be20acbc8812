"""Submit jobs as fast as a server accepts them, from a process of its own.

    python -m bench.load --port 8000 --token TOKEN [--clients 8] [--seconds 5] [--cmd true]

One thread with an epoll loop keeps one request on each connection under way. The output is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import select
import statistics
import subprocess
import sys
import time
from collections import Counter

from bench.client import Connection, authorization, job, prepare

JOBS = "/api/v1/root/quick-start/jobs"


@dataclasses.dataclass(frozen=True)
class Load:
    """The result of one load."""

    accepted: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_ms: float
    """CPU time of the load generator for each request."""

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds


def generate(port: int, request: bytes, clients: int, seconds: float = math.inf, count: int | None = None) -> Load:
    """Send a request again and again, for some time or until it was sent `count` times."""
    connections = [Connection(port) for _ in range(clients)]
    by_descriptor = {connection.socket.fileno(): connection for connection in connections}
    statuses: Counter[bytes] = Counter()
    latencies: list[float] = []
    cpu, started = time.process_time(), time.perf_counter()
    until, left = started + seconds, math.inf if count is None else count
    with select.epoll() as poll:
        for descriptor, connection in by_descriptor.items():
            poll.register(descriptor, select.EPOLLIN)
            connection.send(request)
        busy = clients
        left -= clients
        while busy:
            for descriptor, _ in poll.poll():
                connection = by_descriptor[descriptor]
                if (response := connection.receive()) is None:
                    continue
                now = time.perf_counter()
                latencies.append(now - connection.sent_at)
                statuses[response[9:12]] += 1
                if now < until and left > 0:
                    left -= 1
                    connection.send(request)
                else:
                    busy -= 1
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    for connection in connections:
        connection.close()
    accepted = statuses[b"201"]
    quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    return Load(
        accepted,
        statuses.total() - accepted,
        took,
        quantiles[49] * 1000,
        quantiles[98] * 1000,
        cpu * 1000 / len(latencies),
    )


def generate_elsewhere(port: int, token: str, clients: int, seconds: float) -> Load:
    """Generate the load in a new process."""
    command = [sys.executable, "-m", "bench.load", "--port", str(port), "--token", token]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    return Load(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Submit jobs as fast as possible.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cmd", default="true", help="command of the jobs")
    arguments = parser.parse_args()
    request = prepare("POST", JOBS, authorization(arguments.token), job(arguments.cmd))
    print(json.dumps(dataclasses.asdict(generate(arguments.port, request, arguments.clients, arguments.seconds))))


if __name__ == "__main__":
    main()
