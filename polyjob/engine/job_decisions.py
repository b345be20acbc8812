"""Decide what to do next for one claimed job: from its row and memory to its phase, and from that to a decision.

`phase_of` and `decide` are pure. They change neither the row nor the memory, and begin no call.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass

from polyjob.db.models import Job
from polyjob.engine import job_writes
from polyjob.engine.finalize import LogPosition
from polyjob.engine.job_calls import (
    ClearJob,
    FetchLog,
    FinishJob,
    JobCall,
    JobTools,
    LinkInputs,
    PreventStart,
    StartJob,
    StopJob,
)
from polyjob.engine.job_memory import JobMemory
from polyjob.engine.job_writes import Begin
from polyjob.engine.now import Now
from polyjob.engine.prepare import waits_for_build
from polyjob.engine.writes import NOTHING, Decision, Write
from polyjob.services import specs
from polyjob.services.job_inputs import reads_outputs
from polyjob.services.job_retries import resumes_on_start
from polyjob.settings import Settings
from polyjob.statuses import Status
from runners.base import Exit, Exited, Missing, Pending, Reason, RemoteRunner, Runner, Running, State

KILL_INTERVAL_SECONDS = 2.0
"""Seconds between two KILLs of a job that does not end."""


class Phase(enum.Enum):
    """The phases of a claimed job."""

    PREPARING = enum.auto()
    """Its rows have to be brought to the intent to start it, or to a build."""
    WAITING_FOR_BUILD = enum.auto()
    STARTING = enum.auto()
    """The attempt to start it is committed. It is not known whether a start took effect."""
    WITHDRAWING = enum.auto()
    """The same, and a stop is requested."""
    RUNNING = enum.auto()
    """The backend has it, and no exit is recorded."""
    STOPPING = enum.auto()
    """The same, and a stop is requested."""
    FINISHING = enum.auto()
    """Its exit is recorded. Its log and outputs have to be stored, and the backend to be cleared."""
    FINISHED = enum.auto()
    """Only the terminal status is missing."""


@dataclass(frozen=True)
class BackendState:
    """The backend of a job, as a decision sees it. Its report on the job is in `JobMemory.observation`."""

    runner: Runner
    outage: str | None = None
    """The reason why the backend cannot be reached, if that has lasted for a while."""


def phase_of(job: Job, memory: JobMemory) -> Phase:
    if job.exit is not None:
        return Phase.FINISHED if memory.is_finished else Phase.FINISHING
    is_stopping = job.stop_at is not None
    if job.handle is not None or memory.handle is not None:
        return Phase.STOPPING if is_stopping else Phase.RUNNING
    if job.attempt_at is not None:
        return Phase.WITHDRAWING if is_stopping else Phase.STARTING
    return Phase.WAITING_FOR_BUILD if waits_for_build(job) else Phase.PREPARING


def decide(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    """Return the next writes and the next call of a claimed job."""
    outage = backend.outage or memory.observation.unknown_reason
    notes = job_writes.unreachable_note_writes(job, outage)
    if not memory.is_broken:
        notes += job_writes.retry_note_writes(job, memory)
    decision = _DECIDE[phase_of(job, memory)](job, memory, backend, now, tools)
    return dataclasses.replace(decision, writes=[*notes, *decision.writes]) if notes else decision


def quiet_until(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> float:
    """Return when `decide` next has something to do, if neither row nor state changes. 0.0 means that it is unknown.

    Only running jobs are quiet for long, and there may be many of them.
    """
    if phase_of(job, memory) is not Phase.RUNNING or memory.is_broken or memory.call is not None:
        return 0.0
    due = float("inf")
    limit = specs.time_limit(job.config, tools.context.settings)
    if limit is not None and job.attempt_clock is not None:
        elapsed = now.since(job.attempt_clock)
        if elapsed is None:
            return 0.0
        due = now.seconds + limit - elapsed
    if isinstance(backend.runner, RemoteRunner):
        due = min(due, max(memory.backoff.retry_at, memory.log.due_at(backend.runner.max_log_pause)))
    return due


def _decide_preparing(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    return Decision([job_writes.prepare_write(job, memory, tools.context)])


def _decide_nothing(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    return NOTHING


def _decide_starting(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    if _is_overdue(job, now, tools.context.settings):
        return Decision([job_writes.timeout_write(job, tools.context.clock)])
    if memory.is_waiting(now.seconds):
        return NOTHING
    if (resumes_on_start(job) or reads_outputs(job)) and not memory.has_inputs:
        return Decision(call=LinkInputs(job, memory, backend.runner, tools))
    return Decision(call=StartJob(job, memory, backend.runner, tools))


def _decide_withdrawing(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    if memory.is_waiting(now.seconds):
        return NOTHING
    return Decision(call=PreventStart(job, memory, backend.runner, tools))


def _decide_running(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    news = _news(job, memory, backend.runner)
    if news.end is not None:
        return _decide_ended(job, memory, backend.runner, tools, news, news.end)
    writes = [*news.writes, *_begin_writes(job, news)]
    if _is_overdue(job, now, tools.context.settings):
        return Decision([*writes, job_writes.timeout_write(job, tools.context.clock)])
    call = _log_fetch(job, memory, backend.runner, now, tools)
    return Decision(writes, call) if writes or call else NOTHING


def _decide_stopping(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    """Send TERM, and KILL after the grace period. Only the runner's report that nothing is left ends the job."""
    news = _news(job, memory, backend.runner)
    if news.end is not None:
        return _decide_ended(job, memory, backend.runner, tools, news, news.end)
    writes = [*news.writes, *_begin_writes(job, news)]
    return Decision(writes, _stop(job, memory, backend.runner, now, tools))


