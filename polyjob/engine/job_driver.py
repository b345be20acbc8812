"""The engine's part that takes a job from the committed intent to its terminal status: start, watch, stop, end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from polyjob.auth.tokens import job_token
from polyjob.db.database import database
from polyjob.db.models import Job, Project, User
from polyjob.db.prepared import Prepared, update
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Done, run
from polyjob.engine.context import Context
from polyjob.engine.finalize import (
    PIECE,
    LogPosition,
    NotFetched,
    fetch_log,
    finish,
    outcome,
    stragglers_note,
)
from polyjob.engine.finalize_lanes import Endings
from polyjob.engine.prepare import (
    asked_for_its_build,
    end_unstarted,
    make_build_anew,
    prepare,
    refuse_start,
    waits_for_build,
)
from polyjob.engine.retries import FETCH_PATIENCE, START_PATIENCE, TICK, Retry, is_refusal, words
from polyjob.engine.writes import Step
from polyjob.services import specs
from polyjob.services.jobs import BY_ID
from polyjob.services.notes import BACKEND_NOTE, MISSING_OUTPUTS_NOTE, PACKING_NOTE, note_text, with_note
from polyjob.services.transitions import transition, update_columns
from polyjob.statuses import Status
from runners.base import (
    ArtifactMissing,
    Exit,
    Exited,
    Missing,
    Pending,
    Reason,
    RemoteRunner,
    Runner,
    Running,
    StartFailed,
    State,
    Unknown,
)

log = logging.getLogger("polyjob.engine")

FIRST_FETCH = 0.2
"""Seconds from a job's start to the first look at its log; many have ended by then."""
FETCH_SHARE = 4
"""A log is fetched again after so many times what the last fetch took."""
REST_GROWS = 1.5
FORCE_EVERY = 2.0
"""Seconds between two KILLs of a job that does not end."""
SLOW_END = 120.0
"""Seconds after which an end that is still being brought in is reported."""
MAX_REBUILDS = 3
"""Builds made again for one job because its start found the artifact missing or stale."""
RETRIED = {
    "start": "Its start",
    "prevent_start": "Its stop",
    "stop": "Its stop",
    "logs": "The fetch of its log",
    "finish": "The fetch of its log and outputs",
}
"""Verb → what is tried again, in words for people."""
FETCHED = {"log": "log", "outputs": MISSING_OUTPUTS_NOTE}
"""`log` or `outputs` → the kind of the note that it could not be fetched."""

_PROJECT = Prepared(lambda: Project.select().where(Project.id == 0))
_USER = Prepared(lambda: User.select().where(User.id == 0))


@dataclass
class Memory:
    """What is remembered of one job; every bit of it can be lost."""

    handle: str | None = None
    """Known before it is committed."""
    state: State | None = None
    """What the runner said last, and no step was made of yet."""
    unknown: str | None = None
    """Why the runner can tell nothing of it, as it said last; None where it can."""
    finished: bool = False
    """Log, outputs and back end are done with; only the terminal status is missing."""
    not_kept: list[str] = field(default_factory=list)
    """What of the outputs could not be kept."""
    missing: dict[str, str] = field(default_factory=dict)
    """`log` or `outputs` → why it could not be fetched."""
    position: LogPosition | None = None
    """How far the log is in our file."""
    committed: LogPosition | None = None
    fetched_at: float = 0.0
    fetch_took: float = 0.0
    """Seconds: a back end may have to read all of a long log for its end."""
    fetch_rest: float = 0.0
    """Seconds to the next look at a log in which nothing new came; more each time."""
    forced_at: float | None = None
    retry: Retry = field(default_factory=Retry)
    rebuilds: int = 0
    ignored: str | None = None
    """What the runner said as the job began: what it left out, say."""
    finish_since: float | None = None
    """Since when its end is brought in."""
    is_broken: bool = False
    is_stopping: bool = False
    """A stop that is asked for was seen."""
    is_ending: bool = False
    """The recorded exit was seen."""


