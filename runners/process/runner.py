"""The process runner: each job is a process tree of this machine under a keeper, and each build is a virtualenv.

The runner keeps its knowledge of a job in the folder `<data>/process/jobs/<uuid>`; `keeper_server` lists the files in
it. The keeper of a job holds a lock on the file `attempt` there for as long as it lives. So neither a reused pid nor a
reboot can make a dead keeper look alive.

A job whose keeper has died without writing `exit.json` is lost. The runner first kills all processes that carry the
job's marker variable, and only then reports the job as `Missing`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from runners.base import (
    FENCE_LIFETIME_SECONDS,
    ArtifactMissing,
    BuildSpec,
    Exit,
    Exited,
    JobSpec,
    Missing,
    Pending,
    Reason,
    Runner,
    RunnerSettings,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    inputs_variables,
    marker_variable,
    volume_variables,
)
from runners.common.trees import open_to_owner, removing_tree, size_of
from runners.process import attempts
from runners.process.builds import Artifact, build
from runners.process.environment import account_json, inherited_variables, job_account, temporary_folder
from runners.process.job_files import holding_keeper
from runners.process.keeper_client import KeeperClient
from runners.process.keeper_watch import KeeperWatch
from runners.process.linux import BOOT_ID_PATH, process_stat
from runners.process.markers import kill_marked
from runners.process.supervisor import FORCE, TERM

KILL_TIMEOUT_SECONDS = 20.0
"""Time that `clean` waits for the processes that it kills."""
LOOKS_PER_POLL = 10
"""Running jobs without news whose files a poll reads all the same. The next poll reads those of others."""
NEWS_SECONDS = 0.5
"""Time within which a keeper announces the start or end of its job."""
HANDLE_CACHE_SIZE = 4000
"""Parsed handles in memory, about 500 bytes each. Those of jobs that have ended stay until others take their place."""


class ProcessRunner(Runner):
    """Runs jobs as processes of this machine."""

    is_local = True
    artifact_kind = "virtualenv"

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self.boot_id = Path(settings.options.get("boot_id", BOOT_ID_PATH)).read_text().strip()
        self.folder = Path(settings.data_dir) / "process"
        self.node = socket.gethostname()
        self._client = KeeperClient(self.folder, self._on_news)
        self._keepers = KeeperWatch(wake)
        self._started: set[str] = set()
        """Uuids of the jobs whose command is known to have started."""
        self._running: dict[str, Running] = {}
        """Uuid → state of a job whose keeper is watched, until there is news of it."""
        self._begun_at: dict[str, float] = {}
        """Uuid → time at which this runner gave the job to a keeper, until there is news of it."""
        self._inherited: dict[str, str] | None = None

    def check(self) -> None:
        self._make_folder()
        self.probe()
        self._client.check()

    def probe(self) -> None:
        try:
            process_stat(os.getpid())
            os.close(os.pidfd_open(os.getpid()))
        except (OSError, AttributeError) as error:
            raise RunnerUnavailable(f"the process runner needs /proc and Linux 5.3 or newer: {error}") from error
        job_account(self.settings)

    def close(self) -> None:
        self._client.close()
        self._keepers.close()

    # Builds

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        return build(spec, log, cancelled, self.settings)

    def cached_artifacts(self) -> dict[str, int]:
        folders = (Path(self.settings.data_dir) / "builds").glob("*/env")
        return {str(folder): size_of(folder) for folder in folders}

    def artifact_name(self, artifact: str) -> str | None:
        return Artifact.read(artifact).env

    def remove_artifact(self, name: str) -> None:
        deque(self.remove_artifact_in_steps(name), maxlen=0)

    def remove_artifact_in_steps(self, name: str) -> Iterator[None]:
        try:
            yield from removing_tree(Path(name))
        except OSError as error:
            raise RunnerUnavailable(f"{name} cannot be removed: {error.strerror}") from error

    # Jobs

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        problem = Artifact.read(artifact).problem()
        if problem is not None:
            raise ArtifactMissing(problem)
        self._make_folder()
        account = job_account(self.settings)
        request = {
            "uuid": spec.uuid,
            "folder": spec.folder,
            "cmd": spec.cmd,
            "env": self._environment(spec, artifact, account),
            "code": spec.upload,
            "inputs": spec.inputs,
            "job_outputs": [(outputs.name, outputs.path) for outputs in spec.job_outputs],
            "tmp": temporary_folder(self.settings, spec.uuid),
            "workdir": spec.workdir,
            "volumes": {volume.name: volume.source for volume in spec.volumes},
            "grace": spec.grace,
            "log_limit": spec.log_limit,
            "masked": list(spec.secrets),
            "account": account_json(account),
        }
        _check_texts(spec)
        self._begun_at[spec.uuid] = time.monotonic()  # before the request, because news can be faster than its answer
        is_given = False
        try:
            is_given = self._client.start_job(request)
        finally:
            if not is_given:
                self._begun_at.pop(spec.uuid, None)
        return self._handle(spec.uuid)

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        states: dict[str, State] = {}
        for uuid in list(self._running)[:LOOKS_PER_POLL]:  # news can get lost
            self._running.pop(uuid, None)
        for handle in handles:
            with contextlib.suppress(OSError, RunnerUnavailable):  # its state cannot be determined: left out
                states[handle] = self._state(handle)
        return states

    def stop(self, handle: str, force: bool) -> None:
        uuid, boot_id = _parse_handle(handle)
        if boot_id != self.boot_id:
            return
        try:
            if not self._runs(uuid) or self._signal(uuid, FORCE if force else TERM) or not self._runs(uuid):
                return
        except OSError as error:
            raise RunnerUnavailable(f"the job's keeper cannot be looked up: {error.strerror}") from error
        raise RunnerUnavailable("the job's keeper cannot be found")

    def clean(self, handle: str) -> None:
        deque(self.clean_in_steps(handle), maxlen=0)

    def clean_in_steps(self, handle: str) -> Iterator[None]:
        uuid, _ = _parse_handle(handle)
        try:
            yield from self._clean(uuid)
        except OSError as error:
            raise RunnerUnavailable(f"the job's files cannot be removed: {error.strerror}") from error

    def _clean(self, uuid: str) -> Iterator[None]:
        folder = self._job_folder(uuid)
        if not folder.exists():
            return
        self._end_processes(uuid)
        self._keepers.remove(uuid)
        self._started.discard(uuid)
        self._running.pop(uuid, None)
        with contextlib.suppress(OSError):  # files of other accounts in there must not block the job
            yield from removing_tree(Path(temporary_folder(self.settings, uuid)))
        with contextlib.suppress(FileNotFoundError):  # another `clean` may be removing it too
            # `attempt` last, because nothing else prevents another start.
            for name in sorted(os.listdir(folder), key=lambda name: name == "attempt"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder / name)
            os.rmdir(folder)

    def _end_processes(self, uuid: str) -> None:
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while self._runs(uuid):  # a keeper that has written `exit.json` ends by itself
            if time.monotonic() > deadline:
                raise RunnerUnavailable("the job's processes do not end")
            self._signal(uuid, FORCE)
            time.sleep(0.01)
        if self._exit(uuid) is None:
            kill_marked(uuid)

    def _signal(self, uuid: str, number: int) -> bool:
        """Signal the keeper of a job. Return False if the job has ended, or if its keeper is not watched."""
        with holding_keeper(str(self._job_folder(uuid) / "exit.json")) as has_job:
            return has_job and self._keepers.signal(uuid, number)

    def prevent_start(self, uuid: str) -> str | None:
        """Prevent a start, as `Runner.prevent_start` does.

        Creates the attempt, so that a start that is still in the server's socket finds it and runs nothing.
        """
        self._make_folder()
        folder = self._job_folder(uuid)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            return None if attempts.fence(str(folder / "attempt"), self.boot_id) else self._handle(uuid)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {folder} cannot be used: {error.strerror}") from error

    def inventory(self) -> dict[str, str]:
        try:
            names = os.listdir(self.folder / "jobs")
        except FileNotFoundError:
            return {}
        return {uuid: self._handle(uuid) for uuid in names if self._is_listed(uuid)}

    def _is_listed(self, uuid: str) -> bool:
        folder = self._job_folder(uuid)
        attempt = folder / "attempt"
        with contextlib.suppress(FileNotFoundError):
            return not attempts.is_fenced(str(attempt)) or _age(attempt) > FENCE_LIFETIME_SECONDS
        with contextlib.suppress(FileNotFoundError):
            return not os.listdir(folder)  # a start has just begun here, or a `clean` died before its last step
        return False

    # State of a job

    def _on_news(self, event: str, uuid: str) -> None:
        """React to news of the keeper server. Called in a thread of its own.

        If a job has ended, its keeper is no longer watched, because it may have another job.
        """
        self._begun_at.pop(uuid, None)
        self._running.pop(uuid, None)
        if event == "ended":
            self._keepers.remove(uuid)
        self.wake()

    def _state(self, handle: str) -> State:
        uuid, boot_id = _parse_handle(handle)
        if boot_id != self.boot_id:  # no process is left, but the exit may have been recorded before the reboot
            return self._end(uuid, self._exit(uuid))
        running = self._running.get(uuid)
        if running is not None and self._keepers.is_watched(uuid):
            return running
        if self._has_just_begun(uuid):
            return Pending()
        end = self._exit(uuid)
        if end is not None:
            self._keepers.remove(uuid)
            return self._end(uuid, end)
        if not self._has_keeper(uuid):
            end = self._exit(uuid)  # the keeper may have written it in between
            if end is None:
                kill_marked(uuid)
            return self._end(uuid, end)
        if uuid not in self._started:
            if not (self._job_folder(uuid) / "started").exists():
                return Pending()
            self._started.add(uuid)
        state = Running(self.node, self._note(uuid))
        self._running[uuid] = state
        return state

    def _has_just_begun(self, uuid: str) -> bool:
        """Return whether the job was given to a keeper a moment ago, and there was no news of it.

        So a short job is never watched. If no news arrives, as after the death of the server, its files show its state.
        """
        begun_at = self._begun_at.get(uuid)
        if begun_at is None:
            return False
        if time.monotonic() - begun_at < NEWS_SECONDS:
            return True
        self._begun_at.pop(uuid, None)
        return False

    def _end(self, uuid: str, end: Exit | None) -> Exited | Missing:
        """Return the final state of a job that has no process any more, from its recorded exit."""
        open_to_owner(Path(self.settings.data_dir) / "jobs" / uuid)  # the job may have removed its permissions
        return Exited(end, self.node) if end else Missing()

    def _note(self, uuid: str) -> str | None:
        try:
            return str(json.loads((self._job_folder(uuid) / "note.json").read_bytes()))
        except (OSError, ValueError):
            return None

    def _runs(self, uuid: str) -> bool:
        """Return whether the job has not ended and has a living keeper. Raises OSError."""
        return self._exit(uuid) is None and self._has_keeper(uuid)

    def _has_keeper(self, uuid: str) -> bool:
        """Return whether the keeper of a job without an exit is alive. If so, watch it from now on. Raises OSError."""
        if self._keepers.is_watched(uuid):
            return True
        if not attempts.is_locked(str(self._job_folder(uuid) / "attempt")):
            return False
        identity = self._keeper_identity(uuid)
        if identity is not None:
            self._keepers.add(uuid, *identity)
        return True

    def _keeper_identity(self, uuid: str) -> tuple[int, int] | None:
        """Return (pid, start time) of the keeper, if they were recorded since the last reboot."""
        try:
            identity = json.loads((self._job_folder(uuid) / "keeper.json").read_bytes())
            return (int(identity["pid"]), int(identity["start_time"])) if identity["boot_id"] == self.boot_id else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _exit(self, uuid: str) -> Exit | None:
        try:
            return Exit.from_json(json.loads((self._job_folder(uuid) / "exit.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return Exit(Reason.LOST, message="The exit that the job's keeper recorded cannot be read")

    # Helpers

    def _environment(self, spec: JobSpec, artifact: str | None, account: pwd.struct_passwd | None) -> dict[str, str]:
        marker, value = marker_variable(spec.uuid)
        own = {
            "PYTHONUNBUFFERED": "1",
            "POLYAXON_RUN_OUTPUTS_PATH": f"{spec.folder}/outputs",
            "POLYAXON_LOGS_PATH": f"{spec.folder}/log",
            marker: value,
            **volume_variables({volume.name: volume.source for volume in spec.volumes}),
            **inputs_variables(f"{spec.folder}/inputs", [outputs.name for outputs in spec.job_outputs]),
        }
        if spec.hides_gpus:
            own |= {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.resources.gpus)),
            }
        if self._inherited is None:
            self._inherited = inherited_variables(self.settings, account)
        base = self._inherited | {"TMPDIR": temporary_folder(self.settings, spec.uuid)}
        return Artifact.read(artifact).apply_to(base, {**spec.env, **spec.secrets}) | own

    def _handle(self, uuid: str) -> str:
        return json.dumps({"v": 1, "uuid": uuid, "boot": self.boot_id})

    def _job_folder(self, uuid: str) -> Path:
        return self.folder / "jobs" / uuid

    def _make_folder(self) -> None:
        if self._inherited is not None:
            return  # a job was started before
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "jobs").mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {self.folder} cannot be used: {error.strerror}") from error


@functools.lru_cache(HANDLE_CACHE_SIZE)
def _parse_handle(handle: str) -> tuple[str, str]:
    """Return (the job's uuid, the boot id when the job was started).

    Raises RunnerUnavailable if no `start` of this version has created the handle.
    """
    try:
        value: Any = json.loads(handle)
        version, uuid, boot_id = value["v"], str(value["uuid"]), str(value["boot"])
    except (ValueError, KeyError, TypeError):
        version = uuid = boot_id = ""
    if version != 1 or not (len(uuid) == 32 and uuid.isalnum()):
        raise RunnerUnavailable("the job's handle cannot be read")
    return uuid, boot_id


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _check_texts(spec: JobSpec) -> None:
    """Raise StartFailed if the kernel cannot take the command or a variable."""
    if not _is_valid_text(spec.cmd):
        raise StartFailed("The command contains a NUL or an unencodable character")
    for name, text in spec.env.items():
        if not name or "=" in name or not _is_valid_text(name):
            raise StartFailed(f"{name!r} is not a valid name of an environment variable")
        if not _is_valid_text(text):
            raise StartFailed(f"The variable `{name}` contains a NUL or an unencodable character")


def _is_valid_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
