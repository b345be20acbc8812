"""The runner calls for one job. Each class says what a call does and what its result means."""

from __future__ import annotations

import abc
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from polyjob.auth.tokens import job_token
from polyjob.db.models import Job, Project, User
from polyjob.db.prepared import Prepared
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Key, Result
from polyjob.engine.clearing import Clearing
from polyjob.engine.context import Context
from polyjob.engine.finalize import FinishProgress, LogPosition, NotFetched, fetch_log, finish
from polyjob.engine.finalize_lanes import Deadline, FinalizeLanes, FinishSteps, Slice
from polyjob.engine.job_memory import JobMemory
from polyjob.engine.job_writes import (
    missing_note_write,
    rebuild_write,
    refuse_write,
    start_failed_write,
    term_write,
    unfetched,
    unstarted_write,
)
from polyjob.engine.log_mask import LogMask
from polyjob.engine.retries import FETCH_PATIENCE, START_PATIENCE, error_text, is_refusal
from polyjob.engine.writes import Write
from polyjob.errors import Unavailable
from polyjob.services import job_inputs, job_secrets, specs, volumes
from polyjob.services.build_reuse import has_named_build
from polyjob.services.job_inputs import Source, reads_outputs
from polyjob.services.job_retries import resumes_on_start
from polyjob.services.job_secrets import SecretUnusable
from polyjob.services.jobs import BY_ID
from runners.base import (
    ArtifactMissing,
    Exit,
    JobOutputs,
    JobSpec,
    RemoteRunner,
    Runner,
    RunnerUnavailable,
    StartFailed,
)

log = logging.getLogger("polyjob.engine")

MAX_REBUILDS = 3
"""Builds made again for one job because its start found the artifact missing or stale."""

_PROJECT = Prepared(lambda: Project.select(Project, User).join(User).where(Project.id == 0))


@dataclass(frozen=True)
class JobTools:
    """The objects that the calls of all jobs work with."""

    context: Context
    backends: Backends
    lanes: FinalizeLanes
    clearing: Clearing


class JobCall(abc.ABC):
    """A call for one job. Making one changes nothing; `submit` begins it."""

    pool: str = "control"
    verb: ClassVar[str]
    subject: ClassVar[str]
    """Subject of the sentence `… is tried again: …`."""
    patience: ClassVar[float] = float("inf")
    """Seconds for which a refusal is retried."""

    def __init__(self, job: Job, memory: JobMemory, runner: Runner, tools: JobTools) -> None:
        self.job = job
        self.memory = memory
        self.runner = runner
        self.tools = tools

    @property
    def key(self) -> Key:
        return "job", self.job.id

    def prepare(self) -> None:  # noqa: B027
        """Read the rows that `run` needs. Called by the engine's thread, in the pass that decides on the call."""

    def submit(self) -> None:
        self.memory.call = self
        self.tools.context.calls.submit(self)

    @abc.abstractmethod
    def run(self) -> Any:
        """Make the call. Runs in a pool's thread, and so reads no rows."""

    def is_urgent(self, result: Result) -> bool:
        return True

    def on_done(self, result: Result) -> Write | None:
        """Take in the result, and return the write that it asks for."""
        self.memory.call = None
        if result.error is not None:
            return self.on_failure(result.error)
        self.memory.backoff.succeed()
        return self.on_success(result.value)

    @abc.abstractmethod
    def on_success(self, value: Any) -> Write | None: ...

    def on_failure(self, error: Exception) -> Write | None:
        self.log_defect(error)
        if self.memory.backoff.fail(self.verb, error, self._now(), self.patience):
            return self.on_patience_over(error)
        self.explain_retry(error)
        return None

    def on_patience_over(self, error: Exception) -> Write | None:
        raise AssertionError(f"`{self.verb}` is tried again without end")

    def log_defect(self, error: Exception) -> None:
        self.memory.backoff.log_defect(error, "%s of job %s failed; it is tried again", self.verb, self.job.id)

    def explain_retry(self, error: Exception) -> None:
        self.memory.backoff.reason = f"{self.subject} is tried again: {error_text(error)}"

    def _now(self) -> float:
        return self.tools.context.clock.seconds()


