"""Compare jobs in containers with plain `docker run`: one job alone, and eight in parallel.

    python bench/containers.py [--rounds 10] [--jobs 80]

Needs a Docker Engine, the `docker` command and busybox. The two take turns, so that other load on the machine affects
both. Read the ratios, not the times.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from throughput import JOBS, Client, server, temporary_folder

from tests.runners.docker_engine import engine_answers, make_images
from tests.runners.harness import IMAGE

LANES = 8
JOB = {"config": {"version": 1, "kind": "job", "build": {"image": IMAGE}, "run": {"cmd": "true"}}}
PLAIN = f"docker run --rm {IMAGE} true"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=80)
    arguments = parser.parse_args()
    if not (engine_answers() and shutil.which("docker")):
        print("containers: not measured, because no Docker Engine answers or `docker` is missing")
        return
    make_images()
    with temporary_folder() as folder, server(folder / "data", runner="docker", slots=str(LANES)) as (port, token):
        Client(port, token).run(JOB)
        alone, plain = take_turns(
            arguments.rounds, lambda: Client(port, token).run(JOB), lambda: subprocess.run(PLAIN.split(), check=True)
        )
        many, lanes = take_turns(
            3, lambda: run_many(Client(port, token), arguments.jobs), lambda: in_lanes(arguments.jobs)
        )
    rows = [
        ("`docker run --rm`, `true`", plain, ""),
        ("one job alone, POST to terminal", alone, f"{alone / plain:.2f} x its time (aim: 1.15)"),
        (f"`docker run --rm` in {LANES} lanes, each", lanes / arguments.jobs, ""),
        (f"{LANES} slots, each", many / arguments.jobs, f"{lanes / many:.2f} x their rate (aim: 1)"),
    ]
    for name, seconds, note in rows:
        print(f"{name:36} {seconds * 1000:9.2f} ms {1 / seconds:9.1f}/s  {note}")


def take_turns(rounds: int, *acts: Callable[[], object]) -> list[float]:
    """The median seconds of each."""
    times: list[list[float]] = [[] for _ in acts]
    for _ in range(rounds):
        for act, found in zip(acts, times, strict=True):
            started = time.perf_counter()
            act()
            found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in times]


def run_many(client: Client, count: int) -> None:
    for number in [client.call("POST", JOBS, JOB)["id"] for _ in range(count)]:
        while not (done := client.call("GET", f"{JOBS}{number}?wait=60"))["finished_at"]:
            pass
        assert done["last_status"] == "succeeded", done


def in_lanes(count: int) -> None:
    lane = f"for i in $(seq {count // LANES}); do {PLAIN}; done"
    subprocess.run(["sh", "-c", " ".join(f"({lane}) &" for _ in range(LANES)) + " wait"], check=True)


if __name__ == "__main__":
    main()
