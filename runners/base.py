"""The runner contract: what a back end does to build, start, watch, stop and clear away a job.

A job's life at a runner, in the engine's order::

    build ──► start ──► poll … poll ──► [logs, outputs] ──► clean
                │         ▲                                   ▲
                └─ stop ──┴── stop(force) ────────────────────┘

* `build` is called for jobs that need one, once per build; after a crash of the engine it may be called again.
* `start` is called after the engine has committed that it is about to. After a crash it is called again with the same
  spec, and adopts what the first call made. A job is never run twice.
* `poll` is the truth. Whatever a runner tells through `wake` is a hint and may be lost.
* `clean` is called when the job's exit, log and outputs are safe. After it nothing of the job exists in the back end.

A runner is synchronous, knows no database and no HTTP framework, and keeps no memory that it cannot lose: the engine
may be killed between any two calls, and a new runner object takes up every handle of the old one.

**Concurrency.** The engine makes at most one call per job or build at a time, but calls for different jobs come from
several threads at once, and `poll` and `stop` of one job come while `build` of another goes on. Every remote call
inside a verb has a time limit.

**Errors.** A verb raises only the errors below; anything else is a defect of the runner. The engine treats a defect as
`RunnerRefused` and logs the traceback, once until a call succeeds.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

CONTAINER_HOST = "host.docker.internal"
"""The name by which a job's container reaches the machine of its Engine."""


class Reason(enum.StrEnum):
    """Why a job ended as it did. Closed: a reason that is not here does not leave a runner."""

    EXITED = "exited"
    """The command ended by itself; its exit code says how."""
    SIGNALLED = "signalled"
    """A signal ended the command; the exit code is 128 + the signal's number."""
    OOM = "oom"
    """The kernel killed the command for its memory, and the back end knows so."""
    TIMEOUT = "timeout"
    """The job ran longer than it may and was ended for it."""
    BUILD = "build"
    """A build step failed, or the build could not be made."""
    IMAGE = "image"
    """The image cannot be had."""
    START = "start"
    """The back end refused to start the job for a fault of the job's own."""
    EVICTED = "evicted"
    """The back end ended the job for its own reasons: its machine ran short or was cleared, or its place was needed."""
    LOST = "lost"
    """The job is gone and nobody saw how it ended. Never a success."""


@dataclass(frozen=True)
class Exit:
    """How a job ended. A success is `reason` EXITED with `code` 0, and nothing else."""

    reason: Reason
    code: int | None = None
    """Exit code 0–255; 128 + n where signal n ended the command; None when nobody saw it."""
    signal: int | None = None
    """Number of the signal that ended the command, where the back end tells it."""
    max_rss: int | None = None
    """Largest resident memory of one process of the job, in bytes."""
    cpu_seconds: float | None = None
    """User and system time of all waited-for processes of the job, in seconds."""
    stragglers: tuple[str, ...] = ()
    """Names of the processes that were still there when the command had ended, and were killed."""
    message: str | None = None
    """One sentence for people, or None."""
    step: int | None = None
    """The build step that failed, counted from 1, where it ran in the job's own place before the command."""
    begun: bool | None = None
    """Whether the command ever ran, where the reason leaves that open: a stop can come before it."""

    @property
    def has_begun(self) -> bool:
        """Whether the command ever ran."""
        if self.begun is not None:
            return self.begun
        return self.reason not in (Reason.BUILD, Reason.IMAGE, Reason.START)

    @property
    def succeeded(self) -> bool:
        return self.reason is Reason.EXITED and self.code == 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object of every field that says something; `from_json` is the inverse."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Exit:
        """Raises ValueError or TypeError for an object that `to_json` cannot have made."""
        known = {key: item for key, item in value.items() if key not in ("reason", "stragglers")}
        return cls(reason=Reason(value["reason"]), stragglers=tuple(value.get("stragglers", ())), **known)


@dataclass(frozen=True)
class Resources:
    """What a job asks for. None = not asked."""

    cpu: float | None = None
    """Cores."""
    memory: int | None = None
    """Bytes."""
    gpu: int | None = None
    """Whole devices."""
    pids: int | None = None
    """Processes and threads at a time."""
    gpus: tuple[int, ...] = ()
    """Indices of the devices that the job has for itself; as many as it asks for."""