class LinkInputs(JobCall):
    """Link the outputs with which a retry begins, and those of earlier jobs that the job reads.

    Those of a retry are not linked before it is inserted, as those of a clone are: the transaction that ends the failed
    attempt inserts it, and uses no files. Once all are linked, the job can start, whatever happens to the other jobs.
    """

    pool = "files"
    verb = "inputs"
    subject = "The link to its inputs"
    patience = START_PATIENCE

    _original: str | None
    """The uuid of the failed attempt; None if it was deleted or its outputs were removed."""
    _sources: Sequence[Source]

    def prepare(self) -> None:
        original = BY_ID.first(self.job.original_id) if self.job.original_id else None
        self._original = original.uuid if original is not None and original.cleared_at is None else None
        self._sources = job_inputs.sources(self.job, self.tools.context.store) if reads_outputs(self.job) else ()

    def run(self) -> None:
        try:
            if resumes_on_start(self.job):
                self._link_original()
            for source in self._sources:
                self._link_source(source)
        except Unavailable as error:
            raise RunnerUnavailable(str(error)) from error

    def _link_original(self) -> None:
        context = self.tools.context
        if context.store.job_inputs(self.job.uuid).exists():
            return
        if self._original is None:
            raise StartFailed("The outputs of the failed attempt, with which this retry begins, were removed")
        context.store.link_inputs(self._original, self.job.uuid, context.settings.disk_low)

    def _link_source(self, source: Source) -> None:
        context = self.tools.context
        if context.store.job_outputs(self.job.uuid, source.folder).exists():
            return
        if source.uuid is None:
            raise StartFailed(f"The outputs of #{source.folder}, which this job reads, are missing or were removed")
        context.store.link_job_outputs(source.uuid, self.job.uuid, source.folder, context.settings.disk_low)

    def on_success(self, value: None) -> None:
        self.memory.has_inputs = True

    def on_failure(self, error: Exception) -> Write | None:
        if isinstance(error, StartFailed):
            return start_failed_write(self.job.id, Exit(error.reason, message=str(error)))
        return super().on_failure(error)

    def on_patience_over(self, error: Exception) -> Write:
        return refuse_write(self.job.id, error_text(error), self.tools.context.clock)


class VolumeMissing(Exception):
    """The server does not offer a volume of the job any more. The text is one sentence for the user."""


class StartJob(JobCall):
    """Start a job whose attempt is committed. After a crash, the same call adopts what the first one created."""

    verb = "start"
    subject = "Its start"
    patience = START_PATIENCE

    _spec: JobSpec
    _artifact: str | None
    _fault: str | None
    """Why the job cannot have its volumes."""
    _secrets: dict[str, str | None]
    """Name → encrypted value of the job's secrets."""

    def prepare(self) -> None:
        job, context = self.job, self.tools.context
        _load_project(job)
        inputs = context.store.job_inputs(job.uuid)
        self._spec = specs.job_spec(
            job,
            context.store,
            context.settings,
            context.installation,
            job_token(job.uuid, context.secret),
            inputs if inputs.exists() else None,
            self._job_outputs(),
            is_pinned=job.build_id is not None and not self.runner.is_local and has_named_build(job),
        )
        self._artifact = job.build.artifact if job.build else None
        self._fault = volumes.start_fault(job.config, context.settings, job.runner)
        self._secrets = job_secrets.encrypted_values(job.config, job.project_id)

    def _job_outputs(self) -> list[JobOutputs]:
        """Return the outputs of earlier jobs, which `LinkInputs` has linked."""
        if not reads_outputs(self.job):
            return []
        store = self.tools.context.store
        paths = [
            (one.folder, store.job_outputs(self.job.uuid, one.folder)) for one in job_inputs.sources(self.job, store)
        ]
        return [JobOutputs(folder, str(path) if path.stat().st_size else None) for folder, path in paths]

    def run(self) -> str:
        if self._fault is not None:
            raise VolumeMissing(self._fault)
        context = self.tools.context
        context.store.make_job_folder(self.job.uuid)
        if self._secrets:
            try:
                secrets = job_secrets.decrypt_values(self._secrets, context.settings.data_dir)
            except SecretUnusable as error:
                return self._prevent(str(error))
            self._spec = dataclasses.replace(self._spec, secrets=secrets)
        return self.runner.start(self._spec, self._artifact)

    def _prevent(self, reason: str) -> str:
        """Return the handle of a job that an earlier call has started, with the values of that time.

        Otherwise raise StartFailed with the reason, once no start can take effect.
        """
        handle = prevent_start(self.runner, self.job.uuid)
        if handle is None:
            raise StartFailed(reason)
        return handle

    def on_success(self, handle: str) -> None:
        self.memory.handle = handle or self.memory.handle
        if not self.runner.is_local:  # the state of a local job is looked up in the same pass
            self.tools.backends.poll_soon()

    def on_failure(self, error: Exception) -> Write | None:
        if isinstance(error, VolumeMissing):  # a start before the last crash may have taken effect
            return refuse_write(self.job.id, str(error), self.tools.context.clock)
        if isinstance(error, ArtifactMissing):
            return self._rebuild(str(error))
        if isinstance(error, StartFailed):
            return start_failed_write(self.job.id, Exit(error.reason, message=str(error)))
        return super().on_failure(error)

    def on_patience_over(self, error: Exception) -> Write:
        return refuse_write(self.job.id, error_text(error), self.tools.context.clock)

    def _rebuild(self, reason: str) -> Write:
        context = self.tools.context
        self.memory.rebuilds += 1
        if self.memory.rebuilds > MAX_REBUILDS:
            message = f"Its build was repeated {MAX_REBUILDS} times, and is still not usable: {reason}."
            return refuse_write(self.job.id, message, context.clock)
        return rebuild_write(self.job.id, reason, context.settings.python)


