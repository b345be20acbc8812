"""The end of a job, in the order that makes it safe: log fetched, outputs sealed, all synced, back end cleared.

Every step may be repeated after a crash. The terminal status is written by the pass, once all of them are done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyjob.db.models import Job
from polyjob.engine.retries import is_refusal, words
from polyjob.services.notes import START_REFUSED_NOTE, note_text
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.base import Exit, HandleNotFound, Reason, RemoteRunner, Runner, RunnerError

NEVER_STARTED = "The job did not start within its time limit"
PIECE = 1 << 20
"""Bytes of log fetched by one call."""
PIECES = 8
"""Of a job that has ended, fetched before its position is committed."""
CUT = "\npolyjob dropped the rest of this log here: the limit is {} bytes\n"


@dataclass(frozen=True)
class LogPosition:
    """How far a remote log is in our file: the runner's cursor, and the length of the file that belongs to it."""

    cursor: str | None = None
    length: int = 0
    is_cut: bool = False
    """The file has all that it may have; nothing more is fetched."""

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> LogPosition:
        return cls(**value) if value else cls()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def fetch_log(runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int) -> LogPosition:
    """Append what is new to our file, which is first cut to `position`; the position behind it.

    At `limit` bytes a last line says that the rest is dropped. About `PIECE` bytes per call, so that the pass can
    commit in between. A back end that has forgotten the job has nothing more to give.
    """
    with contextlib.suppress(HandleNotFound):
        return _fetch_log(runner, handle, log, position, limit)
    return position


def _fetch_log(runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int) -> LogPosition:
    """As `fetch_log`, but raises HandleNotFound."""
    if position.is_cut:
        return position
    data, cursor = runner.logs(handle, position.cursor, PIECE)
    room = limit - position.length
    is_cut = len(data) > room
    if is_cut:
        data = data[: max(0, room)] + CUT.format(limit).encode()
    if not data:
        return position
    return LogPosition(cursor, Store.append(log, data, position.length), is_cut)


class NotFetched(RunnerError):
    """The log or the outputs (`what`) of a job that has ended cannot be fetched, and the machine is not at fault."""

    def __init__(self, what: str, cause: Exception) -> None:
        super().__init__(words(cause))
        self.what = what
        self.cause = cause


@contextlib.contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Raise NotFetched for whatever blames the call; faults of the machine pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, HandleNotFound) or not is_refusal(error):
            raise
        raise NotFetched(what, error) from error


@dataclass(frozen=True)
class Finished:
    """How far the end of a job has come."""

    position: LogPosition
    is_whole: bool
    """All steps are done. Otherwise some of the log, the packing or the removal remains, for another call."""
    not_kept: list[str] = field(default_factory=list)
    """What of the outputs could not be kept."""
    missing: dict[str, str] = field(default_factory=dict)
    """`log` or `outputs` → why it could not be fetched."""
    packed: int | None = None
    """Bytes of outputs packed so far, while packing is under way."""
    is_removing: bool = False
    """The outputs are packed, and the removal of the job's remaining files is under way."""

    @property
    def can_continue(self) -> bool:
        """Packing or removing is under way, and the same iterator continues it."""
        return self.packed is not None or self.is_removing


def finish(
    runner: Runner,
    uuid: str,
    prefix: str,
    handle: str | None,
    store: Store,
    position: LogPosition,
    log_limit: int,
    outputs_limit: int,
    skipped: Collection[str] = (),
    deadline: Callable[[], str | None] = lambda: None,
) -> Generator[Finished, None, None]:
    """Do all steps of the end, or of a long log as many pieces as are fetched at a time. `prefix` is the folder in
    which the outputs lie in their archive, `skipped` names what is not fetched: `log`, `outputs`.

    Yields how far it has come, in the end and often while outputs are packed and files are removed, so that the caller
    can pause. Closing the iterator gives up the packing, but keeps what is sealed or removed. Nothing more is packed
    once `deadline` says why.

    Raises NotFetched, RunnerUnavailable or OSError; then the whole is begun again, later. What is sealed is not fetched
    again: a back end that was cleared before a crash has nothing left to give.
    """
    missing: dict[str, str] = {}
    remote = runner if isinstance(runner, RemoteRunner) and handle is not None else None
    if remote and handle and not store.is_sealed(uuid) and "log" not in skipped:
        position, is_drained = _drain_log(remote, handle, store.job_log(uuid), position, log_limit, missing)
        if not is_drained:
            yield Finished(position, is_whole=False)
            return
    if "outputs" not in skipped:
        pieces = remote.outputs(handle) if remote and handle else None
        try:
            with _fetching("outputs"):
                for packed in store.seal_in_steps(uuid, prefix, outputs_limit, pieces, deadline):
                    yield Finished(position, is_whole=False, packed=packed)
        except HandleNotFound as error:
            missing["outputs"] = str(error)
        finally:
            if isinstance(pieces, Generator):
                pieces.close()
    for _ in _closing(runner, uuid, handle, store, keeps_outputs="outputs" in skipped):
        yield Finished(position, is_whole=False, missing=missing, is_removing=True)
    yield Finished(position, is_whole=True, not_kept=store.outputs(uuid).notes, missing=missing)


