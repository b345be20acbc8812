"""Soak test: send jobs of every kind to a real server, kill its parts at random, and then check each job.

    python -m tests.crash.soak --runner process --seconds 1200 --seed 7

The seed decides which jobs are sent when, and what is killed when. The last line counts jobs, kills and losses. Each
loss is printed, and the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.crash.leftovers import keeper_server_pids, leftover_files, processes_naming
from tests.crash.start_counts import ContainerStarts, container_names, remove_containers
from tests.e2e.conftest import JOBS, Answer, Server, eventually, installation_of
from tests.e2e.conftest import processes_of as processes_of_job
from tests.runners.docker_engine import make_images, remove_engine_objects

IMAGE = "polyjob-test:latest"
TIMEOUT_SECONDS = 120.0
"""Seconds in which the server has to answer a request, despite kills, and to end all jobs after the last kill.

A job that takes longer while kills go on is late, which is not a loss.
"""
CLEANUP_SECONDS = 10.0
"""Seconds after which nothing of an ended job may be left."""
JOBS_PER_SECOND = {"fake": 6.0, "process": 3.0, "docker": 1.0}
"""Jobs sent per second."""
MEAN_PAUSE_SECONDS = {"fake": 3.0, "process": 3.0, "docker": 5.0}
"""Seconds between two kills, on average."""
OUTPUTS = "$POLYAXON_RUN_OUTPUTS_PATH"


@dataclasses.dataclass(frozen=True)
class PlannedJob:
    """A job to send, and its expected result."""

    at: float
    kind: str
    key: str
    config: dict[str, Any]
    status: str
    reason: str | None = "exited"
    code: int | None = 0
    log: bytes = b""
    files: tuple[tuple[str, bytes, int], ...] = ()
    """Of each output: path, the bytes that its content repeats, and size."""
    then: tuple[float, str] | None = None
    """Seconds, and an action: `stop` or `delete` once it is accepted; `restart`, `copy` or `resume` once it is done."""
    runs: int | None = 1
    """None if it may end before its command begins."""


class SoakPlan:
    """The jobs and kills of a seed."""

    def __init__(self, runner: str, seconds: float, seed: int, marks: Path) -> None:
        self.runner, self._marks = runner, marks
        self._random = random.Random(f"{runner} {seed}")
        kinds = [self.fast, self.failing, self.slow, self.stubborn, self.sleeping, self.deleted, self.cloned]
        if runner != "fake":
            kinds += [self.loud, self.forking, self.killed, self.heavy]
        if runner != "process":
            kinds += [self.built, self.unbuilt]
        self._name = ""
        self.planned_jobs: list[PlannedJob] = []
        at = 0.0
        while at < seconds:
            self._name = f"j{len(self.planned_jobs)}"
            kind = self._random.choice(kinds)
            self.planned_jobs.append(
                kind(at=at, kind=kind.__name__, key=str(uuid.UUID(int=self._random.getrandbits(128))))
            )
            at += self._random.expovariate(JOBS_PER_SECOND[runner])
        self.kills: list[tuple[float, str]] = []
        victims = ["worker"] * 3 + ["workers", "engine", "engine", "engine", "everything", "everything", "both"]
        if runner == "process":
            victims += ["keeper server", "keeper server", "engine and keeper server"]
        at = 0.5
        while at < seconds:
            self.kills.append((at, self._random.choice(victims)))
            at += self._random.expovariate(1 / MEAN_PAUSE_SECONDS[runner])

    def fast(self, **fields: Any) -> PlannedJob:
        return self._planned_job("echo fast", log=b"fast\n", **fields)

    def failing(self, **fields: Any) -> PlannedJob:
        code = self._random.randint(1, 127)  # an Engine does not tell a greater one from a signal
        return self._planned_job(f"echo failing; exit {code}", log=b"failing\n", status="failed", code=code, **fields)

    def slow(self, **fields: Any) -> PlannedJob:
        count = self._random.randint(2, 15)
        cmd = f"for i in $(seq {count}); do echo $i; sleep 0.2; done; printf kept > {OUTPUTS}/file"
        log = b"".join(b"%d\n" % number for number in range(1, count + 1))
        return self._planned_job(cmd, log=log, files=(("file", b"kept", 4),), seconds=count * 0.2, **fields)

    def loud(self, **fields: Any) -> PlannedJob:
        count = self._random.randint(1000, 300_000)
        return self._planned_job(
            f"seq {count}", log=b"".join(b"%d\n" % number for number in range(1, count + 1)), **fields
        )

    def heavy(self, **fields: Any) -> PlannedJob:
        size = self._random.randint(1, 8 << 20)
        cmd = f"mkdir {OUTPUTS}/a; yes | head -c {size} > {OUTPUTS}/a/b; echo heavy"
        return self._planned_job(cmd, log=b"heavy\n", files=(("a/b", b"y\n", size),), **fields)

    def forking(self, **fields: Any) -> PlannedJob:
        cmd = "sleep 1000 & (setsid sleep 1000 &); echo forked; exit 4"
        return self._planned_job(cmd, log=b"forked\n", status="failed", code=4, **fields)

    def killed(self, **fields: Any) -> PlannedJob:
        return self._planned_job(
            "echo killed; kill -9 $$", log=b"killed\n", status="failed", reason="signalled", code=137, **fields
        )

    def stubborn(self, **fields: Any) -> PlannedJob:
        cmd = "trap '' TERM; echo up; (setsid sleep 1000 &); while :; do sleep 1000; done"
        limits = {"timeout": self._random.randint(1, 3), "grace": 1}
        end = {"status": "failed", "reason": "timeout", "code": 137, "runs": None}
        return self._planned_job(cmd, log=b"up\n", seconds=1000, limits=limits, **end, **fields)

    def sleeping(self, **fields: Any) -> PlannedJob:
        then = self._random.uniform(0, 4), "stop"
        return self._planned_job(
            "echo up; sleep 1000", log=b"up\n", status="stopped", then=then, runs=None, seconds=1000, **fields
        )

    def deleted(self, **fields: Any) -> PlannedJob:
        then = self._random.uniform(0, 4), "delete"
        return self._planned_job("echo up; sleep 1000", status="", then=then, runs=None, seconds=1000, **fields)

    def cloned(self, **fields: Any) -> PlannedJob:
        then = 0.0, self._random.choice(["restart", "copy", "resume"])
        cmd = f"printf kept > {OUTPUTS}/file; echo again"
        return self._planned_job(cmd, log=b"again\n", files=(("file", b"kept", 4),), then=then, **fields)

    def built(self, **fields: Any) -> PlannedJob:
        step = f"echo {self._random.randint(1, 6)} > /made"
        return self._planned_job("echo built", log=b"built\n", steps=[step], **fields)

    def unbuilt(self, **fields: Any) -> PlannedJob:
        return self._planned_job(
            "echo never", status="failed", reason="build", code=None, steps=["exit 3"], runs=0, **fields
        )

    def _planned_job(
        self,
        cmd: str,
        *,
        seconds: float = 0.0,
        limits: dict[str, int] | None = None,
        steps: list[str] | None = None,
        **fields: Any,
    ) -> PlannedJob:
        config: dict[str, Any] = {"version": 1, "kind": "job", "run": {"cmd": cmd}}
        config["termination"] = limits or {"grace": 1}
        if self.runner == "process":
            config["run"]["cmd"] = f"echo ran >> {self._marks}/{fields['key']}; {cmd}"
        if self.runner == "docker":
            config["build"] = {"image": IMAGE, "build_steps": steps or []}
        if self.runner == "fake":
            config["environment"] = {"env_vars": self._fake_variables(cmd, seconds, fields)}
            if steps:
                pairs = {"FAKE_BUILD_FAIL": "1:3"} if fields.get("status") else {"MADE": steps[0]}
                config["build"] = {"image": "a", "build_steps": steps, "env_vars": sorted(map(list, pairs.items()))}
        return PlannedJob(config=config, **({"status": "succeeded"} | fields))

    def _fake_variables(self, cmd: str, seconds: float, fields: dict[str, Any]) -> list[list[str]]:
        """Return the same as variables of the fake runner."""
        pairs = {"FAKE_SECONDS": str(seconds), "FAKE_LOG": fields.get("log", b"").decode()}
        pairs["FAKE_CODE"] = str(fields.get("code", 0) or 0)
        pairs |= {"FAKE_IGNORE_TERM": "yes"} if "trap" in cmd else {}
        if files := fields.get("files"):
            pairs["FAKE_OUTPUTS"] = json.dumps({name: _content(what, size).decode() for name, what, size in files})
        return sorted(map(list, pairs.items()))


class SoakRun:
    """One run of a plan against a server. `losses` has a line for everything that went wrong."""

    def __init__(self, folder: Path, runner: str, seconds: float, seed: int) -> None:
        self._marks = folder / "marks"
        self._marks.mkdir(parents=True)
        self.plan = SoakPlan(runner, seconds, seed, self._marks)
        self._runner = runner
        self._server = Server(folder, runner=runner, slots="8", stop_grace="1", disk_low="0", build_slots="2")
        self._starts: ContainerStarts | None = None
        self._victims = random.Random(seed)
        self.losses: list[str] = []
        self.killed: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.late = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._last_killed_at: float | None = None
        """None while more kills are to come."""

    def run(self) -> None:
        """Send all jobs, make all kills, and check everything. Blocks."""
        with contextlib.ExitStack() as stack:
            if self._runner == "docker":
                self._starts = stack.enter_context(ContainerStarts())
            self._server.start()
            stack.callback(self._server.__exit__)
            began = time.monotonic()
            with ThreadPoolExecutor(48) as pool:
                killer = pool.submit(self._kill_all, began)
                sent = [pool.submit(self._follow_plan, planned, began) for planned in self.plan.planned_jobs]
                for planned, future in zip(self.plan.planned_jobs, sent, strict=True):
                    if error := future.exception():
                        self._record_loss(planned, f"{type(error).__name__}: {error}")
                self._is_over.set()
                killer.result()
            self._check_leftovers()

    # Jobs.

    def _follow_plan(self, planned: PlannedJob, began: float) -> None:
        time.sleep(max(0.0, began + planned.at - time.monotonic()))
        body = {"config": planned.config}
        job = self._request("POST", JOBS, body, 201, **{"Idempotency-Key": planned.key}).json
        self.accepted.add(job["uuid"])
        if planned.then is None:
            self._check_job(planned, job["id"], job["uuid"])
        elif planned.then[1] == "stop":
            time.sleep(planned.then[0])
            self._request("POST", f"{JOBS}/{job['id']}/stop", None, 200)
            self._check_job(planned, job["id"], job["uuid"])
        elif planned.then[1] == "delete":
            time.sleep(planned.then[0])
            self._request("DELETE", f"{JOBS}/{job['id']}", None, 204, 404)
            self._check_processes(planned, job["uuid"], TIMEOUT_SECONDS)  # it is answered before it is done
        else:
            self._check_job(planned, job["id"], job["uuid"])
            path = f"{JOBS}/{job['id']}/{planned.then[1]}"
            key = {"Idempotency-Key": f"{planned.key}-again"}
            clone = self._request("POST", path, {}, 201, **key).json
            self.accepted.add(clone["uuid"])
            self._check_job(dataclasses.replace(planned, runs=2), clone["id"], clone["uuid"])

    def _check_job(self, planned: PlannedJob, number: int, identity: str) -> None:
        began = time.monotonic()
        while not (job := self._request("GET", f"{JOBS}/{number}?wait=5", None, 200).json)["finished_at"]:
            last = self._last_killed_at
            if last is not None and time.monotonic() > max(began, last) + TIMEOUT_SECONDS:
                self._record_loss(planned, f"is still {job['last_status']} {TIMEOUT_SECONDS:.0f} s after the last kill")
                return
        if time.monotonic() > began + TIMEOUT_SECONDS:
            with self._lock:
                self.late += 1
        self._check_processes(planned, identity, CLEANUP_SECONDS)
        rows = self._request("GET", f"{JOBS}/{number}/statuses", None, 200).json["results"]
        statuses = [row["status"] for row in rows]
        found = job["last_status"], (rows[-1]["details"] or {}).get("reason"), job["exit_code"]
        is_stopped = planned.status == "stopped"
        never_began = planned.runs is None and "running" not in statuses
        wanted = planned.status, planned.reason, None if never_began else planned.code
        if found != wanted and not (is_stopped and found[0] == "stopped"):
            self._record_loss(planned, f"{found} instead of {wanted}: {job['exit']}")
        running = 0 if planned.runs == 0 else 1
        if statuses[-1] != planned.status or statuses.count(planned.status) != 1 or len(set(statuses)) != len(statuses):
            self._record_loss(planned, f"statuses {statuses}")
        if not (is_stopped or never_began or statuses.count("running") == running):
            self._record_loss(planned, f"statuses {statuses}")
        log = self._request("GET", f"{JOBS}/{number}/logs", None, 200).body
        if log != planned.log and not (is_stopped and planned.log.startswith(log)) and not (never_began and not log):
            self._record_loss(planned, f"log of {len(log)} bytes instead of {len(planned.log)}: {log[:100]!r}")
        if not is_stopped:
            found_files = self._files(number)
            if found_files != {name: _content(what, size) for name, what, size in planned.files}:
                sizes = {name: len(content) for name, content in found_files.items()}
                self._record_loss(planned, f"outputs {sizes} instead of {planned.files}, or of other content")
        self._count_runs(planned, identity)

    def _files(self, number: int) -> dict[str, bytes]:
        """Return path → content of the outputs that a user downloads."""
        held = io.BytesIO(self._request("GET", f"{JOBS}/{number}/outputs", None, 200).body)
        with tarfile.open(fileobj=held) as archive:
            members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
            return {name: file.read() for name, file in members if file is not None}

    def _count_runs(self, planned: PlannedJob, identity: str) -> None:
        if self._runner == "process":
            path = self._marks / planned.key
            count = path.read_text().count("ran") if path.exists() else 0
            wanted = planned.runs
        elif self._starts is not None:
            count, wanted = self._starts.of_job(identity), planned.runs and 1
        else:
            return  # it refuses a second run by itself
        if count != wanted and not (wanted is None and count <= 1):
            self._record_loss(planned, f"ran {count} times")

    def _check_processes(self, planned: PlannedJob, identity: str, seconds: float) -> None:
        try:
            eventually(lambda: not processes_of_job(identity), seconds)
        except AssertionError:
            self._record_loss(planned, f"has processes left: {processes_of_job(identity)}")

    def _request(self, method: str, path: str, body: Any, *statuses: int, **headers: str) -> Answer:
        """Send a request until the server answers without an error of its own."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                answer = self._server.call(method, path, body, **headers)
                if answer.status in statuses:
                    return answer
                if answer.status < 500:
                    raise AssertionError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
                last = f"{answer.status} {answer.body[:300]!r}"
            except (OSError, ValueError, http.client.HTTPException) as error:
                last = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {path}: {last} for {TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.1)

    # Kills.

    def _kill_all(self, began: float) -> None:
        try:
            for at, victim in self.plan.kills:
                if self._is_over.wait(max(0.0, began + at - time.monotonic())):
                    break
                self._kill(victim)
        finally:
            self._last_killed_at = time.monotonic()

    def _kill(self, victim: str) -> None:
        if victim == "everything":
            self._kill_pids(keeper_server_pids(self._server.data_dir))
            self._server.kill()
            time.sleep(self._victims.uniform(0, 1))
            self._server.start()
        else:
            workers, engine = self._server.worker_pids(), self._server.engine_pids()
            pids = {
                "worker": workers[:1],
                "workers": workers,
                "engine": engine,
                "both": workers + engine,
                "keeper server": keeper_server_pids(self._server.data_dir),
                "engine and keeper server": engine + keeper_server_pids(self._server.data_dir),
            }[victim]
            if not self._kill_pids(pids):
                return
        self.killed[victim] += 1

    def _kill_pids(self, pids: list[int]) -> int:
        struck = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck += 1
        return struck

    # Leftovers.

    def _check_leftovers(self) -> None:
        folder = self._server.data_dir
        known = {job["uuid"] for page in self._pages() for job in page}
        self._expect_none("files", lambda: self._leftovers_of_accepted_jobs(known))
        self._server.interrupt()
        self._server.process = None
        self._expect_none("processes", lambda: processes_naming(folder))
        if self._starts is not None:
            self._expect_none("containers", lambda: container_names(installation_of(folder)))

    def remove_docker_objects(self) -> None:
        """Remove what a run has left in the Docker Engine: containers, which are losses, its volume and its network."""
        if self._starts is not None:
            installation = installation_of(self._server.data_dir)
            remove_containers(installation)
            remove_engine_objects(installation)

    def _expect_none(self, what: str, look: Callable[[], list[str]]) -> None:
        try:
            eventually(lambda: not look(), CLEANUP_SECONDS)
        except AssertionError:
            self.losses.append(f"{what} left over: {look()}")

    def _leftovers_of_accepted_jobs(self, known: set[str]) -> list[str]:
        """Ignore folders of requests that were killed before they were accepted. The engine's cleanup removes them."""
        try:
            left = leftover_files(self._server.data_dir, known)
        except FileNotFoundError:
            return ["a folder that was removed meanwhile"]
        return [name for name in left if not name.startswith("jobs/") or name.split("/")[1] in known | self.accepted]

    def _pages(self) -> Iterator[list[dict[str, Any]]]:
        offset = 0
        while page := self._request("GET", f"{JOBS}?limit=100&offset={offset}", None, 200).json["results"]:
            yield page
            offset += len(page)

    def _record_loss(self, planned: PlannedJob, text: str) -> None:
        with self._lock:
            self.losses.append(f"{planned.kind} {planned.key}: {text}")


