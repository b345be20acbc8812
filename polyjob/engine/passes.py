"""One pass of the engine: compare the rows with what the back ends say, and take the next step of each job.

A pass reads the claimed rows, the rows with wishes, the builds under way and the head of the queue. It decides first,
then commits all its changes in one transaction, then begins the calls that those changes allow. It keeps nothing that
it could not find out again: after a crash, the first pass is like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polyjob import builds, specs
from polyjob.clock import Clock
from polyjob.crashpoints import crash_point
from polyjob.database import write
from polyjob.engine.building import BuildPart
from polyjob.engine.calls import Calls, Done, run
from polyjob.engine.finishing import LogPosition, fetch_log, finish, outcome
from polyjob.engine.steps import Step
from polyjob.jobs import slots_taken, with_note
from polyjob.models import CLAIMED, DELETED, QUEUED, Build, Job
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.store import Store
from polyjob.tokens import run_token
from polyjob.transitions import change, transition
from runners.base import (
    Exit,
    Exited,
    Missing,
    Reason,
    RemoteRunner,
    Runner,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
)

log = logging.getLogger("polyjob.engine")

FORCE_EVERY = 2.0
"""Seconds between two KILLs of a job that does not end."""
LONGEST_DELAY = 30.0
"""Seconds between two tries of a back end that is away."""
UNREACHABLE_AFTER = 3.0
"""Seconds that a back end is away before its jobs say so."""


@dataclass
class Memory:
    """What a pass remembers of one job; every bit of it can be lost."""

    handle: str | None = None
    """Known before it is committed."""
    state: State | None = None
    finished: bool = False
    """Log, outputs and back end are done with; only the terminal status is missing."""
    position: LogPosition | None = None
    fetched_at: float = 0.0
    forced_at: float | None = None
    delay: float = 0.0
    retry_at: float = 0.0


@dataclass
class Backend:
    """What a pass remembers of one runner."""

    runner: Runner
    woken: bool = True
    """The runner has hinted that something changed since it was last polled."""
    polled_at: float = 0.0
    delay: float = 0.0
    retry_at: float = 0.0
    away_since: float | None = None
    message: str | None = None


class Engine:
    """Passes over one data folder. Owned by one thread; only `Calls` has others."""

    TICK = 1.0

    def __init__(
        self,
        settings: Settings,
        store: Store,
        load_runner: Callable[[str, Callable[[], None]], Runner],
        wake: Callable[[], None],
        calls: Calls,
        clock: Clock,
        installation: str,
        secret: str,
    ) -> None:
        self.settings = settings
        self.store = store
        self.calls = calls
        self.clock = clock
        self.installation = installation
        self.secret = secret
        self.builds = BuildPart(self)
        self._load_runner = load_runner
        self._wake = wake
        self._backends: dict[str, Backend] = {}
        self._memories: dict[int, Memory] = {}

    # The pass.

    def run_pass(self) -> bool:
        """Take the next step of everything; whether anything was done, so that another pass may find more."""
        steps = [step for done in self.calls.take() if (step := self._take(done))]
        jobs = list(Job.select().where(CLAIMED).order_by(Job.id))
        deleted = [job for job in Job.select(Job.id, Job.uuid, Job.status).where(DELETED) if job.status.is_done]
        self._forget_all_but(jobs + deleted)
        self._poll(jobs)
        steps += self.builds.steps()
        steps += [step for job in jobs for step in self._steps(job)]
        steps += self._notes_of_the_unreachable(jobs)
        self._erase(deleted)
        claims = self._has_queue()
        if not steps and not claims:
            return self.calls.any_ended()
        return self._commit(steps, claims) or self.calls.any_ended()

    def _commit(self, steps: list[Step], claims: bool) -> bool:
        names = [step.name for step in steps]
        with write("pass"):
            for step in steps:
                step.apply()
            if claims:
                claimed = self._admit()
                names += ["claim"] * len(claimed)
                for job in claimed:
                    self._prepare(job)
            for name in names:
                crash_point(f"{name}:before")
        for name in names:
            crash_point(f"{name}:after")
        for step in steps:
            if step.after:
                step.after()
        return bool(names)

    def _take(self, done: Done) -> Step | None:
        """The step that the end of a call asks for."""
        kind, number = done.key  # type: ignore[misc]
        if kind == "build":
            return self.builds.ended(number, done)
        if kind == "poll":
            self._polled(self._backends[number], done)
            return None
        if kind == "check":
            self._checked(self._backends[number], done)
            return None
        return self._called(number, done)

    # Admission.

    def _has_queue(self) -> bool:
        return bool(Job.select().where(QUEUED).exists()) and slots_taken() < self.settings.slots

    def _admit(self) -> list[Job]:
        """Claim the head of the queue, as many as there are free slots. Slots are counted from rows, here and now."""
        free = self.settings.slots - slots_taken()
        if free <= 0:
            return []
        head = Job.select().where(QUEUED).order_by(Job.id).limit(free)
        return [job for job in list(head) if transition(job, Status.SCHEDULED)]

    # The steps of one job.

    def _steps(self, job: Job) -> list[Step]:
        memory = self._memory(job.id)
        if job.exit is not None:
            return self._end(job, memory)
        if job.handle is not None or memory.handle is not None:
            return self._watch(job, memory)
        if job.attempt_at is not None:
            return self._attempted(job, memory)
        if job.status is Status.BUILDING and self._still_builds(job):
            return []
        return [Step("prepare", lambda: self._prepare(job))]

    def _still_builds(self, job: Job) -> bool:
        return job.stop_at is None and job.build is not None and not job.build.status.is_done

    def _prepare(self, job: Job) -> None:
        """Bring a claimed job as far as the rows allow: to its build, past it, or to the committed intent to start.

        Inside the transaction. The start itself comes from the next pass, which finds the intent.
        """
        if job.stop_at is not None:
            self._stop_unstarted(job)
            return
        if (job.config.get("build") or job.build_id) and job.status is Status.SCHEDULED:
            self._to_build(job)
        build = job.build
        if job.status is Status.BUILDING and build is not None:
            if not build.status.is_done:
                return
            if build.status is not Status.SUCCEEDED:
                self._end_by_build(job, build)
                return
        elif job.status is Status.BUILDING:
            transition(job, Status.UPSTREAM_FAILED, message="The build was removed", details={"reason": "build"})
            return
        change(job, attempt_at=self.clock.wall())

    def _to_build(self, job: Job) -> None:
        asked = job.build is not None
        build = job.build if asked else builds.resolve(job)
        details = {"build": build.unique_name}
        if build.status.is_done:
            message = f"Using build {build.unique_name}"
        else:
            message = "Building container"
        transition(job, Status.BUILDING, message=message, details=details, build=build)

    def _end_by_build(self, job: Job, build: Build) -> None:
        last = builds.latest_status(build)
        if build.status is Status.STOPPED:
            transition(
                job, Status.STOPPED, message=f"Build {build.unique_name} was stopped", details={"reason": "build"}
            )
            return
        message = f"Build {build.unique_name} failed: {last.message}"
        details = {"reason": str(Reason.BUILD), "build": build.unique_name} | (last.details or {})
        end = Exit(Reason.BUILD, message=message)
        transition(job, Status.UPSTREAM_FAILED, message=message, details=details, exit=end.to_json())

    def _stop_unstarted(self, job: Job) -> None:
        by = job.stop_by.username if job.stop_by else None
        transition(job, Status.STOPPED, message="Job was stopped", details={"reason": "stopped", "by": by})

    def _attempted(self, job: Job, memory: Memory) -> list[Step]:
        """The intent is committed and no handle is known: start it now, or again after a crash, which adopts it."""
        key = ("job", job.id)
        if self.calls.busy(key) or self._resting(memory):
            return []
        backend = self._backend(job.runner)
        runner = backend.runner
        if job.stop_at is not None:
            self.calls.submit("control", key, "inventory", lambda: runner.inventory().get(job.uuid))
            return []
        call = self._start_call(job, runner)
        if not runner.local:
            self.calls.submit("control", key, "start", call)
            return []
        step = self._called(job.id, run(key, "start", call))
        if memory.handle is None:
            return [step] if step else []
        handles = {memory.handle: job.id}
        self._polled(backend, run(("poll", job.runner), "poll", lambda: _states(runner, handles)))
        return self._watch(job, memory)

    def _start_call(self, job: Job, runner: Runner) -> Callable[[], str]:
        artifact = job.build.artifact if job.build else None
        token = run_token(job.uuid, self.secret)
        inputs = self.store.job_inputs(job.uuid)
        has_inputs = inputs.exists()
        spec = specs.job_spec(job, self.store, self.settings, self.installation, token, inputs if has_inputs else None)

        def call() -> str:
            self.store.make_job_folder(job.uuid)
            return runner.start(spec, artifact)

        return call

    def _watch(self, job: Job, memory: Memory) -> list[Step]:
        """The job exists in the back end."""
        steps = []
        handle = job.handle or memory.handle
        assert handle is not None
        if job.handle is None:
            steps.append(Step("handle", lambda: Job.update(handle=handle).where(Job.id == job.id).execute()))
        state = memory.state
        memory.state = None
        if isinstance(state, Running | Exited) and job.status is not Status.RUNNING:
            steps.append(Step("running", lambda: self._record_running(job, state.node)))
        if isinstance(state, Exited):
            return [*steps, Step("exit", lambda: self._record_exit(job, state.exit))]
        if isinstance(state, Missing):
            return [*steps, Step("exit", lambda: self._record_exit(job, Exit(Reason.LOST)))]
        if job.stop_at is not None:
            return steps + self._stop(job, memory, handle)
        if self._is_overdue(job):
            steps.append(Step("timeout", lambda: self._record_timeout(job)))
        elif isinstance(self._backend(job.runner).runner, RemoteRunner):
            self._fetch_log(job, memory, handle)
        return steps

    def _record_running(self, job: Job, node: str | None) -> None:
        moment, mark = self.clock.wall(), self.clock.mark()
        transition(job, Status.RUNNING, node=job.node or node, running_at=moment, running_clock=mark)

    def _record_exit(self, job: Job, end: Exit) -> None:
        """Once; the slot is free from here on."""
        if job.exit is None:
            change(job, exit=end.to_json(), exit_code=end.code)

    def _is_overdue(self, job: Job) -> bool:
        limit = specs.timeout(job.config, self.settings)
        if limit is None or job.running_clock is None:
            return False
        elapsed = self.clock.since(job.running_clock)
        if elapsed is None:
            elapsed = (self.clock.wall() - job.running_at).total_seconds()
        return elapsed >= limit

    def _record_timeout(self, job: Job) -> None:
        if Job.select().where(Job.id == job.id, Job.stop_at.is_null()).exists():
            change(job, stop_at=self.clock.wall(), stop_kind="timeout")

    def _stop(self, job: Job, memory: Memory, handle: str) -> list[Step]:
        """TERM, grace, KILL; `stopped` comes only when the runner says that nothing is left."""
        key = ("job", job.id)
        if self.calls.busy(key) or self._resting(memory):
            return []
        runner = self._backend(job.runner).runner
        elapsed = self.clock.since(job.term_clock) if job.term_clock else None
        if elapsed is None:
            mark = self.clock.mark()
            self.calls.submit("control", key, "stop", lambda: runner.stop(handle, force=False))
            return [Step("term", lambda: Job.update(term_clock=mark).where(Job.id == job.id).execute())]
        if elapsed < specs.grace(job.config, self.settings):
            return []
        now = self.clock.seconds()
        if memory.forced_at is None or now - memory.forced_at >= FORCE_EVERY:
            memory.forced_at = now
            self.calls.submit("control", key, "stop", lambda: runner.stop(handle, force=True))
        return []

    def _fetch_log(self, job: Job, memory: Memory, handle: str) -> None:
        key = ("job", job.id)
        if self.calls.busy(key) or self._resting(memory) or self.clock.seconds() - memory.fetched_at < self.TICK:
            return
        runner = self._backend(job.runner).runner
        assert isinstance(runner, RemoteRunner)
        memory.fetched_at = self.clock.seconds()
        position = memory.position or LogPosition.from_json(job.log_cursor)
        path, limit = self.store.job_log(job.uuid), self.settings.log_limit
        self.calls.submit("files", key, "logs", lambda: fetch_log(runner, handle, path, position, limit))

    def _end(self, job: Job, memory: Memory) -> list[Step]:
        """The exit is recorded: bring everything in, clear the back end, and only then say so."""
        if memory.finished:
            status, message, details = outcome(job)
            return [Step("terminal", lambda: transition(job, status, message=message, details=details))]
        key = ("job", job.id)
        if self.calls.busy(key) or self._resting(memory):
            return []
        backend = self._backend(job.runner)
        handle = job.handle or memory.handle
        position = memory.position or LogPosition.from_json(job.log_cursor)

        def call() -> LogPosition:
            settings = self.settings
            return finish(backend.runner, job, handle, self.store, position, settings.log_limit, settings.outputs_limit)

        self.calls.submit("files", key, "finish", call)
        return []

    def _called(self, number: int, done: Done) -> Step | None:
        """A call for one job has ended."""
        memory = self._memory(number)
        if done.error is not None:
            return self._call_failed(number, memory, done)
        memory.delay = 0.0
        if done.verb == "start":
            memory.handle = done.value
            self._ask_again()
        elif done.verb == "inventory":
            return self._looked_up(number, memory, done.value)
        elif done.verb == "logs":
            if done.value != memory.position:
                memory.position = done.value
                memory.fetched_at = 0.0
                cursor = done.value.to_json()
                return Step("log", lambda: Job.update(log_cursor=cursor).where(Job.id == number).execute())
        elif done.verb == "stop":
            self._ask_again()
        elif done.verb == "finish":
            memory.finished = True
        elif done.verb == "erase":
            return Step("erase", lambda: Job.delete().where(Job.id == number).execute())
        return None

    def _looked_up(self, number: int, memory: Memory, handle: str | None) -> Step | None:
        """A stop was asked for while nobody knew whether the start had got through."""
        if handle is not None:
            memory.handle = handle
            return None

        def apply() -> None:
            job = Job.get_or_none(Job.id == number)
            if job is not None and job.handle is None and job.exit is None:
                self._stop_unstarted(job)

        return Step("unstarted", apply)

    def _call_failed(self, number: int, memory: Memory, done: Done) -> Step | None:
        error = done.error
        if isinstance(error, StartFailed):
            end = Exit(error.reason, message=str(error))

            def apply() -> None:
                job = Job.get_or_none(Job.id == number)
                if job is not None:
                    self._record_exit(job, end)

            return Step("exit", apply)
        memory.delay = min(LONGEST_DELAY, max(1.0, memory.delay * 2))
        memory.retry_at = self.clock.seconds() + memory.delay
        if not isinstance(error, RunnerUnavailable):
            log.error("%s of job %s failed; it is tried again", done.verb, number, exc_info=error)
        text = f"{done.verb} is tried again: {error}"
        return Step("note", lambda: self._note(number, "retry", text))

    def _note(self, number: int, kind: str, text: str | None) -> None:
        job = Job.get_or_none(Job.id == number)
        if job is None or job.status.is_done:
            return
        notes = with_note(job.notes, kind, text)
        if notes != job.notes:
            change(job, notes=notes)

    # What back ends say.

    def _poll(self, jobs: list[Job]) -> None:
        by_runner: dict[str, dict[str, int]] = {}
        for job in jobs:
            handle = job.handle or self._memory(job.id).handle
            if handle is not None and job.exit is None:
                by_runner.setdefault(job.runner, {})[handle] = job.id
        for name, handles in by_runner.items():
            backend = self._backend(name)
            key = ("poll", name)
            if self.calls.busy(key) or self.clock.seconds() < backend.retry_at:
                continue
            runner = backend.runner
            if not backend.woken and self.clock.seconds() - backend.polled_at < self.TICK:
                continue
            backend.woken = False
            backend.polled_at = self.clock.seconds()
            if runner.local:
                self._polled(backend, run(key, "poll", lambda r=runner, h=handles: _states(r, h)))  # type: ignore[misc]
            else:
                self.calls.submit("control", key, "poll", lambda r=runner, h=handles: _states(r, h))  # type: ignore[misc]

    def _polled(self, backend: Backend, done: Done) -> None:
        now = self.clock.seconds()
        if done.error is None:
            for number, state in done.value.items():
                self._memory(number).state = state
            backend.delay, backend.retry_at, backend.away_since, backend.message = 0.0, 0.0, None, None
            return
        if not isinstance(done.error, RunnerUnavailable):
            log.error("poll failed; it is tried again", exc_info=done.error)
        backend.delay = min(LONGEST_DELAY, max(self.TICK, backend.delay * 2))
        backend.retry_at = now + backend.delay
        backend.away_since = now if backend.away_since is None else backend.away_since
        backend.message = str(done.error)

    def _ask_again(self) -> None:
        for backend in self._backends.values():
            backend.woken = True

    def _notes_of_the_unreachable(self, jobs: list[Job]) -> list[Step]:
        """Jobs of a back end that is away say so, and say it no more when it is back."""
        steps = []
        for job in jobs:
            backend = self._backends.get(job.runner)
            if backend is None:
                continue
            away = backend.away_since is not None and self.clock.seconds() - backend.away_since >= UNREACHABLE_AFTER
            text = f"The {job.runner} runner cannot be reached: {backend.message}" if away else None
            had = next((note["text"] for note in job.notes or [] if note["kind"] == "unreachable"), None)
            if text != had and (away or backend.away_since is None):
                steps.append(Step("note", lambda n=job.id, t=text: self._note(n, "unreachable", t)))  # type: ignore[misc]
        return steps

    def check_runners(self) -> None:
        """Ask the runner of new jobs and every runner in use whether it can be reached; `report` tells the answer."""
        for name in {self.settings.runner, *self._backends}:
            backend = self._backend(name)
            if not self.calls.busy(("check", name)):
                self.calls.submit("control", ("check", name), "check", backend.runner.check)

    def _checked(self, backend: Backend, done: Done) -> None:
        backend.message = None if done.error is None else str(done.error)

    def report(self) -> dict[str, Any]:
        """The runner of new jobs, as `/readyz` tells it."""
        backend = self._backend(self.settings.runner)
        return {"name": self.settings.runner, "ok": backend.message is None, "message": backend.message}

    # Erasing.

    def _erase(self, deleted: list[Job]) -> None:
        """Remove what was written by jobs that are deleted and done; the row goes last."""
        for job in deleted:
            key = ("job", job.id)
            if not self.calls.busy(key) and not self._resting(self._memory(job.id)):
                self.calls.submit("files", key, "erase", lambda uuid=job.uuid: self.store.remove_job(uuid))

    # Small change.

    def close(self) -> None:
        """Begin nothing more, end builds under way, and let go of the back ends; jobs go on."""
        self.builds.cancel_all()
        self.calls.close()
        for backend in self._backends.values():
            backend.runner.close()

    def next_deadline(self) -> float:
        """Seconds that the loop may sleep if no hint comes."""
        return self.TICK

    def backend(self, name: str) -> Runner:
        return self._backend(name).runner

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = Backend(self._load_runner(name, lambda: self._woken(name)))
        return self._backends[name]

    def _woken(self, name: str) -> None:
        """Called by a runner, from any thread."""
        if name in self._backends:
            self._backends[name].woken = True
        self._wake()

    def _memory(self, number: int) -> Memory:
        return self._memories.setdefault(number, Memory())

    def _resting(self, memory: Memory) -> bool:
        return self.clock.seconds() < memory.retry_at

    def _forget_all_but(self, jobs: list[Job]) -> None:
        live = {job.id for job in jobs}
        for number in [
            number for number in self._memories if number not in live and not self.calls.busy(("job", number))
        ]:
            del self._memories[number]


def _states(runner: Runner, handles: dict[str, int]) -> dict[int, State]:
    return {handles[handle]: state for handle, state in runner.poll(list(handles)).items()}