class PreventStart(JobCall):
    """Find out whether a start took effect, for a job that is being stopped; prevent it if it did not."""

    verb = "prevent_start"
    subject = "Its stop"

    def run(self) -> str | None:
        return prevent_start(self.runner, self.job.uuid)

    def on_success(self, handle: str | None) -> Write | None:
        if handle is None:
            return unstarted_write(self.job.id)
        self.memory.handle = handle
        self.tools.backends.poll_soon()
        return None


class StopJob(JobCall):
    """Send TERM, or KILL if `force`, to all processes of a job."""

    verb = "stop"
    subject = "Its stop"

    _sent_at: str
    """Instant of the boot clock."""

    def __init__(
        self, job: Job, memory: JobMemory, runner: Runner, tools: JobTools, handle: str, *, force: bool
    ) -> None:
        super().__init__(job, memory, runner, tools)
        self.handle = handle
        self.force = force

    def submit(self) -> None:
        self._sent_at = self.tools.context.clock.mark()
        if self.force:
            self.memory.killed_at = self._now()
        super().submit()

    def run(self) -> None:
        self.runner.stop(self.handle, force=self.force)

    def on_success(self, value: None) -> Write | None:
        """Record TERM only now: if the engine dies before that, the next one sends TERM again."""
        self.tools.backends.poll_soon()
        return None if self.force else term_write(self.job.id, self._sent_at)


class FetchLog(JobCall):
    """Fetch the next piece of the log of a running job."""

    pool = "files"
    verb = "logs"
    subject = "The fetch of its log"

    def __init__(
        self,
        job: Job,
        memory: JobMemory,
        runner: RemoteRunner,
        tools: JobTools,
        handle: str,
        position: LogPosition,
    ) -> None:
        super().__init__(job, memory, runner, tools)
        self._runner = runner
        self.handle = handle
        self.position = position
        self._mask = _log_mask(job, memory)
        self._ended_at = 0.0

    def submit(self) -> None:
        self.memory.log.begin(self.position, self._now())
        super().submit()

    def run(self) -> LogPosition:
        context = self.tools.context
        path, limit = context.store.job_log(self.job.uuid), context.settings.log_limit
        position = fetch_log(self._runner, self.handle, path, self.position, limit, self._mask)
        self._ended_at = self._now()  # an empty result waits for the next pass
        return position

    def is_urgent(self, result: Result) -> bool:
        """Return False for a fetch that brought nothing: a thousand quiet jobs must not cause a pass for each fetch."""
        return self.memory.is_call_awaited or result.value != self.position

    def on_success(self, position: LogPosition) -> None:
        self.memory.log.end(position, self._ended_at)