def _content(what: bytes, size: int) -> bytes:
    return (what * (size // len(what) + 1))[:size]


def run_soak(folder: Path, runner: str, seconds: float, seed: int, say: Callable[[str], None] = print) -> list[str]:
    """Run a soak test, and return its losses. The last line passed to `say` counts jobs, kills and losses."""
    run = SoakRun(folder, runner, seconds, seed)
    run.run()
    for loss in run.losses:
        say(loss)
    kills = ", ".join(f"{count} {victim}" for victim, count in sorted(run.killed.items()))
    counts = f"{len(run.accepted)} jobs, {run.killed.total()} kills ({kills})"
    say(f"runner {runner}, seed {seed}, {seconds:.0f} s: {counts}, {run.late} late, {len(run.losses)} losses")
    try:
        run.remove_docker_objects()
    except Exception as error:  # the verdict above counts, not the cleanup
        print(f"The volume and network of this run could not be removed: {error}", file=sys.stderr)
    return run.losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="process", choices=sorted(JOBS_PER_SECOND))
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    if arguments.runner == "docker":
        make_images()
    with tempfile.TemporaryDirectory(prefix="polyjob-soak-") as folder:
        sys.exit(1 if run_soak(Path(folder), arguments.runner, arguments.seconds, seed) else 0)


if __name__ == "__main__":
    main()