def _closing(runner: Runner, uuid: str, handle: str | None, store: Store, *, keeps_outputs: bool) -> Iterator[None]:
    """Restore the log, sync what is kept, and remove what else the job has left: the folder of the outputs if that was
    packed, and what is in the backend. Each step is short."""
    yield from store.restore_log_in_steps(uuid)
    store.sync(uuid)
    if not keeps_outputs:
        yield from store.remove_outputs_in_steps(uuid)
    if handle is not None:
        yield from runner.clean_in_steps(handle)


def _drain_log(
    runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int, missing: dict[str, str]
) -> tuple[LogPosition, bool]:
    """Fetch what is left of a log, a few pieces of it; whether that was all."""
    for _ in range(PIECES):
        before = position
        try:
            with _fetching("log"):
                position = _fetch_log(runner, handle, log, before, limit)
        except HandleNotFound as error:
            missing["log"] = str(error)
        if position == before:
            return position, True
    return position, False


def outcome(job: Job) -> tuple[Status, str, dict[str, Any]]:
    """(terminal status, message, details) of a job whose exit is recorded.

    A stop that was asked for before the exit was recorded makes it `stopped`, with the true exit kept.
    """
    end = Exit.from_json(job.exit)
    details: dict[str, Any] = {"exit_code": end.code, "reason": str(end.reason), "signal": end.signal}
    if end.stragglers:
        details["stragglers"] = list(end.stragglers)
    if job.stop_kind in ("person", "delete"):
        by = job.stop_by.username if job.stop_by else None
        return Status.STOPPED, _with_rest("Job was stopped", end), details | {"by": by}
    if job.stop_kind == "timeout":
        text = "The job ran longer than it may" if end.reason is not Reason.TIMEOUT else NEVER_STARTED
        return Status.FAILED, _with_rest(text, end), details | {"reason": str(Reason.TIMEOUT)}
    if job.stop_kind == "start" and end.reason is Reason.SIGNALLED:
        refused = Exit(Reason.START, message=note_text(job.notes, START_REFUSED_NOTE))
        return Status.FAILED, _with_rest(_failure(refused), refused), details | {"reason": str(Reason.START)}
    if end.reason is Reason.BUILD:
        failure = f"The build failed: {end.message}" if end.message else "The build failed"
        return Status.FAILED, failure, details | ({"step": end.step} if end.step else {})
    if end.succeeded:
        return Status.SUCCEEDED, _with_rest("Completed", end), details
    return Status.FAILED, _with_rest(_failure(end), end), details


def stragglers_note(job: Job) -> str | None:
    """Return what to tell about the processes that the command left behind; None if there were none."""
    names = Exit.from_json(job.exit).stragglers
    if not names:
        return None
    left = ", ".join(f"`{name}`" for name in names)
    return (
        f"The command ended while its processes were still running, and they were ended: {left}. Let it wait for them."
    )


def _failure(end: Exit) -> str:
    if end.reason is Reason.EXITED:
        return f"exit-code({end.code})"
    if end.reason is Reason.SIGNALLED:
        return f"exit-code({end.code}): ended by signal {end.signal}"
    if end.reason is Reason.OOM:
        return f"exit-code({end.code}): out of memory"
    if end.reason is Reason.EVICTED:
        return "The job was ended by its cluster"
    if end.reason is Reason.LOST:
        return "The job is gone, and nobody saw how it ended"
    return "Could not start the job"


def _with_rest(text: str, end: Exit) -> str:
    """The message with what else the runner says of the end; the bare text where that is nothing."""
    parts = [text]
    if end.message:
        parts.append(end.message)
    if end.stragglers:
        parts.append(f"Still running at the end, and killed: {', '.join(end.stragglers)}")
    return ". ".join(part.rstrip(".") for part in parts) + ("." if len(parts) > 1 else "")
