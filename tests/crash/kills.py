"""Random kills: jobs of every kind are sent to a real server while its parts are killed, and then each is asked after.

    python -m tests.crash.kills --runner process --seconds 1200 --seed 7

The seed decides what is sent when, and what is killed when. The last line counts jobs, kills and losses; the exit code
is 1 where there is a loss, each of which was printed.
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

from tests.crash.left import left_in, processes_of, server_of_keepers
from tests.crash.starts import Starts, containers_of
from tests.e2e.conftest import JOBS, Answer, Server, eventually, installation_of, marked
from tests.runners.docker_engine import make_images, remove_marks

IMAGE = "polyjob-test:latest"
PATIENCE = 120.0
"""Seconds that the server gets to answer a request, over and over, or to end what was sent once nothing is killed any
more. What takes longer while kills go on is late, and no loss."""
GONE_AFTER = 10.0
"""Seconds after which nothing of what has ended may be left."""
RATES = {"fake": 6.0, "process": 3.0, "docker": 1.0}
"""Jobs sent in a second."""
PAUSE = {"fake": 3.0, "process": 3.0, "docker": 5.0}
"""Seconds between two kills, on average."""
OUTPUTS = "$POLYAXON_RUN_OUTPUTS_PATH"


@dataclasses.dataclass(frozen=True)
class Errand:
    """A job, and what is to come of it."""

    at: float
    kind: str
    key: str
    config: dict[str, Any]
    status: str
    reason: str | None = "exited"
    code: int | None = 0
    log: bytes = b""
    files: tuple[tuple[str, bytes, int], ...] = ()
    """Path, what its content repeats, and bytes, of its outputs."""
    then: tuple[float, str] | None = None
    """So many seconds after it is accepted: `stop` or `delete`; once it is done: `restart`, `copy` or `resume`."""
    runs: int | None = 1
    """None where it may be ended before its command begins."""


class Plan:
    """What a seed stands for."""

    def __init__(self, runner: str, seconds: float, seed: int, marks: Path) -> None:
        self.runner, self._marks = runner, marks
        self._random = random.Random(f"{runner} {seed}")
        kinds = [self.fast, self.failing, self.slow, self.stubborn, self.sleeping, self.deleted, self.cloned]
        if runner != "fake":
            kinds += [self.loud, self.forking, self.killed, self.heavy]
        if runner != "process":
            kinds += [self.built, self.unbuilt]
        self._name = ""
        self.errands: list[Errand] = []
        at = 0.0
        while at < seconds:
            self._name = f"j{len(self.errands)}"
            kind = self._random.choice(kinds)
            self.errands.append(kind(at=at, kind=kind.__name__, key=str(uuid.UUID(int=self._random.getrandbits(128)))))
            at += self._random.expovariate(RATES[runner])
        self.kills: list[tuple[float, str]] = []
        victims = ["worker"] * 3 + ["workers", "engine", "engine", "engine", "everything", "everything", "both"]
        if runner == "process":
            victims += ["keeper server", "keeper server", "engine and keeper server"]
        at = 0.5
        while at < seconds:
            self.kills.append((at, self._random.choice(victims)))
            at += self._random.expovariate(1 / PAUSE[runner])

    def fast(self, **fields: Any) -> Errand:
        return self._errand("echo fast", log=b"fast\n", **fields)

    def failing(self, **fields: Any) -> Errand:
        code = self._random.randint(1, 127)  # an Engine does not tell a greater one from a signal
        return self._errand(f"echo failing; exit {code}", log=b"failing\n", status="failed", code=code, **fields)

    def slow(self, **fields: Any) -> Errand:
        count = self._random.randint(2, 15)
        cmd = f"for i in $(seq {count}); do echo $i; sleep 0.2; done; printf kept > {OUTPUTS}/file"
        log = b"".join(b"%d\n" % number for number in range(1, count + 1))
        return self._errand(cmd, log=log, files=(("file", b"kept", 4),), seconds=count * 0.2, **fields)

    def loud(self, **fields: Any) -> Errand:
        count = self._random.randint(1000, 300_000)
        return self._errand(f"seq {count}", log=b"".join(b"%d\n" % number for number in range(1, count + 1)), **fields)

    def heavy(self, **fields: Any) -> Errand:
        size = self._random.randint(1, 8 << 20)
        cmd = f"mkdir {OUTPUTS}/a; yes | head -c {size} > {OUTPUTS}/a/b; echo heavy"
        return self._errand(cmd, log=b"heavy\n", files=(("a/b", b"y\n", size),), **fields)

    def forking(self, **fields: Any) -> Errand:
        cmd = "sleep 1000 & (setsid sleep 1000 &); echo forked; exit 4"
        return self._errand(cmd, log=b"forked\n", status="failed", code=4, **fields)

    def killed(self, **fields: Any) -> Errand:
        return self._errand(
            "echo killed; kill -9 $$", log=b"killed\n", status="failed", reason="signalled", code=137, **fields
        )

    def stubborn(self, **fields: Any) -> Errand:
        cmd = "trap '' TERM; echo up; (setsid sleep 1000 &); while :; do sleep 1000; done"
        limits = {"timeout": self._random.randint(1, 3), "grace": 1}
        end = {"status": "failed", "reason": "timeout", "code": 137, "runs": None}
        return self._errand(cmd, log=b"up\n", seconds=1000, limits=limits, **end, **fields)

    def sleeping(self, **fields: Any) -> Errand:
        then = self._random.uniform(0, 4), "stop"
        return self._errand(
            "echo up; sleep 1000", log=b"up\n", status="stopped", then=then, runs=None, seconds=1000, **fields
        )

    def deleted(self, **fields: Any) -> Errand:
        then = self._random.uniform(0, 4), "delete"
        return self._errand("echo up; sleep 1000", status="", then=then, runs=None, seconds=1000, **fields)

    def cloned(self, **fields: Any) -> Errand:
        then = 0.0, self._random.choice(["restart", "copy", "resume"])
        cmd = f"printf kept > {OUTPUTS}/file; echo again"
        return self._errand(cmd, log=b"again\n", files=(("file", b"kept", 4),), then=then, **fields)

    def built(self, **fields: Any) -> Errand:
        step = f"echo {self._random.randint(1, 6)} > /made"
        return self._errand("echo built", log=b"built\n", steps=[step], **fields)

    def unbuilt(self, **fields: Any) -> Errand:
        return self._errand(
            "echo never", status="failed", reason="build", code=None, steps=["exit 3"], runs=0, **fields
        )

    def _errand(
        self,
        cmd: str,
        *,
        seconds: float = 0.0,
        limits: dict[str, int] | None = None,
        steps: list[str] | None = None,
        **fields: Any,
    ) -> Errand:
        config: dict[str, Any] = {"version": 1, "kind": "job", "run": {"cmd": cmd}}
        config["termination"] = limits or {"grace": 1}
        if self.runner == "process":
            config["run"]["cmd"] = f"echo ran >> {self._marks}/{fields['key']}; {cmd}"
        if self.runner == "docker":
            config["build"] = {"image": IMAGE, "build_steps": steps or []}
        if self.runner == "fake":
            config["environment"] = {"env_vars": self._pretended(cmd, seconds, fields)}
            if steps:
                pairs = {"FAKE_BUILD_FAIL": "1:3"} if fields.get("status") else {"MADE": steps[0]}
                config["build"] = {"image": "a", "build_steps": steps, "env_vars": sorted(map(list, pairs.items()))}
        return Errand(config=config, **({"status": "succeeded"} | fields))

    def _pretended(self, cmd: str, seconds: float, fields: dict[str, Any]) -> list[list[str]]:
        """The same for the runner that only pretends."""
        pairs = {"FAKE_SECONDS": str(seconds), "FAKE_LOG": fields.get("log", b"").decode()}
        pairs["FAKE_CODE"] = str(fields.get("code", 0) or 0)
        pairs |= {"FAKE_IGNORE_TERM": "yes"} if "trap" in cmd else {}
        if files := fields.get("files"):
            pairs["FAKE_OUTPUTS"] = json.dumps({name: _content(what, size).decode() for name, what, size in files})
        return sorted(map(list, pairs.items()))


class Run:
    """One run of a plan against a server; `losses` says what should have been otherwise."""

    def __init__(self, folder: Path, runner: str, seconds: float, seed: int) -> None:
        self._marks = folder / "marks"
        self._marks.mkdir(parents=True)
        self.plan = Plan(runner, seconds, seed, self._marks)
        self._runner = runner
        self._server = Server(folder, runner=runner, slots="8", stop_grace="1", disk_low="0", build_slots="2")
        self._starts: Starts | None = None
        self._victims = random.Random(seed)
        self.losses: list[str] = []
        self.killed: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.late = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._last_killed_at: float | None = None
        """None while there is more to come."""

    def go_through(self) -> None:
        """Blocks until all is sent, killed, ended and looked at, or a job has not ended in time."""
        with contextlib.ExitStack() as stack:
            if self._runner == "docker":
                self._starts = stack.enter_context(Starts())
            self._server.start()
            stack.callback(self._server.__exit__)
            began = time.monotonic()
            with ThreadPoolExecutor(48) as pool:
                killer = pool.submit(self._kill_all, began)
                sent = [pool.submit(self._see_through, errand, began) for errand in self.plan.errands]
                for errand, future in zip(self.plan.errands, sent, strict=True):
                    if error := future.exception():
                        self._lose(errand, f"{type(error).__name__}: {error}")
                self._is_over.set()
                killer.result()
            self._look_at_what_is_left()

    # What is sent, and what comes of it.

    def _see_through(self, errand: Errand, began: float) -> None:
        time.sleep(max(0.0, began + errand.at - time.monotonic()))
        body = {"config": errand.config}
        job = self._insist("POST", JOBS, body, 201, **{"Idempotency-Key": errand.key}).json
        self.accepted.add(job["uuid"])
        if errand.then is None:
            self._ask_after(errand, job["id"], job["uuid"])
        elif errand.then[1] == "stop":
            time.sleep(errand.then[0])
            self._insist("POST", f"{JOBS}/{job['id']}/stop", None, 200)
            self._ask_after(errand, job["id"], job["uuid"])
        elif errand.then[1] == "delete":
            time.sleep(errand.then[0])
            self._insist("DELETE", f"{JOBS}/{job['id']}", None, 204, 404)
            self._look_at_processes(errand, job["uuid"], PATIENCE)  # it is answered before it is done
        else:
            self._ask_after(errand, job["id"], job["uuid"])
            path = f"{JOBS}/{job['id']}/{errand.then[1]}"
            key = {"Idempotency-Key": f"{errand.key}-again"}
            clone = self._insist("POST", path, {}, 201, **key).json
            self.accepted.add(clone["uuid"])
            self._ask_after(dataclasses.replace(errand, runs=2), clone["id"], clone["uuid"])

    def _ask_after(self, errand: Errand, number: int, identity: str) -> None:
        began = time.monotonic()
        while not (job := self._insist("GET", f"{JOBS}/{number}?wait=5", None, 200).json)["finished_at"]:
            last = self._last_killed_at
            if last is not None and time.monotonic() > max(began, last) + PATIENCE:
                self._lose(errand, f"is still {job['last_status']} {PATIENCE:.0f} s after the last kill")
                return
        if time.monotonic() > began + PATIENCE:
            with self._lock:
                self.late += 1
        self._look_at_processes(errand, identity, GONE_AFTER)
        rows = self._insist("GET", f"{JOBS}/{number}/statuses", None, 200).json["results"]
        statuses = [row["status"] for row in rows]
        found = job["last_status"], (rows[-1]["details"] or {}).get("reason"), job["exit_code"]
        is_stopped = errand.status == "stopped"
        never_began = errand.runs is None and "running" not in statuses
        wanted = errand.status, errand.reason, None if never_began else errand.code
        if found != wanted and not (is_stopped and found[0] == "stopped"):
            self._lose(errand, f"{found} instead of {wanted}: {job['exit']}")
        running = 0 if errand.runs == 0 else 1
        if statuses[-1] != errand.status or statuses.count(errand.status) != 1 or len(set(statuses)) != len(statuses):
            self._lose(errand, f"statuses {statuses}")
        if not (is_stopped or never_began or statuses.count("running") == running):
            self._lose(errand, f"statuses {statuses}")
        log = self._insist("GET", f"{JOBS}/{number}/logs", None, 200).body
        if log != errand.log and not (is_stopped and errand.log.startswith(log)) and not (never_began and not log):
            self._lose(errand, f"log of {len(log)} bytes instead of {len(errand.log)}: {log[:100]!r}")
        if not is_stopped:
            found_files = self._files(number)
            if found_files != {name: _content(what, size) for name, what, size in errand.files}:
                sizes = {name: len(content) for name, content in found_files.items()}
                self._lose(errand, f"outputs {sizes} instead of {errand.files}, or of other content")
        self._count_runs(errand, identity)

    def _files(self, number: int) -> dict[str, bytes]:
        """Path → content, of the archive that a user downloads."""
        held = io.BytesIO(self._insist("GET", f"{JOBS}/{number}/outputs", None, 200).body)
        with tarfile.open(fileobj=held) as archive:
            members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
            return {name: file.read() for name, file in members if file is not None}

    def _count_runs(self, errand: Errand, identity: str) -> None:
        if self._runner == "process":
            path = self._marks / errand.key
            count = path.read_text().count("ran") if path.exists() else 0
            wanted = errand.runs
        elif self._starts is not None:
            count, wanted = self._starts.of_job(identity), errand.runs and 1
        else:
            return  # it refuses a second run by itself
        if count != wanted and not (wanted is None and count <= 1):
            self._lose(errand, f"ran {count} times")

    def _look_at_processes(self, errand: Errand, identity: str, seconds: float) -> None:
        try:
            eventually(lambda: not marked(identity), seconds)
        except AssertionError:
            self._lose(errand, f"has processes left: {marked(identity)}")

    def _insist(self, method: str, path: str, body: Any, *statuses: int, **headers: str) -> Answer:
        """As a client does that does not give up: sent again until the server answers with no fault of its own."""
        deadline = time.monotonic() + PATIENCE
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
                raise AssertionError(f"{method} {path}: {last} for {PATIENCE:.0f} s")
            time.sleep(0.1)

    # What is killed.

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
            self._strike(server_of_keepers(self._server.data_dir))
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
                "keeper server": server_of_keepers(self._server.data_dir),
                "engine and keeper server": engine + server_of_keepers(self._server.data_dir),
            }[victim]
            if not self._strike(pids):
                return
        self.killed[victim] += 1

    def _strike(self, pids: list[int]) -> int:
        struck = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck += 1
        return struck

    # What is left.

    def _look_at_what_is_left(self) -> None:
        folder = self._server.data_dir
        known = {job["uuid"] for page in self._pages() for job in page}
        self._expect_none("files", lambda: self._left_of_accepted(known))
        self._server.interrupt()
        self._server.process = None
        self._expect_none("processes", lambda: processes_of(folder))
        if self._starts is not None:
            self._expect_none("containers", lambda: containers_of(installation_of(folder)))
            remove_marks(installation_of(folder))

    def _expect_none(self, what: str, look: Callable[[], list[str]]) -> None:
        try:
            eventually(lambda: not look(), GONE_AFTER)
        except AssertionError:
            self.losses.append(f"{what} left over: {look()}")

    def _left_of_accepted(self, known: set[str]) -> list[str]:
        """A folder of no accepted job is of a request that was killed, and goes with the engine's sweep."""
        try:
            left = left_in(self._server.data_dir, known)
        except FileNotFoundError:
            return ["a folder that was removed meanwhile"]
        return [name for name in left if not name.startswith("jobs/") or name.split("/")[1] in known | self.accepted]

    def _pages(self) -> Iterator[list[dict[str, Any]]]:
        offset = 0
        while page := self._insist("GET", f"{JOBS}?limit=100&offset={offset}", None, 200).json["results"]:
            yield page
            offset += len(page)

    def _lose(self, errand: Errand, text: str) -> None:
        with self._lock:
            self.losses.append(f"{errand.kind} {errand.key}: {text}")


def _content(what: bytes, size: int) -> bytes:
    return (what * (size // len(what) + 1))[:size]


def kill_at_random(
    folder: Path, runner: str, seconds: float, seed: int, say: Callable[[str], None] = print
) -> list[str]:
    """The losses. The last line said counts jobs, kills, what was late, and losses."""
    run = Run(folder, runner, seconds, seed)
    run.go_through()
    for loss in run.losses:
        say(loss)
    kills = ", ".join(f"{count} {victim}" for victim, count in sorted(run.killed.items()))
    counts = f"{len(run.accepted)} jobs, {run.killed.total()} kills ({kills})"
    say(f"runner {runner}, seed {seed}, {seconds:.0f} s: {counts}, {run.late} late, {len(run.losses)} losses")
    return run.losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="process", choices=sorted(RATES))
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    if arguments.runner == "docker":
        make_images()
    with tempfile.TemporaryDirectory(prefix="polyjob-kills-") as folder:
        sys.exit(1 if kill_at_random(Path(folder), arguments.runner, arguments.seconds, seed) else 0)


if __name__ == "__main__":
    main()
