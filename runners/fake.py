"""A backend that only pretends to run jobs, for tests and for trying polyjob. A job's variables define its behaviour.

It enforces the contract: a call out of order, and a job that would run a second time, raise AssertionError. It keeps
one small file for each job in `<data>/fake`, so its jobs survive the engine as those of other backends do. Its time
comes from `clock`, so a test can move it.

Variables in the environment of a job, all optional:

=====================  ================================================================================
FAKE_PENDING           seconds between start and running (0)
FAKE_SECONDS           seconds of running (0)
FAKE_CODE              exit code (0)
FAKE_REASON            reason of the exit (exited)
FAKE_STRAGGLERS        names of processes that were left at the end
FAKE_LOG               the complete log, written when the job starts to run
FAKE_OUTPUTS           JSON object: path → text of each output file
FAKE_IGNORE_TERM       any text: only KILL ends the job
FAKE_START             `fail` → StartFailed, `unavailable` → RunnerUnavailable after the job was created
FAKE_VANISH            any text: instead of ending, the job disappears without an exit
FAKE_FAULTS            JSON object: method → `refused`, `defect`, `full` or `unavailable`, which each call raises;
                       `made` → the same after `start` has created the job
=====================  ================================================================================

Variables in the environment of a build: FAKE_BUILD_LOG, FAKE_BUILD_FAIL (`STEP:CODE`), FAKE_BUILD_HANG (any text: runs
until it is cancelled), and FAKE_FAULTS with the method `build`.

If the file `<data>/fake/unavailable` exists, every method raises RunnerUnavailable.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from runners.base import (
    BuildFailed,
    BuildSpec,
    Exit,
    Exited,
    HandleNotFound,
    JobSpec,
    Missing,
    Pending,
    Reason,
    RemoteRunner,
    RunnerRefused,
    RunnerSettings,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    inputs_variables,
)
from runners.common.durable import replace_file

TERM, KILL = 15, 9
NODE = "fake-node"


def _raise_fault(verb: str, env: Mapping[str, str]) -> None:
    match json.loads(env.get("FAKE_FAULTS", "{}")).get(verb):
        case "refused":
            raise RunnerRefused(f"the fake backend refuses {verb}")
        case "defect":
            raise ValueError(f"a defect in {verb}")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "unavailable":
            raise RunnerUnavailable(f"the fake backend does not answer to {verb}")


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FakeRunner(RemoteRunner):
    """Pretends to run jobs, as the module docstring describes."""

    _lock = threading.Lock()
    """Shared by all objects, because several objects use one folder, like several engines one after another."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self.clock = _boottime
        self.calls: list[tuple[str, str]] = []
        """Every call so far: (method, job or build uuid)."""
        self.folder = os.path.join(settings.data_dir, "fake")

    # Methods of every runner

    def check(self) -> None:
        self._note("check")
        self.probe()

    def probe(self) -> None:
        if os.path.exists(os.path.join(self.folder, "unavailable")):
            raise RunnerUnavailable("the fake backend is switched off")

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        self._enter("build", spec.uuid)
        _raise_fault("build", spec.env)
        log.write(spec.env.get("FAKE_BUILD_LOG", "").encode())
        for number, step in enumerate(spec.build_steps, 1):
            log.write(f"step {number}: {step}\n".encode())
        while spec.env.get("FAKE_BUILD_HANG") and not cancelled():
            time.sleep(0.01)
        if cancelled():
            raise BuildFailed("the build was cancelled")
        if "FAKE_BUILD_FAIL" in spec.env:
            step_number, code = map(int, spec.env["FAKE_BUILD_FAIL"].split(":"))
            raise BuildFailed(f"step {step_number} ended with exit code {code}", step_number, code)
        return f"fake:{spec.key}"

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        self._enter("start", spec.uuid)
        assert os.path.isdir(spec.folder), "start before the job's folder was created"
        assert all(outputs.path is None or os.path.exists(outputs.path) for outputs in spec.job_outputs)
        _raise_fault("start", spec.env)
        if spec.env.get("FAKE_START") == "fail":
            raise StartFailed("the fake backend refuses this job because of FAKE_START")
        with self._lock:
            job = self._read(spec.uuid)
            if job is None:
                variables = inputs_variables("/fake/inputs", [outputs.name for outputs in spec.job_outputs])
                job = {"env": {**spec.env, **variables}, "artifact": artifact, "started": self.clock(), "stopped": None}
                job |= {"secrets": dict(spec.secrets)} if spec.secrets else {}
                self._write(spec.uuid, job)
                with open(os.path.join(self.folder, f"{spec.uuid}.runs"), "a") as runs:
                    runs.write("ran\n")
                if spec.env.get("FAKE_START") == "unavailable":
                    raise RunnerUnavailable("the answer to start was lost")
            _raise_fault("made", spec.env)
            assert "cleaned" not in job, "start of a job that was cleaned: it would run twice"
        return json.dumps({"v": 1, "uuid": spec.uuid})

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        self._enter("poll")
        return {handle: self._state(self._read(self._uuid(handle))) for handle in handles}

    def stop(self, handle: str, force: bool) -> None:
        self._enter("stop", self._uuid(handle))
        with self._lock:
            job = self._read(self._uuid(handle))
            if job is None or "cleaned" in job or isinstance(self._state(job), Exited | Missing):
                return
            _raise_fault("stop", job["env"])
            if force or not job["env"].get("FAKE_IGNORE_TERM"):
                job["stopped"] = [self.clock(), KILL if force else TERM]
                self._write(self._uuid(handle), job)
        self.wake()

    def clean(self, handle: str) -> None:
        self._enter("clean", self._uuid(handle))
        with self._lock:
            job = self._read(self._uuid(handle))
            if job is not None:
                _raise_fault("clean", job.get("env", {}))
                self._write(self._uuid(handle), {"cleaned": True})

    def prevent_start(self, uuid: str) -> str | None:
        self._enter("prevent_start", uuid)
        with self._lock:
            job = self._read(uuid)
            if job is None:
                self._write(uuid, {"cleaned": True})
            return None if job is None or "cleaned" in job else json.dumps({"v": 1, "uuid": uuid})

    def inventory(self) -> dict[str, str]:
        self._enter("inventory")
        names = [name.removesuffix(".json") for name in os.listdir(self.folder) if name.endswith(".json")]
        jobs = {uuid: self._read(uuid) for uuid in names}
        return {uuid: json.dumps({"v": 1, "uuid": uuid}) for uuid, job in jobs.items() if job and "cleaned" not in job}

    # Methods of a remote runner. A cursor is the number of bytes that were already returned.

    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        self._enter("logs", self._uuid(handle))
        job = self._existing(handle)
        _raise_fault("logs", job["env"])
        if isinstance(self._state(job), Pending):
            return b"", cursor
        start = int(cursor or 0)
        data = job["env"].get("FAKE_LOG", "").encode()[start : start + limit]
        return data, str(start + len(data))

    def secret_values(self, handle: str) -> Sequence[str]:
        self._enter("secret_values", self._uuid(handle))
        return list(self._existing(handle).get("secrets", {}).values())

    def outputs(self, handle: str) -> Iterator[bytes]:
        self._enter("outputs", self._uuid(handle))
        job = self._existing(handle)
        assert isinstance(self._state(job), Exited), "outputs of a job that has not ended"
        _raise_fault("outputs", job["env"])
        files = json.loads(job["env"].get("FAKE_OUTPUTS", "{}"))
        if not files:
            return
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tarball:
            for path, text in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(text.encode())
                tarball.addfile(member, io.BytesIO(text.encode()))
        yield buffer.getvalue()

    # State of the jobs

    def _state(self, job: dict[str, Any] | None) -> State:
        if job is None or "cleaned" in job:
            return Missing()
        env = job["env"]
        running_at = job["started"] + float(env.get("FAKE_PENDING", 0))
        end_at = running_at + float(env.get("FAKE_SECONDS", 0))
        if job["stopped"] and job["stopped"][0] < end_at:
            signal = job["stopped"][1]
            if job["stopped"][0] < running_at:
                end = Exit(Reason.SIGNALLED, begun=False, message="It was stopped before its command began")
                return Exited(end, NODE)
            return Exited(Exit(Reason.SIGNALLED, code=128 + signal, signal=signal), NODE)
        if self.clock() < running_at:
            return Pending("pretending to wait")
        if self.clock() < end_at:
            return Running(NODE)
        if env.get("FAKE_VANISH"):
            return Missing()
        reason, stragglers = Reason(env.get("FAKE_REASON", "exited")), tuple(env.get("FAKE_STRAGGLERS", "").split())
        return Exited(Exit(reason, code=int(env.get("FAKE_CODE", 0)), stragglers=stragglers), NODE)

    def _existing(self, handle: str) -> dict[str, Any]:
        job = self._read(self._uuid(handle))
        if job is None or isinstance(self._state(job), Missing):
            raise HandleNotFound("there is no such job")
        return job

    @staticmethod
    def _uuid(handle: str) -> str:
        value = json.loads(handle)
        assert value["v"] == 1
        return str(value["uuid"])

    def _enter(self, verb: str, uuid: str = "") -> None:
        os.makedirs(self.folder, exist_ok=True)
        self._note(verb, uuid)
        if os.path.exists(os.path.join(self.folder, "unavailable")):
            raise RunnerUnavailable("the fake backend is switched off")

    def _note(self, verb: str, uuid: str = "") -> None:
        self.calls.append((verb, uuid))

    def _read(self, uuid: str) -> dict[str, Any] | None:
        try:
            with open(os.path.join(self.folder, f"{uuid}.json")) as file:
                job: dict[str, Any] = json.load(file)
                return job
        except FileNotFoundError:
            return None

    def _write(self, uuid: str, job: dict[str, Any]) -> None:
        path = os.path.join(self.folder, f"{uuid}.json")
        replace_file(path, json.dumps(job).encode(), sync=False)
