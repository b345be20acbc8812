"""The runner contract: how a backend builds, starts, watches, stops and removes jobs.

The engine calls the methods of a runner in this order for each job::

    build ──► start ──► poll … poll ──► [logs, outputs] ──► clean
                │         ▲                                   ▲
                └─ stop ──┴── stop(force) ────────────────────┘

* `build` is called once per build, for jobs that need one. After a crash of the engine it may be called again.
* `start` is called after the engine has committed its intention to start the job. After a crash it is called again
  with the same spec and adopts whatever the first call created. A job never runs twice.
* `poll` is authoritative. A call of `wake` only tells the engine to poll soon, and may get lost.
* `clean` is called once the job's exit, log and outputs are stored; for a local job whose exit is known, soon after it
  is done. After it, nothing of the job is left in the backend.

A runner is synchronous. It knows neither the database nor the HTTP framework. It keeps nothing in memory that it
cannot afford to lose: the engine may be killed between any two calls, and a new runner object then continues with the
handles of the old one.

**Concurrency.** The engine makes at most one call per job or build at a time. Calls for different jobs come from
several threads at once, and a job can be polled and stopped while another call is building. Every remote call that a
method makes has a time limit.

**Errors.** A method raises only the errors defined below. Any other exception is a defect of the runner. The engine
treats it as `RunnerRefused`, and logs its traceback once until a call succeeds again.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

from runners.capabilities import Support
from runners.volumes import Volume

DOCKER_HOST_ALIAS = "host.docker.internal"
"""Host name by which a container reaches the machine of its Docker Engine."""


class Reason(enum.StrEnum):
    """Why a job ended. The list is closed: a runner uses no other reasons."""

    EXITED = "exited"
    """The command ended by itself; see its exit code."""
    SIGNALLED = "signalled"
    """A signal ended the command; the exit code is 128 + the signal's number."""
    OOM = "oom"
    """The kernel killed the command for its memory use, and the backend reports that."""
    TIMEOUT = "timeout"
    """The job exceeded its time limit and was ended."""
    BUILD = "build"
    """A build step failed, or the build could not be created."""
    IMAGE = "image"
    """The image could not be pulled."""
    START = "start"
    """The backend refused to start the job, because of a fault in the job itself."""
    EVICTED = "evicted"
    """The backend ended the job for reasons of its own, such as a full or drained machine, or a preemption."""
    LOST = "lost"
    """The job no longer exists, and its exit status could not be determined. Never a success."""


@dataclass(frozen=True)
class Exit:
    """The end of a job. Only `reason` EXITED with `code` 0 is a success.

    The field names are stored: they are the keys of `to_json`.
    """

    reason: Reason
    code: int | None = None
    """Exit code, 0–255; 128 + n if signal n ended the command; None if it is not known."""
    signal: int | None = None
    """Number of the signal that ended the command, if the backend reports it."""
    max_rss: int | None = None
    """Largest resident memory of any one process of the job, in bytes."""
    cpu_seconds: float | None = None
    """User and system time of all processes of the job that were waited for, in seconds."""
    stragglers: tuple[str, ...] = ()
    """Names of the processes that were still running when the command had ended, and were killed."""
    message: str | None = None
    """One sentence for the user, or None."""
    step: int | None = None
    """Number of the build step that failed, counted from 1."""
    begun: bool | None = None
    """Whether the command ever ran, if the reason does not tell: a job can be stopped before its command starts."""

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
        """Return a JSON object of all fields that are set; `from_json` is the inverse."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Exit:
        """Create an exit from the result of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        fields = {key: item for key, item in value.items() if key not in ("reason", "stragglers")}
        return cls(reason=Reason(value["reason"]), stragglers=tuple(value.get("stragglers", ())), **fields)


@dataclass(frozen=True)
class Resources:
    """Amounts of resources, as limits or as requests. None = not set."""

    cpu: float | None = None
    """Cores."""
    memory: int | None = None
    """Bytes."""
    gpu: int | None = None
    """Number of devices."""
    pids: int | None = None
    """Number of processes and threads at a time."""
    gpus: tuple[int, ...] = ()
    """Indices of the devices that are assigned to the job; as many as `gpu`."""


