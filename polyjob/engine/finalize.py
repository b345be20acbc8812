"""Finish a job in the order that makes it safe: fetch the log, seal the outputs, sync everything, clear the backend.

Every step may be repeated after a crash. A pass writes the terminal status once all steps are done. If the job needs no
clearing before its terminal status, `clearing` does that afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyjob.db.models import Job
from polyjob.engine.log_mask import LogMask, mask_piece
from polyjob.engine.retries import error_text, is_refusal
from polyjob.services.notes import START_REFUSED_NOTE, note_text
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.base import Exit, HandleNotFound, Reason, RemoteRunner, Runner, RunnerError
from runners.common.log_times import Times

NEVER_STARTED = "The job did not start within its time limit"
LOG_PIECE_BYTES = 1 << 20
"""Bytes of log that one call to a backend fetches."""
PIECES_PER_COMMIT = 8
"""Pieces of an ended job's log that are fetched before its position is committed."""
LOG_CUT_LINE = "\npolyjob dropped the rest of this log here: the limit is {} bytes\n"


@dataclass(frozen=True)
class LogPosition:
    """The end of what is fetched of a remote log: the runner's cursor, and the length of our file at that cursor."""

    cursor: str | None = None
    length: int = 0
    is_cut: bool = False
    """The file has reached its limit; nothing more is fetched."""
    mask_state: str | None = None
    """The state of the job's masker. It stands for bytes before the cursor that are not in the file yet, because they
    could be the beginning of a secret."""

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> LogPosition:
        return cls(**value) if value else cls()

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        if self.mask_state is None:
            del fields["mask_state"]
        return fields

    def is_stored_as(self, value: dict[str, Any] | None) -> bool:
        """Return whether `value` is the JSON of this position. None stands for the beginning of the log."""
        return self == LogPosition.from_json(value)


def fetch_log(
    runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int, mask: LogMask | None = None
) -> LogPosition:
    """Append the next piece of a log to our file, and return the position after it.

    The file is first cut to `position`. At `limit` bytes, a last line says that the rest is dropped. One call fetches
    about `LOG_PIECE_BYTES`, so that the pass can commit in between. If the backend has forgotten the job, nothing is
    fetched. `mask` has the job's secrets.
    """
    with contextlib.suppress(HandleNotFound):
        return _fetch_log(runner, handle, log, position, limit, mask)
    return position


def _fetch_log(
    runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int, mask: LogMask | None
) -> LogPosition:
    """Do the work of `fetch_log`, but raise HandleNotFound if the backend has forgotten the job."""
    if position.is_cut:
        return position
    data, cursor, times = runner.timed_logs(handle, position.cursor, LOG_PIECE_BYTES)
    if not data:
        return position
    mask_state = None
    if mask is not None:
        masker = mask.masker(runner, handle, position.mask_state)
        data, times = mask_piece(masker, data, times)
        mask_state = masker.state
    return _append(log, data, times, LogPosition(cursor, position.length, mask_state=mask_state), limit)


def _append(log: Path, data: bytes, times: Times, position: LogPosition, limit: int) -> LogPosition:
    """Append data to our file, up to its limit, and return the position with the new length."""
    room = limit - position.length
    is_cut = len(data) > room
    if is_cut:
        data = data[: max(0, room)] + LOG_CUT_LINE.format(limit).encode()
    return dataclasses.replace(position, length=Store.append(log, data, position.length, times), is_cut=is_cut)


def _append_held(
    runner: RemoteRunner, handle: str, log: Path, position: LogPosition, limit: int, mask: LogMask | None
) -> LogPosition:
    """Append what the masker has held back, at the end of a log."""
    if mask is None or position.mask_state is None or position.is_cut:
        return position
    data = mask.masker(runner, handle, position.mask_state).flush()
    return _append(log, data, (), dataclasses.replace(position, mask_state=None), limit)


class NotFetched(RunnerError):
    """The log or outputs of an ended job cannot be fetched, and the machine is not at fault.

    `what` is `log` or `outputs`.
    """

    def __init__(self, what: str, cause: Exception) -> None:
        super().__init__(error_text(cause))
        self.what = what
        self.cause = cause


@contextlib.contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Raise NotFetched for an error that blames the call. Faults of the machine and HandleNotFound pass unchanged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, HandleNotFound) or not is_refusal(error):
            raise
        raise NotFetched(what, error) from error