def _decide_ended(job: Job, memory: JobMemory, runner: Runner, tools: JobTools, news: _News, end: Exit) -> Decision:
    """Begin the end of a job in the pass that records its exit. If there is nothing to store, it ends in this pass."""
    handle = _handle(job, memory)
    if memory.call is None and memory.has_left_nothing and not _is_cleared_first(job, runner, end):
        writes = [*news.writes, job_writes.end_write(job, memory, end, news.begin)]
        return Decision(writes, ClearJob(job, handle, tools), needs_commit=True)
    writes = [*news.writes, *_begin_writes(job, news), job_writes.exit_write(job, end)]
    if memory.call is not None:  # a call for the running job has not returned
        return Decision(writes)
    return Decision(writes, _finish(job, memory, runner, tools, handle, end), needs_commit=True)


def _decide_finishing(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    writes = job_writes.log_position_writes(job, memory.log.position) + job_writes.packing_note_writes(job, memory)
    if memory.is_waiting(now.seconds):
        return Decision(writes)
    return Decision(writes, _finish(job, memory, backend.runner, tools, job.handle, Exit.from_json(job.exit)))


def _decide_finished(job: Job, memory: JobMemory, backend: BackendState, now: Now, tools: JobTools) -> Decision:
    call = None if memory.is_cleared or job.handle is None else ClearJob(job, job.handle, tools)
    return Decision([job_writes.terminal_write(job, memory)], call, needs_commit=True)


_DECIDE: dict[Phase, Callable[[Job, JobMemory, BackendState, Now, JobTools], Decision]] = {
    Phase.PREPARING: _decide_preparing,
    Phase.WAITING_FOR_BUILD: _decide_nothing,
    Phase.STARTING: _decide_starting,
    Phase.WITHDRAWING: _decide_withdrawing,
    Phase.RUNNING: _decide_running,
    Phase.STOPPING: _decide_stopping,
    Phase.FINISHING: _decide_finishing,
    Phase.FINISHED: _decide_finished,
}


def _finish(job: Job, memory: JobMemory, runner: Runner, tools: JobTools, handle: str | None, end: Exit) -> FinishJob:
    position, clears = _position(job, memory), _is_cleared_first(job, runner, end)
    return FinishJob(job, memory, runner, tools, handle, position, clears=clears)


def _is_cleared_first(job: Job, runner: Runner, end: Exit) -> bool:
    """Return whether the backend is cleared before the terminal status, and not after it.

    Once the exit of a local job is known, none of its processes is left, and its runner only has small files of it. But
    a lost job may have processes. And a deleted job leaves no row by which its files are found after a crash.
    """
    return not runner.is_local or end.reason is Reason.LOST or job.deleted_at is not None


@dataclass(frozen=True)
class _News:
    """The changes that the backend's report on a job asks for."""

    writes: list[Write]
    """Of the log and the notes."""
    handle: str | None
    """The handle, if it has to be written."""
    begin: Begin | None
    """Set if the status `running` has to be written."""
    end: Exit | None
    """Set if the job has ended."""


def _news(job: Job, memory: JobMemory, runner: Runner) -> _News:
    state = memory.observation.state
    writes = job_writes.log_position_writes(job, memory.log.position)
    handle = None
    if job.handle is None and not (runner.is_local and isinstance(state, Pending | None)):
        # A local runner reports a state in the same pass or the next: handle and state are committed together.
        handle = _handle(job, memory)
    if state is None:
        return _News(writes, handle, None, None)
    if isinstance(state, Pending | Running):
        writes += job_writes.runner_note_writes(job, state.note)
    begin = None
    if _has_begun(state) and job.status is not Status.RUNNING:
        assert isinstance(state, Running | Exited)
        begin = Begin(state.node, state.note if isinstance(state, Running) else None, handle)
    return _News(writes, handle, begin, _exit_of(state))


def _begin_writes(job: Job, news: _News) -> list[Write]:
    """Return the write of the handle and of the status `running`: one, if both are news."""
    if news.begin is not None:
        return [job_writes.running_write(job, news.begin)]
    return [job_writes.handle_write(job, news.handle)] if news.handle else []


def _has_begun(state: State) -> bool:
    return isinstance(state, Running) or (isinstance(state, Exited) and state.exit.has_begun)


def _exit_of(state: State) -> Exit | None:
    if isinstance(state, Exited):
        return state.exit
    return Exit(Reason.LOST) if isinstance(state, Missing) else None


def _stop(job: Job, memory: JobMemory, runner: Runner, now: Now, tools: JobTools) -> JobCall | None:
    if memory.is_waiting(now.seconds):
        return None
    since_term = now.since(job.term_clock) if job.term_clock else None
    if since_term is None:
        return StopJob(job, memory, runner, tools, _handle(job, memory), force=False)
    if since_term < specs.grace_period(job.config, tools.context.settings):
        return None
    if memory.killed_at is not None and now.seconds - memory.killed_at < KILL_INTERVAL_SECONDS:
        return None
    return StopJob(job, memory, runner, tools, _handle(job, memory), force=True)


def _log_fetch(job: Job, memory: JobMemory, runner: Runner, now: Now, tools: JobTools) -> JobCall | None:
    """Return a fetch of the log, if the runner keeps it and a fetch is due."""
    if not isinstance(runner, RemoteRunner) or memory.is_waiting(now.seconds):
        return None
    if now.seconds < memory.log.due_at(runner.max_log_pause):
        return None
    return FetchLog(job, memory, runner, tools, _handle(job, memory), _position(job, memory))


def _is_overdue(job: Job, now: Now, settings: Settings) -> bool:
    """Return whether the time limit is over. It counts from the first attempt, and so ends a job that never starts."""
    limit = specs.time_limit(job.config, settings)
    if limit is None or job.attempt_clock is None:
        return False
    elapsed = now.since(job.attempt_clock)
    if elapsed is None:  # the machine was booted in between, so only the wall clock knows
        elapsed = (now.wall - job.attempt_at).total_seconds()
    return elapsed >= limit


def _handle(job: Job, memory: JobMemory) -> str:
    handle = job.handle or memory.handle
    assert handle is not None
    return handle


def _position(job: Job, memory: JobMemory) -> LogPosition:
    return memory.log.position or LogPosition.from_json(job.log_cursor)