@dataclass(frozen=True)
class BuildSpec:
    """What to build, and where."""

    uuid: str
    """32 hex digits, the build's identity."""
    installation: str
    """32 hex digits, the identity of this polyjob; everything that a runner labels carries it."""
    folder: str
    """The build's own folder on this machine, already made. The log is kept there by the engine."""
    key: str
    """64 hex digits, a hash of everything that the result depends on."""
    image: str | None
    steps: tuple[str, ...]
    """Shell text, run in order; the first that fails ends the build."""
    env: Mapping[str, str]
    """Variables that the steps and every job of this build see."""
    nocache: bool
    """Use nothing that an earlier build left, the back end's own layer cache included."""
    code: str | None = None
    """Path of the uploaded code on this machine, a tar.gz whose members were checked at upload."""
    files: tuple[str, ...] = ()
    """Members of `code` that the steps find in their working folder, and nothing else of it."""
    timeout: float = 3600.0
    """Seconds that the whole build may take."""
    log_limit: int = 1 << 30
    """Bytes of log that are kept; what comes after is counted and dropped, and the log's last line says so."""


@dataclass(frozen=True)
class Placement:
    """Where in a cluster a job is to run, and what of the cluster it finds there. Of no use to other back ends."""

    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    affinity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    secrets: tuple[str, ...] = ()
    """Names of secrets whose keys are variables of the job."""
    config_maps: tuple[str, ...] = ()
    """As `secrets`."""


@dataclass(frozen=True)
class JobSpec:
    """What to run, and where."""

    uuid: str
    """32 hex digits, the job's identity."""
    installation: str
    folder: str
    """The job's own folder on this machine, already made; see `Runner.local`."""
    cmd: str
    """Shell text, run by bash where there is one, else by sh."""
    env: Mapping[str, str]
    """Variables of the job. The runner adds its own allow-list, `PYTHONUNBUFFERED`, the `mark` of this job, and the
    paths that only it knows: `POLYAXON_RUN_OUTPUTS_PATH` and `POLYAXON_LOGS_PATH`."""
    image: str | None = None
    resources: Resources = Resources()
    """The limits, and what is requested where there is no limit."""
    requests: Resources = Resources()
    limits: Resources = Resources()
    """What `resources` is made of, for back ends that tell the two apart."""
    placement: Placement = Placement()
    timeout: float | None = None
    """Seconds from the first attempt to start the job until the engine stops it; None = as long as it likes."""
    code: str | None = None
    """Path of a tar.gz on this machine; unpacked into the job's working folder before the command starts."""
    is_pinned: bool = False
    """The job asked for the build that it runs on, and takes it as it is."""
    inputs: str | None = None
    """Path of a tar.gz on this machine whose members all lie below one folder; what is in that folder is unpacked into
    the job's outputs folder before the command starts."""
    grace: float = 10.0
    """Seconds between TERM and KILL."""
    log_limit: int = 1 << 30
    """Bytes of log that are kept; what comes after is counted and dropped, and the log's last line says so."""

    @property
    def name(self) -> str:
        """The fixed name of the job in the back end: what `start` adopts by."""
        return f"polyjob-{self.uuid}"


FENCE_SECONDS = 86_400.0
"""Seconds after which no start can be on its way any more."""


def mark(uuid: str) -> tuple[str, str]:
    """The environment variable that every process of a job or build carries: (name, value)."""
    return "POLYJOB_UUID", uuid


@dataclass(frozen=True)
class Pending:
    """The thing exists and its command has not started."""

    note: str | None = None
    """What it waits for, in the back end's words."""


@dataclass(frozen=True)
class Running:
    """The command has started and not ended."""

    node: str | None = None
    """Name of the machine it runs on."""
    note: str | None = None


@dataclass(frozen=True)
class Exited:
    """The command has ended, nothing of the job runs any more, and the last byte of its log can be read."""

    exit: Exit
    node: str | None = None


@dataclass(frozen=True)
class Missing:
    """A look-up of this one handle said that there is no such thing. How the job ended is not known."""


