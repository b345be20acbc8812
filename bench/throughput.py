"""Compare polyjob with a loop that only starts processes: jobs per second, and one job on an idle server.

    python bench/throughput.py [--jobs 500]

Read the ratios, because times say little on a shared machine. Each line names what it is compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runners import load
from runners.base import Exited, JobSpec, RunnerSettings

JOB = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}
JOBS = "/api/v1/root/quick-start/jobs/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    arguments = parser.parse_args()
    with temporary_folder() as folder:
        spawn = median(lambda: subprocess.run(["sh", "-c", "true"], check=True), 200)
        keeper = _keeper(folder / "bare", 200)
        with server(folder / "data") as (port, token):
            client = Client(port, token)
            alone = median(lambda: client.run(JOB), 50)
            started = time.perf_counter()
            client.run_many(JOB, arguments.jobs)
            each = (time.perf_counter() - started) / arguments.jobs
        spawn_again = median(lambda: subprocess.run(["sh", "-c", "true"], check=True), 200)
    spawn = (spawn + spawn_again) / 2
    rows = [
        ("bare spawn loop, one `sh -c true`", spawn, ""),
        ("bare keeper, start to exit seen", keeper, f"{keeper / spawn:.1f} x the spawn"),
        ("one job alone, POST to terminal", alone, f"{alone / spawn:.1f} x the spawn (aim: 8)"),
        (f"{arguments.jobs} jobs in a row, each", each, f"{spawn / each:.2f} x the spawn loop's rate (aim: 0.2)"),
    ]
    for name, seconds, note in rows:
        print(f"{name:36} {seconds * 1000:9.2f} ms {1 / seconds:9.1f}/s  {note}")


class Client:
    """One kept-open connection, as a script of a user has it."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object = None) -> dict:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status < 300, (response.status, text)
        return json.loads(text)

    def run(self, job: object) -> None:
        number = self.call("POST", JOBS, job)["id"]
        done = self.call("GET", f"{JOBS}{number}?wait=30")
        assert done["last_status"] == "succeeded", done

    def run_many(self, job: object, count: int) -> None:
        numbers = [self.call("POST", JOBS, job)["id"] for _ in range(count)]
        done = self.call("GET", f"{JOBS}{numbers[-1]}?wait=60")
        while done["last_status"] != "succeeded":
            done = self.call("GET", f"{JOBS}{numbers[-1]}?wait=60")
        for number in numbers[-8:]:
            assert self.call("GET", f"{JOBS}{number}?wait=30")["last_status"] == "succeeded"


def _keeper(folder: Path, count: int) -> float:
    """Median seconds from `start` to the poll that says Exited, on the process runner alone."""
    (folder / "jobs").mkdir(parents=True)
    woken = []
    runner = load("process", RunnerSettings(str(folder), "0" * 32, ("PATH",)), lambda: woken.append(1))
    numbers = iter(range(count + 1))

    def one() -> None:
        uuid = f"{next(numbers):032x}"
        own = folder / "jobs" / uuid
        own.mkdir()
        handle = runner.start(JobSpec(uuid, "0" * 32, str(own), "true", {}), None)
        while not isinstance(runner.poll([handle]).get(handle), Exited):
            time.sleep(0.0002)
        runner.clean(handle)

    one()
    try:
        return median(one, count)
    finally:
        runner.close()


def median(act: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="polyjob-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def server(data_dir: Path, **settings: str) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "polyjob", "serve", "--port", "0", "--data-dir", str(data_dir)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
    environment |= {f"POLYJOB_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise RuntimeError("the server did not start")
        yield int(found.group(1)), (data_dir / "root-token").read_text().strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


if __name__ == "__main__":
    main()
