"""The plan of a soak test: the jobs and schedules to send and the parts to kill, all decided by a seed."""

from __future__ import annotations

import dataclasses
import json
import random
import uuid
from pathlib import Path
from typing import Any

from polyjob.services.dependencies import Condition
from polyjob.statuses import Status

IMAGE = "polyjob-test:latest"
JOBS_PER_SECOND = {"fake": 6.0, "process": 3.0, "docker": 1.0}
"""Jobs sent per second, without retries and without the jobs that wait for them."""
MEAN_PAUSE_SECONDS = {"fake": 3.0, "process": 3.0, "docker": 5.0}
"""Seconds between two kills, on average."""
MAX_CRON_SCHEDULES = {"fake": 40, "process": 40, "docker": 10}
"""Schedules that fire every minute. A short run has fewer."""
FOLLOWED_PART = 0.3
"""The part of the jobs for which other jobs wait."""
KEPT = (("file", b"kept", 4),)
"""The outputs of some jobs; see `PlannedJob.files`."""
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
    fires_after: float | None = None
    """Seconds after which a schedule submits it; None if a request does."""
    retries: tuple[PlannedJob, ...] = ()
    """The expected result of each later attempt."""
    followers: tuple[tuple[str, PlannedJob], ...] = ()
    """Jobs that wait for the end of this one: condition, and their expected result."""
    reads_outputs: bool = False
    """Whether it reads the outputs of the job that it waits for."""

    @property
    def end(self) -> str:
        """The final status of the last attempt."""
        return self.retries[-1].status if self.retries else self.status or Status.STOPPED


class SoakPlan:
    """The jobs and kills of a seed."""

    def __init__(self, runner: str, seconds: float, seed: int, marks: Path) -> None:
        self.runner, self._marks = runner, marks
        self._random = random.Random(f"{runner} {seed}")
        kinds = [self.fast, self.failing, self.slow, self.stubborn, self.sleeping, self.deleted, self.cloned]
        kinds += [self.retried, self.scheduled]
        if runner != "fake":
            kinds += [self.loud, self.forking, self.killed, self.heavy]
        if runner != "process":
            kinds += [self.built, self.unbuilt]
        self.planned_jobs: list[PlannedJob] = []
        at = 0.0
        while at < seconds:
            planned = self._make(self._random.choice(kinds), at)
            self.planned_jobs.append(planned if planned.fires_after else self._followed(planned))
            at += self._random.expovariate(JOBS_PER_SECOND[runner])
        self.cron_jobs = [
            self._make(self.fast, 0.0) for _ in range(min(MAX_CRON_SCHEDULES[runner], 1 + int(seconds) // 3))
        ]
        """Jobs that a schedule submits every minute."""
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
        return self._planned_job(cmd, log=log, files=KEPT, seconds=count * 0.2, **fields)

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
        return self._planned_job(cmd, log=b"again\n", files=KEPT, then=then, **fields)

    def built(self, **fields: Any) -> PlannedJob:
        step = f"echo {self._random.randint(1, 6)} > /made"
        return self._planned_job("echo built", log=b"built\n", steps=[step], **fields)

    def unbuilt(self, **fields: Any) -> PlannedJob:
        return self._planned_job(
            "echo never", status="failed", reason="build", code=None, steps=["exit 3"], runs=0, **fields
        )

    def scheduled(self, **fields: Any) -> PlannedJob:
        """A schedule that fires once."""
        return self.fast(fires_after=self._random.uniform(2, 6), **fields)

    def reading(self, **fields: Any) -> PlannedJob:
        """A job that reads the outputs of another one. It finds them in a folder of its own, not among its outputs."""
        cmd = "cat $POLYJOB_INPUTS_PATH/*/file; echo read"
        log = b"keptread\n" if self.runner != "fake" else b"read\n"
        return self._planned_job(cmd, log=log, reads_outputs=True, **fields)

    def retried(self, **fields: Any) -> PlannedJob:
        """A job that fails several times. Each attempt begins with the outputs of the one before, and adds a file."""
        times = self._random.randint(1, 3)
        ends_well = self.runner != "fake" and self._random.random() < 0.5
        delay = self._random.choice([0, self._random.uniform(0.1, 2)])
        rule = {"on": [{"exit": 3}], "times": times, "delay": delay, "factor": 1.5, "resume": True}
        needed = times if ends_well else times + 1
        cmd = f"n=$(ls {OUTPUTS} | wc -l); : > {OUTPUTS}/$n; echo retried; [ $n -ge {needed} ] || exit 3"

        def attempt(number: int) -> PlannedJob:
            succeeds = number == needed
            files = tuple((f"{name}", b"", 0) for name in range(number + 1)) if self.runner != "fake" else ()
            end = {"status": "succeeded", "code": 0} if succeeds else {"status": "failed", "code": 3}
            limits = {"grace": 1, "retry": [rule]}
            return self._planned_job(cmd, log=b"retried\n", files=files, limits=limits, **end, **fields)

        first, *later = map(attempt, range(times + 1))
        return dataclasses.replace(first, retries=tuple(later))

    def _make(self, kind: Any, at: float) -> PlannedJob:
        planned: PlannedJob = kind(at=at, kind=kind.__name__, key=str(uuid.UUID(int=self._random.getrandbits(128))))
        return planned

    def _followed(self, planned: PlannedJob) -> PlannedJob:
        """Return the job, perhaps with jobs that wait for it, and for each other."""
        followers = []
        while self._random.random() < FOLLOWED_PART:
            condition = self._random.choice(list(Condition))
            make = self.reading if planned.files == KEPT and self._random.random() < 0.5 else self.fast
            follower = dataclasses.replace(self._make(make, planned.at), kind=f"after {planned.kind}")
            if not condition.is_met_by(Status(planned.end)):
                status = Status.UPSTREAM_FAILED if planned.end in ("failed", "upstream_failed") else Status.SKIPPED
                end = {"status": str(status), "reason": "dependency", "code": None, "log": b"", "runs": 0}
                follower = dataclasses.replace(follower, **end)
            followers.append((str(condition), self._followed(follower)))
        return dataclasses.replace(planned, followers=tuple(followers))

    def _planned_job(
        self,
        cmd: str,
        *,
        seconds: float = 0.0,
        limits: dict[str, Any] | None = None,
        steps: list[str] | None = None,
        **fields: Any,
    ) -> PlannedJob:
        config: dict[str, Any] = {"version": 1, "kind": "job", "run": {"cmd": cmd}}
        config["termination"] = limits or {"grace": 1}
        if self.runner == "process":
            config["run"]["cmd"] = f"echo $POLYJOB_UUID >> {self._marks}/{fields['key']}; {cmd}"
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
            pairs["FAKE_OUTPUTS"] = json.dumps({name: content(what, size).decode() for name, what, size in files})
        return sorted(map(list, pairs.items()))


def content(what: bytes, size: int) -> bytes:
    """Return the content of an output."""
    return (what * (size // len(what) + 1))[:size] if size else b""