@dataclass(frozen=True)
class FinishProgress:
    """The progress of a job's end."""

    position: LogPosition
    is_complete: bool
    """All steps are done. Otherwise another call has to do the rest of the log, the packing or the removal."""
    dropped_outputs: list[str] = field(default_factory=list)
    """Notes on outputs that could not be kept."""
    missing: dict[str, str] = field(default_factory=dict)
    """`log` or `outputs` → the reason why it could not be fetched."""
    packed_bytes: int | None = None
    """Bytes of outputs packed so far, while packing is under way."""
    is_removing: bool = False
    """The outputs are packed, and the job's remaining files are being removed."""

    @property
    def can_continue(self) -> bool:
        """True while packing or removal is under way. The same iterator continues it."""
        return self.packed_bytes is not None or self.is_removing


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
    clears: bool = True,
    mask: LogMask | None = None,
) -> Generator[FinishProgress, None, None]:
    """Do all steps of the end; of a long log only `PIECES_PER_COMMIT` pieces.

    `prefix` is the folder of the outputs inside their tarball. `skipped` names what is not fetched: `log`, `outputs`.
    No more outputs are packed once `deadline` returns a reason. The backend is cleared only if `clears`. `mask` has the
    job's secrets.

    Yields its progress: at the end, and often while outputs are packed and files are removed, so that the caller can
    pause. Closing the iterator abandons the packing. Everything sealed or removed by then stays so.

    Raises NotFetched, RunnerUnavailable or OSError. Then the caller begins again later. Sealed outputs are not fetched
    again: a backend that was cleared before a crash has nothing left to give.
    """
    missing: dict[str, str] = {}
    remote = runner if isinstance(runner, RemoteRunner) and handle is not None else None
    if remote and handle and not store.is_sealed(uuid) and "log" not in skipped:
        position, is_drained = _drain_log(remote, handle, store.job_log(uuid), position, log_limit, mask, missing)
        if not is_drained:
            yield FinishProgress(position, is_complete=False)
            return
    if "outputs" not in skipped:
        pieces = remote.outputs(handle) if remote and handle else None
        try:
            with _fetching("outputs"):
                for packed in store.seal_in_steps(uuid, prefix, outputs_limit, pieces, deadline):
                    yield FinishProgress(position, is_complete=False, packed_bytes=packed)
        except HandleNotFound as error:
            missing["outputs"] = str(error)
        finally:
            if isinstance(pieces, Generator):
                pieces.close()
    for _ in _sync_and_clear(runner, uuid, handle if clears else None, store, keeps_outputs="outputs" in skipped):
        yield FinishProgress(position, is_complete=False, missing=missing, is_removing=True)
    yield FinishProgress(position, is_complete=True, dropped_outputs=store.outputs(uuid).notes, missing=missing)


def _sync_and_clear(
    runner: Runner, uuid: str, handle: str | None, store: Store, *, keeps_outputs: bool
) -> Iterator[None]:
    """Restore the log and sync the job's files. Then remove the folders of packed outputs and of those of earlier
    jobs, and clear the backend.

    Each step is short. Without a handle, nothing is cleared.
    """
    yield from store.restore_log_in_steps(uuid)
    store.sync(uuid)
    if not keeps_outputs:
        yield from store.remove_outputs_in_steps(uuid)
    yield from store.remove_job_outputs_in_steps(uuid)
    if handle is not None:
        yield from runner.clean_in_steps(handle)


def _drain_log(
    runner: RemoteRunner,
    handle: str,
    log: Path,
    position: LogPosition,
    limit: int,
    mask: LogMask | None,
    missing: dict[str, str],
) -> tuple[LogPosition, bool]:
    """Fetch a few more pieces of a log. Return the position, and whether the log is complete."""
    for _ in range(PIECES_PER_COMMIT):
        before = position
        try:
            with _fetching("log"):
                position = _fetch_log(runner, handle, log, before, limit, mask)
                if position == before:
                    return _append_held(runner, handle, log, position, limit, mask), True
        except HandleNotFound as error:
            missing["log"] = str(error)
            return before, True
    return position, False


def outcome(job: Job) -> tuple[Status, str, dict[str, Any]]:
    """Return the terminal status, message and details of a job whose exit is recorded.

    If a stop was requested before the exit was recorded, the status is `stopped`, and the details have the true exit.
    """
    end = Exit.from_json(job.exit)
    details: dict[str, Any] = {"exit_code": end.code, "reason": str(end.reason), "signal": end.signal}
    if end.stragglers:
        details["stragglers"] = list(end.stragglers)
    if job.stop_kind in ("person", "delete"):
        by = job.stop_by.username if job.stop_by else None
        return Status.STOPPED, _with_remarks("Job was stopped", end), details | {"by": by}
    if job.stop_kind == "timeout":
        text = "Exceeded its time limit" if end.reason is not Reason.TIMEOUT else NEVER_STARTED
        return Status.FAILED, _with_remarks(text, end), details | {"reason": str(Reason.TIMEOUT)}
    if job.stop_kind == "start" and end.reason is Reason.SIGNALLED:
        refused = Exit(Reason.START, message=note_text(job.notes, START_REFUSED_NOTE))
        return Status.FAILED, _with_remarks(_failure(refused), refused), details | {"reason": str(Reason.START)}
    if end.reason is Reason.BUILD:
        failure = f"The build failed: {end.message}" if end.message else "The build failed"
        return Status.FAILED, failure, details | ({"step": end.step} if end.step else {})
    if end.succeeded:
        return Status.SUCCEEDED, _with_remarks("Completed", end), details
    return Status.FAILED, _with_remarks(_failure(end), end), details


def stragglers_note(job: Job) -> str | None:
    """Return a note on the processes that the command left behind, or None."""
    names = Exit.from_json(job.exit).stragglers
    if not names:
        return None
    listed = ", ".join(f"`{name}`" for name in names)
    return f"Processes still ran when the command ended, and were killed: {listed}. Let the command wait for them."


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
        return "Lost: its exit status could not be determined"
    return "Could not start the job"


def _with_remarks(text: str, end: Exit) -> str:
    """Return the message, followed by the runner's remarks on the exit, if there are any."""
    parts = [text]
    if end.message:
        parts.append(end.message)
    if end.stragglers:
        parts.append(f"Still running at the end, and killed: {', '.join(end.stragglers)}")
    return ". ".join(part.rstrip(".") for part in parts) + ("." if len(parts) > 1 else "")