class FinishJob(JobCall):
    """Do a part of a job's end: fetch the log, pack the outputs, sync, clear the backend. Ends in several calls.

    The exit of the job is committed, or is committed before the call is submitted.
    """

    verb = "finish"
    subject = "The fetch of its log and outputs"

    _slice: Slice

    def __init__(
        self,
        job: Job,
        memory: JobMemory,
        runner: Runner,
        tools: JobTools,
        handle: str | None,
        position: LogPosition,
        *,
        clears: bool,
    ) -> None:
        super().__init__(job, memory, runner, tools)
        self.handle = handle
        self.position = position
        self.clears = clears
        self.skipped = unfetched(job) if job.deleted_at is None else ("log", "outputs")

    def submit(self) -> None:
        """Begin the next slice of the end, unless the job has to wait for a lane."""
        next_slice = self.tools.lanes.next_slice(self.job, self._begin)
        if next_slice is not None:
            self.pool, self._slice = next_slice.pool, next_slice
            self.memory.log.position = self.position
            super().submit()

    def run(self) -> FinishProgress:
        return self._slice.run()

    def _begin(self, deadline: Deadline) -> FinishSteps:
        job, context = self.job, self.tools.context
        limits = context.settings.log_limit, context.settings.outputs_limit
        return finish(
            self.runner,
            job.uuid,
            str(job.id),
            self.handle,
            context.store,
            self.position,
            *limits,
            self.skipped,
            deadline,
            self.clears,
            _log_mask(job, self.memory),
        )

    def on_done(self, result: Result) -> Write | None:
        self.tools.lanes.record(self.job.id, result.value)
        if result.error is None and result.value.can_continue:
            self.memory.call = None
            self.memory.backoff.reason = None  # earlier failures may come again: their pauses and patience go on
            self._record_progress(result.value)
            return None
        return super().on_done(result)

    def on_success(self, progress: FinishProgress) -> None:
        self._record_progress(progress)

    def _record_progress(self, progress: FinishProgress) -> None:
        memory = self.memory
        memory.log.position = progress.position
        memory.is_finished, memory.dropped_outputs = progress.is_complete, progress.dropped_outputs
        memory.is_cleared = progress.is_complete and self.clears
        # Once the outputs are sealed, the log is not fetched again, and so not reported as missing again.
        missing_log = {what: reason for what, reason in memory.missing.items() if what == "log"}
        memory.missing = missing_log | progress.missing

    def on_failure(self, error: Exception) -> Write | None:
        if not isinstance(error, NotFetched):
            return super().on_failure(error)
        backoff = self.memory.backoff
        if backoff.fail(error.what, error.cause, self._now(), FETCH_PATIENCE):
            backoff.end_pause()
            return missing_note_write(self.job.id, error.what, str(error))
        self.explain_retry(error)
        return None


@dataclass(frozen=True)
class ClearJob:
    """Clear the backend of a job that has its terminal status. Later, if that is not possible at once."""

    job: Job
    handle: str
    tools: JobTools

    def submit(self) -> None:
        self.tools.clearing.add(self.job.runner, self.job.uuid, self.handle)


def prevent_start(runner: Runner, uuid: str) -> str | None:
    """Prevent any pending start of this job from taking effect. Return the handle if a start created something already.

    If the runner refuses, its inventory decides: a backend that answers has no start on its way. Raises
    RunnerUnavailable.
    """
    try:
        return runner.prevent_start(uuid)
    except Exception as error:
        if not is_refusal(error):
            raise
        log.warning(
            "the start of job %s could not be prevented; the inventory decides instead: %s", uuid, error_text(error)
        )
        return runner.inventory().get(uuid)


def _log_mask(job: Job, memory: JobMemory) -> LogMask | None:
    """Return the mask of the job's secrets; None if it has none."""
    if memory.log_mask is None and specs.secret_names(job.config):
        memory.log_mask = LogMask()
    return memory.log_mask


def _load_project(job: Job) -> None:
    """Load the project and user that a spec needs, faster than peewee would one by one."""
    (job.project,) = _PROJECT(job.project_id)