@dataclass(frozen=True)
class Unknown:
    """Nothing can be told of this one now, and it may be again: its back end is another than the one at hand, say."""

    reason: str
    """One sentence for people."""


State = Pending | Running | Exited | Missing | Unknown


class RunnerError(Exception):
    """Base of what a verb may raise. The text is one sentence for people, without secrets."""


class BuildFailed(RunnerError):
    """The build cannot succeed as it is. `step` counts from 1; both None when no step was to blame."""

    def __init__(self, message: str, step: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.code = code


class StartFailed(RunnerError):
    """The job cannot be started, and the fault is the job's own. Nothing of it is left in the back end."""

    def __init__(self, message: str, reason: Reason = Reason.START) -> None:
        super().__init__(message)
        self.reason = reason


class ArtifactMissing(RunnerError):
    """The artifact does not serve any more: it is not there, or a build of the same spec would make another one now.
    Nothing was started. The text says why, without a full stop."""


class HandleNotFound(RunnerError):
    """The handle names something that no longer exists."""


class RunnerUnavailable(RunnerError):
    """The back end cannot be reached, or cannot tell. Changes nothing but the time of the next try."""


class RunnerRefused(RunnerError):
    """The backend answered and refused this one call, and the runner cannot tell whose fault that is.

    The engine tries again with a growing pause, but only for a bounded time. Then the refusal counts as the job's own
    fault: a start ends the job with reason START and this text, and outputs or a log that cannot be fetched end with a
    note on the job. Never raised for what `runners.machine_faults` recognizes; that is `RunnerUnavailable`.
    """


@dataclass(frozen=True)
class RunnerSettings:
    """What a runner is told at its making; the same for every job."""

    data_dir: str
    """polyjob's data folder: absolute, and possibly longer than a socket's path may be."""
    installation: str
    job_env: tuple[str, ...] = ()
    """Names (or `PREFIX*`) of variables of the server's environment that jobs and build steps inherit."""
    job_user: str | None = None
    """Account that jobs and build steps run as, on a server started as root; None = the server's own."""
    has_gpus: bool = False
    """The server assigns GPUs to jobs."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings of one runner alone."""


class Runner(abc.ABC):
    """A back end. See the module for order, concurrency and errors; every verb says only what is its own.

    A handle is opaque to the engine: a short JSON text with a version in it, made by `start`, stored in the job's row
    and understood by every later version of the same runner.
    """

    local: ClassVar[bool] = False
    """The back end is this machine's own processes. `start` and `poll` then take milliseconds, and the engine calls
    them in its own thread; and the runner keeps the job's files in `JobSpec.folder` itself while it runs: `log` (one
    append-only file), `work/` (the working folder) and `outputs/`. Any other runner is a `RemoteRunner`."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        """Touches nothing. `wake` may be called from any thread, whenever a state may have changed."""
        self.settings = settings
        self.wake = wake

    @abc.abstractmethod
    def check(self) -> None:
        """Return when the back end can be reached and used; idempotent, at most a few seconds.

        Raises RunnerUnavailable with what is missing and how to get it.
        """

    @abc.abstractmethod
    def probe(self) -> None:
        """Return as `check` does, but create nothing, neither in the backend nor on this machine. For `polyjob doctor`
        where no server runs. Raises as `check`.
        """

    @abc.abstractmethod
    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        """Build and return the artifact: a short text that `start` of this runner understands, None if there is
        nothing to keep. Blocks, possibly for minutes.

        First ends whatever an earlier call for the same build left running, and drops its half-made result. Writes
        the build's output to `log` as it comes; `log` is unbuffered. Returns or raises soon after `cancelled()` turns
        true (asked at least once a second), with nothing of the build still running.

        Raises BuildFailed; a cancelled build raises it too.
        """

    @abc.abstractmethod
    def start(self, spec: JobSpec, artifact: str | None) -> str:
        """Start the job and return its handle, as soon as the thing exists; does not wait for the command.

        Idempotent by `spec.uuid`: where an earlier call got as far as making the thing, this one returns its handle,
        whatever state it is in, and runs nothing. Raises StartFailed, RunnerUnavailable, and ArtifactMissing unless
        `spec.is_pinned`.
        """

    @abc.abstractmethod
    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        """The state of each handle, in a number of remote calls that does not grow with their number.

        `Missing` is said only after a look-up of that one handle. A handle whose state cannot be told is left
        out, or is `Unknown`.
        `Exited` and `Missing` are final: they are said again by every later poll until `clean`. Raises
        RunnerUnavailable when nothing can be told.
        """

    @abc.abstractmethod
    def stop(self, handle: str, force: bool) -> None:
        """Send TERM, or KILL if `force`, to every process of the job; returns at once.

        Idempotent, and fine if the job has ended or is gone. The job has ended when `poll` says so. Raises
        RunnerUnavailable.
        """

    @abc.abstractmethod
    def clean(self, handle: str) -> None:
        """Remove all that the job holds in the back end, but no build and no file that `Runner.local` lists.

        Idempotent. Called only for a job that has ended or that is to be erased; kills what is left of it. When it
        returns, no process of the job exists. Raises RunnerUnavailable.
        """

    def clean_in_steps(self, handle: str) -> Iterator[None]:
        """Do what `clean` does in short steps, so that the caller can pause, for a runner that may have much to remove.

        If the iterator is closed before its end, a later call does the rest. Raises as `clean`.
        """
        self.clean(handle)
        yield from ()

    @abc.abstractmethod
    def prevent_start(self, uuid: str) -> str | None:
        """The handle of what a start of this job got as far as making; None where there is nothing, and from then on no
        start of it runs anything, not even one that is still on its way. Idempotent. Raises RunnerUnavailable,
        RunnerRefused.

        For a stop that comes between a start's doing and the engine's hearing of it.
        """

    artifact_kind: ClassVar[str] = "artifact"
    """What a build leaves in this back end, in a word for people."""

    def cached_artifacts(self) -> dict[str, int]:
        """What builds have left in the back end: name → bytes that its removal would free. Raises RunnerUnavailable."""
        return {}

    def artifact_name(self, artifact: str) -> str | None:
        """The name of what a build with this artifact has left; None where that is nothing. Pure."""
        return None

    def remove_artifact(self, name: str) -> None:  # noqa: B027 - there are no cached artifacts
        """Remove the cached artifact of this name. Idempotent.

        A later `start` that needs it raises ArtifactMissing. Raises RunnerUnavailable.
        """

    def remove_artifact_in_steps(self, name: str) -> Iterator[None]:
        """Do what `remove_artifact` does in short steps, so that the caller can pause between them.

        If the iterator is closed before its end, a later call does the rest. Raises as `remove_artifact`.
        """
        self.remove_artifact(name)
        yield from ()

    @abc.abstractmethod
    def inventory(self) -> dict[str, str]:
        """What this installation has in the back end and `clean` has not removed: job uuid → handle. A fence may be
        among it once it is older than `FENCE_SECONDS`.

        One look-up. Tells what nobody claims. Raises RunnerUnavailable.
        """

    def close(self) -> None:  # noqa: B027 - a runner that holds nothing has nothing to do
        """Let go of connections and threads; jobs go on. Idempotent."""


class RemoteRunner(Runner):
    """A runner whose jobs write elsewhere than into `JobSpec.folder`: its log and outputs have to be fetched."""

    max_log_pause: float = 0.0
    """Seconds that may pass between two looks at the log of a running job in which nothing new comes."""

    @abc.abstractmethod
    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        """The bytes that the job has written since `cursor` (None = from the start), at most about `limit`, and the
        cursor behind them. Empty bytes: nothing new now; after `Exited`: nothing will come.

        Valid until `clean`. Repeats nothing and loses nothing below the back end's own cap; where the back end has
        dropped bytes, one line in their place says so. Raises HandleNotFound, RunnerUnavailable.
        """

    @abc.abstractmethod
    def outputs(self, handle: str) -> Iterator[bytes]:
        """The job's outputs folder as an uncompressed tar stream with names relative to that folder, in pieces.

        Valid after `Exited`, until `clean`; repeatable. Nothing at all if there is no such folder; what the job put in
        its place, a link or a file, is a member `.`. Raises HandleNotFound,
        RunnerUnavailable, also while the stream is read.
        """