@dataclass(frozen=True)
class BuildSpec:
    """The description of a build."""

    uuid: str
    """Identity of the build, 32 hex digits."""
    installation: str
    """Identity of this polyjob installation, 32 hex digits; part of every label that a runner sets."""
    folder: str
    """Folder of the build on this machine. It exists already, and the engine keeps the log in it."""
    key: str
    """Hash of everything that the result depends on, 64 hex digits."""
    image: str | None
    build_steps: tuple[str, ...]
    """Shell commands, run in order. The first one that fails ends the build."""
    env: Mapping[str, str]
    """Environment variables for the build steps and for every job of this build."""
    nocache: bool
    """Reuse nothing from earlier builds, including the backend's own layer cache."""
    upload: str | None = None
    """Path of the upload on this machine: a .tar.gz file whose members were checked when it was received."""
    requirement_files: tuple[str, ...] = ()
    """Names of the members of `upload` that are in the working folder of the build steps. Nothing else is."""
    timeout: float = 3600.0
    """Time limit of the build in seconds."""
    log_limit: int = 1 << 30
    """Maximum size of the log in bytes. Anything beyond is dropped, and the last line gives the number of bytes."""


@dataclass(frozen=True)
class Placement:
    """The place of a job in a cluster, and the objects of the cluster that it uses. Other backends ignore it."""

    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    affinity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    secrets: tuple[str, ...] = ()
    """Names of secrets whose entries become environment variables of the job."""
    config_maps: tuple[str, ...] = ()
    """Names of config maps whose entries become environment variables of the job."""


@dataclass(frozen=True)
class JobOutputs:
    """The outputs of an earlier job that a job reads."""

    name: str
    """Name of their folder: the number of the earlier job."""
    path: str | None
    """Path of a .tar.gz file on this machine whose members all lie in one folder; None if there are no outputs."""


@dataclass(frozen=True)
class JobSpec:
    """The description of a job."""

    uuid: str
    """Identity of the job, 32 hex digits."""
    installation: str
    """Identity of this polyjob installation, 32 hex digits; part of every label that a runner sets."""
    folder: str
    """Folder of the job on this machine. It exists already; see `Runner.is_local`."""
    cmd: str
    """Shell command, run by bash if there is one, else by sh."""
    env: Mapping[str, str]
    """Environment variables of the job. The runner adds the inherited variables that it allows, `PYTHONUNBUFFERED`, the
    `marker_variable` of this job, `inputs_variables`, and the paths that only it knows: `POLYAXON_RUN_OUTPUTS_PATH`,
    `POLYAXON_LOGS_PATH` and those of `volumes`."""
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Variables whose values are secret. They take precedence over `env`. The runner passes them to the command and to
    nothing else: not to a build step, an argument, a label, a log or a message. A local runner masks them in the log
    (see `runners.common.masking`); for a `RemoteRunner`, the engine does."""
    image: str | None = None
    resources: Resources = Resources()
    """For each resource the limit, or the request if no limit is set."""
    requests: Resources = Resources()
    """Requests only, for backends that distinguish them from limits."""
    limits: Resources = Resources()
    """Limits only, for backends that distinguish them from requests."""
    hides_gpus: bool = False
    """Whether the job may see only the GPUs in `resources.gpus`, also if there are none."""
    placement: Placement = Placement()
    workdir: str | None = None
    """Absolute path of the folder in which the command starts, entered as the job's account. None stands for the folder
    with the upload. Set only for a runner that honours `environment.workdir`."""
    timeout: float | None = None
    """Seconds from the first attempt to start the job until the engine stops it; None = no limit."""
    upload: str | None = None
    """Path of a .tar.gz file on this machine, unpacked into the job's working folder before the command starts."""
    is_pinned: bool = False
    """The user chose the build of this job, so the job runs on its artifact even if that is stale."""
    inputs: str | None = None
    """Path of a .tar.gz file on this machine whose members all lie in one folder. The contents of that folder are
    unpacked into the job's outputs folder before the command starts."""
    volumes: tuple[Volume, ...] = ()
    """Volumes that the job can use, and no others. The runner adds `volume_variables` with their paths. Set only for a
    runner that honours `environment.data_refs` and `environment.persistence.data`."""
    job_outputs: tuple[JobOutputs, ...] = ()
    """Outputs of earlier jobs. Each is unpacked into a folder of its name before the command starts, without the one
    folder in the tarball. All are in one folder; `inputs_variables` has their paths. Set only for a runner that honours
    `environment.outputs.jobs`."""
    grace: float = 10.0
    """Seconds between TERM and KILL."""
    log_limit: int = 1 << 30
    """Maximum size of the log in bytes. Anything beyond is dropped, and the last line gives the number of bytes."""

    @property
    def name(self) -> str:
        """The fixed name of the job in the backend, by which a repeated `start` finds it."""
        return f"polyjob-{self.uuid}"