class JobDriver:
    """See the module."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self.context = context
        self.backends = backends
        self._memories: dict[int, Memory] = {}
        self._endings = Endings(context.calls, context.clock)

    # What the pass asks.

    def hear(self, jobs: list[Job]) -> None:
        """Poll the back ends of these jobs and remember what they say."""
        by_runner: dict[str, dict[str, int]] = {}
        for job in jobs:
            handle = job.handle or self._memory(job.id).handle
            if handle is not None and job.exit is None:
                by_runner.setdefault(job.runner, {})[handle] = job.id
        for name, numbers in by_runner.items():
            for handle, state in self.backends.poll(name, list(numbers)).items():
                if handle in numbers:
                    memory = self._memory(numbers[handle])
                    memory.unknown = state.reason if isinstance(state, Unknown) else None
                    memory.state = None if isinstance(state, Unknown) else state

    def steps_or_rest(self, job: Job) -> list[Step]:
        """As `steps`; but a job with which something is wrong rests for a while, and holds up no other."""
        memory = self._memory(job.id)
        self._hurry(job, memory)
        if memory.is_broken and self.context.clock.seconds() < memory.retry.retry_at:
            return []
        try:
            steps = self.steps(job)
        except Exception as error:
            return self._break(job, error)
        if memory.is_broken:
            memory.is_broken = False
            memory.retry.succeed()
        return steps

    @staticmethod
    def _hurry(job: Job, memory: Memory) -> None:
        """Let no failure from before delay a stop or an end."""
        if (job.stop_at is not None and not memory.is_stopping) or (job.exit is not None and not memory.is_ending):
            memory.is_stopping, memory.is_ending = job.stop_at is not None, job.exit is not None
            memory.retry.rest_no_more()

    def _break(self, job: Job, error: Exception) -> list[Step]:
        """Have a job with which something is wrong rest; one that never started ends after a while."""
        memory = self._memory(job.id)
        memory.is_broken = True
        memory.retry.log_defect(error, "job %s cannot be gone on with; it is tried again", job.id)
        has_started = job.handle is not None or memory.handle is not None or job.exit is not None
        patience = float("inf") if has_started or job.stop_at is not None else START_PATIENCE
        if memory.retry.fail("start", error, self.context.clock.seconds(), patience):
            return [self._refuse_start(job.id, repr(error))]
        memory.retry.reason = f"The engine could not go on with it, and tries again: {error!r}"
        return self._note_retry(job, memory)

    def steps(self, job: Job) -> list[Step]:
        """The next steps of a claimed job; calls that need no commit before them are begun here."""
        memory = self._memory(job.id)
        steps = self._note_unreachable(job) + ([] if memory.is_broken else self._note_retry(job, memory))
        if job.exit is not None:
            return steps + self._end(job, memory)
        if job.handle is not None or memory.handle is not None:
            return steps + self._watch(job, memory)
        if job.attempt_at is not None:
            return steps + self._start(job, memory)
        if waits_for_build(job):
            return steps
        return [*steps, Step("prepare", lambda: _on_row(job.id, self.prepare))]

    def prepare(self, job: Job) -> None:
        """As `preparing.prepare`; but a job with which something is wrong rests, and spoils no other's transaction."""
        try:
            with database.savepoint():
                prepare(job, self.context.clock, self.context.settings.python)
        except Exception as error:
            for step in self._break(job, error):
                step.apply()

    def forget_all_but(self, jobs: list[Job]) -> None:
        kept = {job.id for job in jobs}
        for number in [number for number in self._memories if number not in kept]:
            if not self.context.calls.busy(("job", number)):
                del self._memories[number]
                self._endings.forget(number)

    # Start.

    def _start(self, job: Job, memory: Memory) -> list[Step]:
        """The intent is committed and no handle is known: start it now, or again after a crash, which adopts it."""
        if job.stop_at is None and self._is_overdue(job):
            return [Step("timeout", lambda: self._record_timeout(job))]
        if self._is_busy(job, memory):
            return []
        key, calls, runner = ("job", job.id), self.context.calls, self.backends.runner(job.runner)
        if job.stop_at is not None:
            calls.submit("control", key, "prevent_start", lambda: withdraw(runner, job.uuid))
            return []
        call = self._start_call(job, runner)
        if not runner.is_local:
            calls.submit("control", key, "start", call)
            return []
        step = self.ended(job.id, run(key, "start", call))
        if memory.handle is None:
            return [step] if step else self._note_retry(job, memory)
        self.hear([job])
        return self._watch(job, memory)

    def _start_call(self, job: Job, runner: Runner) -> Callable[[], str]:
        context = self.context
        _load_names(job)
        inputs = context.store.job_inputs(job.uuid)
        spec = specs.job_spec(
            job,
            context.store,
            context.settings,
            context.installation,
            job_token(job.uuid, context.secret),
            inputs if inputs.exists() else None,
            is_pinned=job.build_id is not None and not runner.is_local and asked_for_its_build(job),
        )
        artifact = job.build.artifact if job.build else None

        def call() -> str:
            context.store.make_job_folder(job.uuid)
            return runner.start(spec, artifact)

        return call

    # Watch and stop.

    def _watch(self, job: Job, memory: Memory) -> list[Step]:
        """The job exists in the back end."""
        handle = job.handle or memory.handle
        assert handle is not None
        runner = self.backends.runner(job.runner)
        steps = self._keep_position(job, memory)
        state, memory.state = memory.state, None
        steps += self._note_said(job, state)
        node = state.node if isinstance(state, Running | Exited) else None
        if isinstance(state, Running) and job.status is not Status.RUNNING:
            memory.fetched_at, memory.fetch_rest = self.context.clock.seconds() - TICK + FIRST_FETCH, 0.0
        has_begun = isinstance(state, Running) or (isinstance(state, Exited) and state.exit.has_begun)
        if has_begun and job.status is not Status.RUNNING:
            memory.ignored = state.note if isinstance(state, Running) else None
            steps.append(Step("running", lambda: self._record_running(job, node)))
        if job.handle is None and not (runner.is_local and isinstance(state, Pending | None)):
            # A local job says what it does in a moment, and both are committed together.
            steps.insert(0, Step("handle", lambda: update(Job, job.id, {"handle": handle})))
        if isinstance(state, Exited):
            return [*steps, Step("exit", lambda: self._record_exit(job, state.exit))]
        if isinstance(state, Missing):
            return [*steps, Step("exit", lambda: self._record_exit(job, Exit(Reason.LOST)))]
        if job.stop_at is not None:
            return steps + self._stop(job, memory, handle)
        if self._is_overdue(job):
            return [*steps, Step("timeout", lambda: self._record_timeout(job))]
        self._fetch_log(job, memory, handle)
        return steps

    def _record_running(self, job: Job, node: str | None) -> None:
        transition(job, Status.RUNNING, message=self._memory(job.id).ignored, node=job.node or node)

    def _record_exit(self, job: Job, end: Exit) -> None:
        """Once; the slot is free from here on, and a stop comes too late. What was given up meanwhile stays so."""
        row = BY_ID.first(job.id)
        if row is not None and row.exit is None:
            update_columns(row, exit=end.to_json(), exit_code=end.code)

    def _is_overdue(self, job: Job) -> bool:
        """Whether the time limit is over, counted from the first attempt: it ends a job that only retries its start."""
        limit = specs.time_limit(job.config, self.context.settings)
        if limit is None or job.attempt_clock is None:
            return False
        elapsed = self.context.clock.since(job.attempt_clock)
        if elapsed is None:  # booted in between: only the wall clock knows
            elapsed = (self.context.clock.wall() - job.attempt_at).total_seconds()
        return elapsed >= limit

    def _record_timeout(self, job: Job) -> None:
        if Job.select().where(Job.id == job.id, Job.stop_at.is_null()).exists():
            update_columns(job, stop_at=self.context.clock.wall(), stop_kind="timeout")

    def _stop(self, job: Job, memory: Memory, handle: str) -> list[Step]:
        """TERM, grace, KILL; `stopped` comes only when the runner says that nothing is left."""
        if self._is_busy(job, memory):
            return []
        key, calls, clock = ("job", job.id), self.context.calls, self.context.clock
        runner = self.backends.runner(job.runner)
        elapsed = clock.since(job.term_clock) if job.term_clock else None
        if elapsed is None:
            mark = clock.mark()
            calls.submit("control", key, "stop", lambda: runner.stop(handle, force=False))
            return [Step("term", lambda: update(Job, job.id, {"term_clock": mark}))]
        if elapsed >= specs.grace_period(job.config, self.context.settings) and (
            memory.forced_at is None or clock.seconds() - memory.forced_at >= FORCE_EVERY
        ):
            memory.forced_at = clock.seconds()
            calls.submit("control", key, "stop", lambda: runner.stop(handle, force=True))
        return []

    def _fetch_log(self, job: Job, memory: Memory, handle: str) -> None:
        runner, clock = self.backends.runner(job.runner), self.context.clock
        if not isinstance(runner, RemoteRunner):
            return
        rest = min(memory.fetch_rest, runner.max_log_pause)
        due = memory.fetched_at + max(TICK, FETCH_SHARE * memory.fetch_took, rest)
        if self._is_busy(job, memory) or clock.seconds() < due:
            return
        memory.fetched_at = clock.seconds()
        position = self._position(job, memory)
        path, limit = self.context.store.job_log(job.uuid), self.context.settings.log_limit
        call = lambda: fetch_log(runner, handle, path, position, limit)  # noqa: E731
        self.context.calls.submit("files", ("job", job.id), "logs", call)

    # The end.

    def _end(self, job: Job, memory: Memory) -> list[Step]:
        """The exit is recorded: bring everything in, clear the back end, and only then say so."""
        if memory.finished:
            return [Step("terminal", lambda: self._record_end(job, memory))]
        steps = self._keep_position(job, memory) + self._note_packing(job)
        if memory.finish_since is None:
            memory.finish_since = self.context.clock.seconds()
        if self._is_busy(job, memory):
            return steps
        runner, context = self.backends.runner(job.runner), self.context
        position, limits = self._position(job, memory), (context.settings.log_limit, context.settings.outputs_limit)
        skipped = _unfetched(job) if job.deleted_at is None else ("log", "outputs")
        about = (runner, job.uuid, str(job.id), job.handle, context.store, position, *limits, skipped)
        self._endings.go_on(job, lambda deadline: finish(*about, deadline))
        return steps

    def slow_ends(self) -> list[int]:
        """Return the ids of jobs whose log and outputs have been brought in for minutes; for `/readyz`."""
        earliest = self.context.clock.seconds() - SLOW_END
        found = self._memories.items()
        return [number for number, memory in found if memory.finish_since and memory.finish_since < earliest]

    def _note_packing(self, job: Job) -> list[Step]:
        text = self._endings.note(job)
        if text == note_text(job.notes, PACKING_NOTE):
            return []
        return [Step("note", lambda: _note(job.id, PACKING_NOTE, text))]

    def _keep_position(self, job: Job, memory: Memory) -> list[Step]:
        """Commit how far the log is, where that has changed."""
        position = memory.position
        if position is None or position == memory.committed:
            return []
        memory.committed = position
        cursor = position.to_json()
        return [Step("log", lambda: update(Job, job.id, {"log_cursor": cursor}))]

    def _record_end(self, job: Job, memory: Memory) -> None:
        status, message, details = outcome(job)
        _note(job.id, "outputs", "; ".join(memory.not_kept) or None)
        _note(job.id, "stragglers", stragglers_note(job))
        if Exit.from_json(job.exit).has_begun:
            _note_missing(job.id, memory.missing)
        else:  # a command that never ran has left nothing
            for kind in FETCHED.values():
                _note(job.id, kind, None)
        if status is Status.SUCCEEDED and job.status is not Status.RUNNING:
            transition(job, Status.RUNNING)
        transition(job, status, message=message, details=details)

    # What calls come to.

    def ended(self, number: int, done: Done) -> Step | None:
        """The step that the end of a call asks for."""
        memory = self._memory(number)
        if done.verb == "finish":
            self._endings.came_to(number, done.value)
        if done.error is not None:
            return self._call_failed(number, memory, done)
        if done.verb == "finish" and done.value.can_continue:
            memory.retry.reason = None  # what failed before may fail again: its pauses and its patience go on
        else:
            memory.retry.succeed()
        if done.verb == "finish":
            memory.position = done.value.position
            memory.finished, memory.not_kept = done.value.is_whole, done.value.not_kept
            log = {what: why for what, why in memory.missing.items() if what == "log"}
            memory.missing = log | done.value.missing  # once the outputs are sealed, the log is not fetched again
        elif done.verb == "logs":
            self._fetched(memory, done)
        elif done.verb == "prevent_start" and done.value is None:
            return Step("unstarted", lambda: _on_row(number, end_unstarted))
        else:
            memory.handle = done.value or memory.handle
            self.backends.look_again()
        return None

    def _fetched(self, memory: Memory, done: Done) -> None:
        assert memory.position is not None
        memory.fetch_took = self.context.clock.seconds() - memory.fetched_at
        is_quiet = done.value.length == memory.position.length
        memory.fetch_rest = memory.fetch_rest * REST_GROWS + TICK if is_quiet else 0.0
        if done.value.length - memory.position.length >= PIECE:
            memory.fetched_at = memory.fetch_took = 0.0  # there is more
        memory.position = done.value

    def _call_failed(self, number: int, memory: Memory, done: Done) -> Step | None:
        error, now = done.error, self.context.clock.seconds()
        assert error is not None
        if isinstance(error, ArtifactMissing):
            return self._rebuild(number, memory, str(error))
        if isinstance(error, StartFailed):
            end = Exit(error.reason, message=str(error))
            return Step("exit", lambda: _on_row(number, lambda job: self._record_exit(job, end)))
        memory.retry.log_defect(error, "%s of job %s failed; it is tried again", done.verb, number)
        if isinstance(error, NotFetched):
            if memory.retry.fail(error.what, error.cause, now, FETCH_PATIENCE):
                memory.retry.rest_no_more()
                what, why = error.what, str(error)
                return Step("note", lambda: _note_missing(number, {what: why}))
        elif memory.retry.fail(done.verb, error, now, START_PATIENCE if done.verb == "start" else float("inf")):
            return self._refuse_start(number, words(error))
        memory.retry.reason = f"{RETRIED[done.verb]} is tried again: {words(error)}"
        if done.verb == "stop" and memory.forced_at is None:
            return Step("term", lambda: update(Job, number, {"term_clock": None}))
        return None

    def _refuse_start(self, number: int, why: str) -> Step:
        return Step("refuse", lambda: _on_row(number, lambda job: refuse_start(job, why, self.context.clock)))

    def _rebuild(self, number: int, memory: Memory, why: str) -> Step:
        memory.rebuilds += 1
        if memory.rebuilds > MAX_REBUILDS:
            return self._refuse_start(
                number, f"Its build was made again {MAX_REBUILDS} times, and is not usable: {why}."
            )
        python = self.context.settings.python
        return Step("rebuild", lambda: _on_row(number, lambda job: make_build_anew(job, why, python)))

    def _note_retry(self, job: Job, memory: Memory) -> list[Step]:
        """The job says why a call is tried again, until that call succeeds."""
        reason = memory.retry.reason
        return [] if reason == note_text(job.notes, "retry") else [Step("note", lambda: _note(job.id, "retry", reason))]

    def _note_unreachable(self, job: Job) -> list[Step]:
        """The job says that its back end is away, and says it no more when it is back."""
        text = self.backends.away(job.runner) or self._memory(job.id).unknown
        return (
            []
            if text == note_text(job.notes, "unreachable")
            else [Step("note", lambda: _note(job.id, "unreachable", text))]
        )

    def _note_said(self, job: Job, state: State | None) -> list[Step]:
        """The job shows what its back end says beside its state: what it waits for, say."""
        if not isinstance(state, Pending | Running) or state.note == note_text(job.notes, BACKEND_NOTE):
            return []
        return [Step("note", lambda: _note(job.id, BACKEND_NOTE, state.note))]

    # Small change.

    def _memory(self, number: int) -> Memory:
        return self._memories.setdefault(number, Memory())

    def _position(self, job: Job, memory: Memory) -> LogPosition:
        if memory.position is None:
            memory.position = memory.committed = LogPosition.from_json(job.log_cursor)
        return memory.position

    def _is_busy(self, job: Job, memory: Memory) -> bool:
        """A call for the job is under way, or it rests after one that failed."""
        return (
            self.context.calls.busy(("job", job.id)) is not None or self.context.clock.seconds() < memory.retry.retry_at
        )


