"""The writes of the engine to the row of a job. Each makes a `Write`, or is called by one inside the transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polyjob.clock import Clock
from polyjob.db.database import database
from polyjob.db.models import Job
from polyjob.db.prepared import update
from polyjob.engine.context import Context
from polyjob.engine.finalize import LogPosition, outcome, stragglers_note
from polyjob.engine.job_memory import JobMemory
from polyjob.engine.prepare import end_unstarted, prepare, refuse_start, replace_build
from polyjob.engine.retries import START_PATIENCE
from polyjob.engine.writes import Write
from polyjob.services import outbox
from polyjob.services.endings import end_job
from polyjob.services.jobs import BY_ID
from polyjob.services.notes import BACKEND_NOTE, MISSING_OUTPUTS_NOTE, PACKING_NOTE, Notes, note_text, with_note
from polyjob.services.transitions import transition, update_columns
from polyjob.statuses import Status
from runners.base import Exit

log = logging.getLogger("polyjob.engine")


@dataclass(frozen=True)
class Begin:
    """The columns that are written when a job begins to run."""

    node: str | None = None
    message: str | None = None
    handle: str | None = None
    """None if the row has it."""


NOTE_KINDS = {"log": "log", "outputs": MISSING_OUTPUTS_NOTE}
"""`log` or `outputs` → the kind of the note that it could not be fetched."""


def prepare_write(job: Job, memory: JobMemory, context: Context) -> Write:
    return Write("prepare", lambda: _on_current_row(job.id, lambda row: prepare_or_back_off(row, memory, context)))


def prepare_or_back_off(job: Job, memory: JobMemory, context: Context) -> None:
    """Prepare a claimed job. If that fails, let the job wait, so that it does not spoil the transaction of others."""
    try:
        with database.savepoint():
            prepare(job, context.clock, context.settings.python)
    except Exception as error:
        for write in back_off(job, memory, error, context.clock):
            write.apply()


def back_off(job: Job, memory: JobMemory, error: Exception, clock: Clock) -> list[Write]:
    """Let a job wait whose decision failed. A job that never started ends after a while."""
    memory.is_broken = True
    memory.backoff.log_defect(error, "job %s could not be handled; it is tried again", job.id)
    has_started = job.handle is not None or memory.handle is not None or job.exit is not None
    patience = float("inf") if has_started or job.stop_at is not None else START_PATIENCE
    if memory.backoff.fail("start", error, clock.seconds(), patience):
        return [refuse_write(job.id, repr(error), clock)]
    memory.backoff.reason = f"The engine could not handle this job, and tries again: {error!r}"
    return retry_note_writes(job, memory)


# Start.


def handle_write(job: Job, handle: str) -> Write:
    return Write("handle", lambda: update(Job, job.id, {"handle": handle}))


def running_write(job: Job, begin: Begin) -> Write:
    return Write("running", lambda: _on_current_row(job.id, lambda row: record_running(row, begin)))


def record_running(job: Job, begin: Begin) -> None:
    """Record that the command of a job has started, unless that is recorded."""
    columns: dict[str, Any] = {"handle": begin.handle} if begin.handle else {}
    if transition(job, Status.RUNNING, message=begin.message, node=job.node or begin.node, **columns):
        outbox.record_start(job)
    elif columns:
        update(Job, job.id, columns)


def unstarted_write(job_id: int) -> Write:
    """End a job that no backend knows and none will start."""
    return Write("unstarted", lambda: _on_current_row(job_id, end_unstarted))


def refuse_write(job_id: int, reason: str, clock: Clock) -> Write:
    """Stop a job whose start keeps being refused."""
    return Write("refuse", lambda: _on_current_row(job_id, lambda job: refuse_start(job, reason, clock)))


def rebuild_write(job_id: int, reason: str, python: str) -> Write:
    """Give a job whose artifact is missing or stale another build."""
    return Write("rebuild", lambda: _on_current_row(job_id, lambda job: replace_build(job, reason, python)))


# Stop.


def timeout_write(job: Job, clock: Clock) -> Write:
    """Request the stop of a job whose time limit is over, unless it is being stopped already."""

    def apply() -> None:
        if Job.select().where(Job.id == job.id, Job.stop_at.is_null()).exists():
            update_columns(job, stop_at=clock.wall(), stop_kind="timeout")

    return Write("timeout", apply)


def term_write(job_id: int, mark: str) -> Write:
    """Record when TERM was sent; the grace period counts from there."""
    return Write("term", lambda: update(Job, job_id, {"term_clock": mark}))


# The end.


def exit_write(job: Job, end: Exit) -> Write:
    return Write("exit", lambda: record_exit(job.id, end))


def record_exit(job_id: int, end: Exit) -> None:
    """Record the exit, unless one is recorded: that of a job that was abandoned meanwhile stays.

    From here on the slot is free, and a stop request comes too late.
    """
    row = BY_ID.first(job_id)
    if row is not None and row.exit is None:
        update_columns(row, exit=end.to_json(), exit_code=end.code)


def start_failed_write(job_id: int, end: Exit) -> Write:
    return Write("exit", lambda: _on_current_row(job_id, lambda job: record_exit(job.id, end)))


def terminal_write(job: Job, memory: JobMemory) -> Write:
    """Write the terminal status of a job whose exit is recorded."""
    return Write("terminal", lambda: record_terminal_status(job.id, memory))


def end_write(job: Job, memory: JobMemory, end: Exit, begin: Begin | None) -> Write:
    """Record the exit of a job together with its terminal status and, if it is not recorded, its begin."""
    return Write("terminal", lambda: record_terminal_status(job.id, memory, end, begin))


def record_terminal_status(job_id: int, memory: JobMemory, end: Exit | None = None, begin: Begin | None = None) -> None:
    job = BY_ID.first(job_id)
    if job is None or job.status.is_done:
        return
    columns: dict[str, Any] = {}
    if job.exit is None and end is not None:
        if begin is not None:
            record_running(job, begin)
        columns = {"exit": end.to_json(), "exit_code": end.code}
        job.exit, job.exit_code = columns["exit"], end.code
    status, message, details = outcome(job)
    if status is Status.SUCCEEDED and job.status is not Status.RUNNING:
        record_running(job, Begin())
    end_job(job, status, message=message, details=details, notes=_notes_at_end(job, memory), **columns)


def _notes_at_end(job: Job, memory: JobMemory) -> Notes | None:
    texts = {"outputs": "; ".join(memory.dropped_outputs) or None, "stragglers": stragglers_note(job)}
    if Exit.from_json(job.exit).has_begun:
        texts |= _missing_texts(memory.missing)
    else:  # a command that never ran has left nothing
        texts |= dict.fromkeys(NOTE_KINDS.values())
    notes = job.notes
    for kind, text in texts.items():
        notes = with_note(notes, kind, text)
    return notes


# The log.


def log_position_writes(job: Job, position: LogPosition | None) -> list[Write]:
    """Commit how far the log has been fetched, if that has changed."""
    if position is None or position.is_stored_as(job.log_cursor):
        return []
    cursor = position.to_json()
    return [Write("log", lambda: update(Job, job.id, {"log_cursor": cursor}))]


# Notes.


def note_writes(job: Job, kind: str, text: str | None) -> list[Write]:
    """Replace a note on the job, if it differs; None removes it."""
    if text == note_text(job.notes, kind):
        return []
    return [Write("note", lambda: set_note(job.id, kind, text))]


def retry_note_writes(job: Job, memory: JobMemory) -> list[Write]:
    """Say on the job why a call is tried again, until that call succeeds."""
    return note_writes(job, "retry", memory.backoff.reason)


def unreachable_note_writes(job: Job, text: str | None) -> list[Write]:
    """Say on the job that its backend cannot be reached, or cannot tell its state, as long as that lasts."""
    return note_writes(job, "unreachable", text)


def runner_note_writes(job: Job, text: str | None) -> list[Write]:
    """Show the backend's note on the job's state: what it waits for, for example."""
    return note_writes(job, BACKEND_NOTE, text)


def packing_note_writes(job: Job, memory: JobMemory) -> list[Write]:
    return note_writes(job, PACKING_NOTE, memory.packing_note)


def missing_note_write(job_id: int, what: str, reason: str) -> Write:
    return Write("note", lambda: _note_missing(job_id, {what: reason}))


def unfetched(job: Job) -> tuple[str, ...]:
    """Return what is not fetched again, `log` or `outputs`, because a note says that it could not be fetched."""
    return tuple(what for what, kind in NOTE_KINDS.items() if note_text(job.notes, kind))


def set_note(job_id: int, kind: str, text: str | None) -> None:
    job = BY_ID.first(job_id)
    if job is None or job.status.is_done:
        return
    notes = with_note(job.notes, kind, text)
    if notes != job.notes:
        update_columns(job, notes=notes)


def _note_missing(job_id: int, missing: Mapping[str, str]) -> None:
    for kind, text in _missing_texts(missing).items():
        set_note(job_id, kind, text)


def _missing_texts(missing: Mapping[str, str]) -> dict[str, str | None]:
    """Return the notes on what could not be fetched: kind → text."""
    parts = {"log": "The rest of its log", "outputs": "Its outputs"}
    return {
        NOTE_KINDS[what]: f"{part} could not be fetched: {missing[what]}"
        for what, part in parts.items()
        if what in missing
    }


def _on_current_row(job_id: int, act: Callable[[Job], None]) -> None:
    """Call `act` with the current row of the job, unless its exit is recorded."""
    job = BY_ID.first(job_id)
    if job is not None and job.exit is None and not job.status.is_done:
        act(job)