FENCE_LIFETIME_SECONDS = 86_400.0
"""Lifetime of a fence: what `prevent_start` leaves in the backend to block a pending start.

No start is still pending after that time.
"""


def marker_variable(uuid: str) -> tuple[str, str]:
    """Return the environment variable that marks every process of a job or build, as (name, value)."""
    return "POLYJOB_UUID", uuid


def volume_variables(paths: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables in which a job finds its volumes. `paths` are by the names of the volumes."""
    return dict.fromkeys(("POLYAXON_DATA_PATHS", "POLYAXON_RUN_DATA_PATHS"), json.dumps(paths)) if paths else {}


def inputs_variables(folder: str, names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables of a job that reads outputs of earlier jobs, which are in `folder`."""
    paths = [f"{folder}/{name}" for name in names]
    references = {"jobs": paths, "experiments": []}
    return {"POLYJOB_INPUTS_PATH": folder, "POLYAXON_REFS_OUTPUTS_PATHS": json.dumps(references)} if paths else {}


@dataclass(frozen=True)
class Pending:
    """The job exists in the backend, and its command has not started."""

    note: str | None = None
    """The reason for waiting, in the backend's words."""


@dataclass(frozen=True)
class Running:
    """The command has started and has not ended."""

    node: str | None = None
    """Name of the machine that the job runs on."""
    note: str | None = None
    """A message for the user about the running job."""


@dataclass(frozen=True)
class Exited:
    """The command has ended, no process of the job is left, and its complete log can be read."""

    exit: Exit
    node: str | None = None
    """Name of the machine that the job ran on."""


@dataclass(frozen=True)
class Missing:
    """The backend was asked for this handle and has no such job. How the job ended is not known."""


@dataclass(frozen=True)
class Unknown:
    """The state cannot be determined now, but may be later. For example, another backend is configured at present."""

    reason: str
    """One sentence for the user."""


State = Pending | Running | Exited | Missing | Unknown


class RunnerError(Exception):
    """Base class of the errors that a runner raises. The text is one sentence for the user, without secrets."""


class BuildFailed(RunnerError):
    """The build cannot succeed unless something is changed.

    `build_step` is the number of the build step that failed, counted from 1, and `exit_code` is its exit code. Both are
    None if no build step caused the failure.
    """

    def __init__(self, message: str, build_step: int | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.build_step = build_step
        self.exit_code = exit_code


class StartFailed(RunnerError):
    """The job cannot be started, because of a fault in the job itself. Nothing of it is left in the backend."""

    def __init__(self, message: str, reason: Reason = Reason.START) -> None:
        super().__init__(message)
        self.reason = reason


class ArtifactMissing(RunnerError):
    """The artifact is missing or stale; build it again. Nothing was started.

    An artifact is stale if a build of the same spec would produce a different one now. The text gives the cause,
    without a full stop.
    """


BASE_CHANGED = "the base image {} has changed"
"""The text of an ArtifactMissing whose base image is another one now. The reason of the next build is found by it."""


class HandleNotFound(RunnerError):
    """The job of this handle no longer exists in the backend."""


class RunnerUnavailable(RunnerError):
    """The backend cannot be reached or cannot answer. The engine only tries the call again later."""


class RunnerRefused(RunnerError):
    """The backend answered and refused this one call, and the runner cannot tell whose fault that is.

    The engine tries again with a growing pause, but only for a bounded time. Then the refusal counts as the job's own
    fault: a start ends the job with reason START and this text, and outputs or a log that cannot be fetched end with a
    note on the job. Never raised for what `runners.machine_faults` recognizes; that is `RunnerUnavailable`.
    """


@dataclass(frozen=True)
class RunnerSettings:
    """The settings of a runner, the same for every job."""

    data_dir: str
    """Absolute path of polyjob's data folder. It may be longer than the path of a Unix socket can be."""
    installation: str
    """Identity of this polyjob installation, 32 hex digits."""
    job_env: tuple[str, ...] = ()
    """Names (or `PREFIX*`) of variables of the server's environment that jobs and build steps inherit."""
    job_user: str | None = None
    """Account that jobs and build steps run as, if the server runs as root; None = the server's own account."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings that only one runner uses. A runner of another package called `slurm` gets each variable
    `POLYJOB_SLURM_<OPTION>` of the server here, by the name of its option in small letters."""


class Runner(abc.ABC):
    """A backend that runs jobs. The module docstring describes the order of calls, concurrency and errors.

    A handle identifies a job in the backend. `start` creates it, and the engine stores it in the job's row without
    looking into it. It is a short JSON text that contains a version, and every later version of the runner
    understands it.
    """

    is_local: ClassVar[bool] = False
    """Whether jobs are processes of this machine.

    If so, `start` and `poll` take milliseconds, and the engine calls them in its own thread. While a job runs, its
    files are written directly into `JobSpec.folder`: `log` (one append-only file), `work/` (the working folder) and
    `outputs/`. Every other runner is a `RemoteRunner`.
    """

    capabilities: ClassVar[Mapping[str, Support]] = {}
    """Path of a part of a config → support, for the parts that differ from `runners.capabilities.BASIC`.

    Only for runners of other packages. Those of polyjob have their tables in `runners.capabilities`, so that the
    web server can read them without the SDK of the backend.
    """

    required_parts: ClassVar[Mapping[str, str]] = {}
    """Path of a part that every config for this runner must have → the reason. Only for runners of other
    packages."""

    assigns_gpus: ClassVar[bool] = False
    """Whether the backend itself assigns GPUs to the jobs that ask for them. Only for runners of other
    packages."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        """Store the arguments; no backend, file or thread is touched.

        The runner calls `wake`, from any thread, when the state of a job may have changed.
        """
        self.settings = settings
        self.wake = wake

    @abc.abstractmethod
    def check(self) -> None:
        """Return if the backend can be reached and used. Idempotent; takes at most a few seconds.

        May create in the backend what the runner needs there. Raises RunnerUnavailable with what is missing and how to
        get it.
        """

    @abc.abstractmethod
    def probe(self) -> None:
        """Do the same as `check`, but create nothing, neither in the backend nor on this machine.

        `polyjob doctor` uses it when no server is running. Raises like `check`.
        """

    @abc.abstractmethod
    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        """Build and return the artifact, or None if there is nothing to keep. Blocks, possibly for minutes.

        The artifact is a short text that `start` of this runner understands.

        * Ends whatever an earlier call for the same build left running, and discards its partial result.
        * Writes the output of the build to `log` as it arrives; `log` is unbuffered.
        * Calls `cancelled` at least once a second. Once that returns true, raises BuildFailed soon, with nothing of the
          build still running.

        Raises BuildFailed, RunnerUnavailable and RunnerRefused.
        """

    @abc.abstractmethod
    def start(self, spec: JobSpec, artifact: str | None) -> str:
        """Start the job and return its handle. Returns once the job exists in the backend, before its command starts.

        Idempotent by `spec.uuid`: if an earlier call created the job, this call returns its handle, whatever state the
        job is in, and runs nothing.

        Raises StartFailed, RunnerUnavailable, RunnerRefused, and, unless `spec.is_pinned`, ArtifactMissing.
        """

    @abc.abstractmethod
    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        """Return the state of each handle. The number of remote calls does not grow with the number of handles.

        * `Missing` is returned only after the backend was asked for that one handle.
        * A handle whose state cannot be determined is left out, or is `Unknown`.
        * `Exited` and `Missing` are final: every later poll returns them again, until `clean`.

        Raises RunnerUnavailable if no state at all can be determined.
        """

    @abc.abstractmethod
    def stop(self, handle: str, force: bool) -> None:
        """Send TERM, or KILL if `force`, to every process of the job, and return at once.

        Idempotent. Does nothing for a job that has ended or no longer exists. `poll` reports when the job has ended.
        Raises RunnerUnavailable and RunnerRefused.
        """

    @abc.abstractmethod
    def clean(self, handle: str) -> None:
        """Remove everything that the job has in the backend, except its build and the files that `is_local` lists.

        Called for a job that has ended or that is being deleted; any process that is left is killed. No process of the
        job exists when this returns. Idempotent. Raises RunnerUnavailable and RunnerRefused.
        """

    def clean_in_steps(self, handle: str) -> Iterator[None]:
        """Do the same as `clean` in short steps, so that the caller can pause between them.

        Overridden by runners that may have many files to remove. If the iterator is closed early, a later call does the
        rest. Raises like `clean`.
        """
        self.clean(handle)
        yield from ()

    @abc.abstractmethod
    def prevent_start(self, uuid: str) -> str | None:
        """Prevent any pending `start` of this job from taking effect.

        Return the handle if a start has already created the job. Otherwise return None, and from then on no start of
        the job runs anything, not even a request that is still on its way to the backend.

        The engine calls this to stop a job whose `start` was cut off before it could return. Idempotent. Raises
        RunnerUnavailable and RunnerRefused.
        """

    artifact_kind: ClassVar[str] = "artifact"
    """The word for what a build produces in this backend, in messages to the user."""

    def cached_artifacts(self) -> dict[str, int]:
        """Return the artifacts in the backend: name → bytes that removing it would free. Raises RunnerUnavailable."""
        return {}

    def artifact_name(self, artifact: str) -> str | None:
        """Return the name that `cached_artifacts` uses for an artifact, or None if it has none. A pure function."""
        return None

    def remove_artifact(self, name: str) -> None:  # noqa: B027 - there are no cached artifacts
        """Remove the artifact with this name. Idempotent.

        A later `start` that needs it raises ArtifactMissing. Raises RunnerUnavailable.
        """

    def remove_artifact_in_steps(self, name: str) -> Iterator[None]:
        """Do the same as `remove_artifact` in short steps, so that the caller can pause between them.

        If the iterator is closed early, a later call does the rest. Raises like `remove_artifact`.
        """
        self.remove_artifact(name)
        yield from ()

    @abc.abstractmethod
    def inventory(self) -> dict[str, str]:
        """Return all jobs of this installation in the backend that `clean` has not removed: job uuid → handle.

        The engine uses it to find orphans. It may include fences that are older than `FENCE_LIFETIME_SECONDS`. Makes
        one remote call. Raises RunnerUnavailable.
        """

    def close(self) -> None:  # noqa: B027 - a runner without connections and threads has nothing to do
        """Release connections and threads. Jobs continue to run. Idempotent."""


class RemoteRunner(Runner):
    """A runner whose jobs do not write into `JobSpec.folder`, so that their logs and outputs must be fetched."""

    max_log_pause: float = 0.0
    """Longest pause, in seconds, between two fetches of the log of a running job that writes nothing."""

    @abc.abstractmethod
    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        """Return the log from `cursor` on (None = from the start), and the cursor for the next call.

        Returns about `limit` bytes at most. Empty bytes mean that nothing new has been written; after `Exited`, they
        mean that the log is complete. No byte is repeated. No byte is lost, except where the backend's own limit drops
        some; one line in their place says so.

        Valid until `clean`. Raises HandleNotFound, RunnerUnavailable and RunnerRefused.
        """

    def timed_logs(
        self, handle: str, cursor: str | None, limit: int
    ) -> tuple[bytes, str | None, Sequence[tuple[int, int]]]:
        """Do the same as `logs`, and return in addition when the bytes were written, as far as the backend knows.

        Each time is (offset in the returned bytes, milliseconds since 1970), and holds up to the next offset. Bytes
        without a time count as written when they are fetched.
        """
        return (*self.logs(handle, cursor, limit), ())

    def secret_values(self, handle: str) -> Sequence[str]:
        """Return the values of `JobSpec.secrets` with which the job was created, so that its log can be masked.

        The backend is asked, because the values may have been changed or deleted in the server since. The order may
        differ. Valid until `clean`. Raises HandleNotFound, RunnerUnavailable and RunnerRefused.

        Overridden by runners that honour `environment.secret_refs`.
        """
        return ()

    @abc.abstractmethod
    def outputs(self, handle: str) -> Iterator[bytes]:
        """Yield the job's outputs folder as an uncompressed tar stream, with names relative to that folder.

        Yields nothing if there is no such folder. If the job replaced the folder by a link or a file, that is a member
        named `.`.

        Valid after `Exited` until `clean`, and repeatable. Raises HandleNotFound, RunnerUnavailable and RunnerRefused,
        also while the stream is being read.
        """