def _load_names(job: Job) -> None:
    """Load what a spec needs of other rows, quicker than peewee would one by one."""
    (project,) = _PROJECT(job.project_id)
    (project.user,) = _USER(project.user_id)
    job.project = project


def withdraw(runner: Runner, uuid: str) -> str | None:
    """Return the handle of what a start of this job has made; else None, and see to it that no start makes anything.

    Where the runner refuses to fence, its inventory decides: a back end that answers has no start on its way. Raises
    RunnerUnavailable.
    """
    try:
        return runner.prevent_start(uuid)
    except Exception as error:
        if not is_refusal(error):
            raise
        log.warning("job %s cannot be fenced, and is looked up instead: %s", uuid, words(error))
        return runner.inventory().get(uuid)


def _on_row(number: int, act: Callable[[Job], None]) -> None:
    """`act` on the job as it is now, unless its end is recorded."""
    job = BY_ID.first(number)
    if job is not None and job.exit is None and not job.status.is_done:
        act(job)


def _note_missing(number: int, missing: dict[str, str]) -> None:
    if "log" in missing:
        _note(number, FETCHED["log"], f"The rest of its log could not be fetched: {missing['log']}")
    if "outputs" in missing:
        _note(number, FETCHED["outputs"], f"Its outputs could not be fetched: {missing['outputs']}")


def _unfetched(job: Job) -> tuple[str, ...]:
    """Return what is not fetched again, `log` or `outputs`, because the job says that it could not be."""
    return tuple(what for what, kind in FETCHED.items() if note_text(job.notes, kind))


def _note(number: int, kind: str, text: str | None) -> None:
    job = BY_ID.first(number)
    if job is None or job.status.is_done:
        return
    notes = with_note(job.notes, kind, text)
    if notes != job.notes:
        update_columns(job, notes=notes)
