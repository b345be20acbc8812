"""The process runner: jobs are processes of this machine, each under a keeper, and builds are virtualenvs.

What is known of a job stands in its folder `<data>/process/jobs/<uuid>` (see `keeper_server`). Its keeper holds a lock
on the file `attempt` there for as long as it lives, so that neither a reused process number nor a reboot can be taken
for a living keeper. A job whose keeper is dead and left no `exit.json` is lost: all that bears its mark is killed, and
only then is it said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

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
    marker_variable,
)
from runners.common.trees import open_to_owner, removing_tree, size_of
from runners.process import keeper_server
from runners.process.builds import Artifact, build
from runners.process.environment import account_of, inherited, temporary_folder
from runners.process.keeper import FORCE, TERM, stat_of
from runners.process.keeper_client import ServerLink
from runners.process.markers import kill_marked

CLEAN_PATIENCE = 20.0
"""Seconds that `clean` waits for what it kills."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"


FENCED = b"fenced"
"""What stands in an attempt that nobody may make any more."""


class ProcessRunner(Runner):
    """See the module, and `Runner` for the contract."""

    is_local = True

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self.boot_id = Path(settings.options.get("boot_id", BOOT_ID)).read_text().strip()
        self.folder = Path(settings.data_dir) / "process"
        self.node = socket.gethostname()
        self._link = ServerLink(self.folder, self._on_news)
        self._keepers = _Keepers(wake)
        self._started: set[str] = set()
        self._base: dict[str, str] | None = None

    # Verbs.

    def check(self) -> None:
        self._make_folder()
        self.probe()
        self._link.check()

    def probe(self) -> None:
        try:
            stat_of(os.getpid())
            os.close(os.pidfd_open(os.getpid()))
        except (OSError, AttributeError) as error:
            raise RunnerUnavailable(f"the process runner needs /proc and Linux 5.3 or newer: {error}") from error
        account_of(self.settings)

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        return build(spec, log, cancelled, self.settings)

    artifact_kind = "virtualenv"

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

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        reason = Artifact.read(artifact).fault()
        if reason is not None:
            raise ArtifactMissing(reason)
        self._make_folder()
        account = account_of(self.settings)
        request = {
            "uuid": spec.uuid,
            "folder": spec.folder,
            "cmd": spec.cmd,
            "env": self._environment(spec, artifact, account),
            "code": spec.upload,
            "inputs": spec.inputs,
            "tmp": temporary_folder(self.settings, spec.uuid),
            "grace": spec.grace,
            "log_limit": spec.log_limit,
            "account": account and {"user": account.pw_uid, "group": account.pw_gid, "groups": _groups(account)},
        }
        _check(spec)
        self._link.ask(request)
        return self._handle(spec.uuid)

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        states: dict[str, State] = {}
        for handle in handles:
            with contextlib.suppress(OSError, RunnerUnavailable):  # it cannot be told: left out
                state = self._state(handle)
                if state is not None:
                    states[handle] = state
        return states

    def stop(self, handle: str, force: bool) -> None:
        uuid, boot = self._read(handle)
        if boot != self.boot_id:
            return
        try:
            if not self._runs(uuid) or self._keepers.signal(uuid, FORCE if force else TERM) or not self._runs(uuid):
                return
        except OSError as error:
            raise RunnerUnavailable(f"the job's keeper cannot be looked up: {error.strerror}") from error
        raise RunnerUnavailable("the job's keeper cannot be found")

    def clean(self, handle: str) -> None:
        deque(self.clean_in_steps(handle), maxlen=0)

    def clean_in_steps(self, handle: str) -> Iterator[None]:
        uuid, _ = self._read(handle)
        try:
            yield from self._cleaning(uuid)
        except OSError as error:
            raise RunnerUnavailable(f"the job cannot be cleared away: {error.strerror}") from error

    def _cleaning(self, uuid: str) -> Iterator[None]:
        folder = self._job_folder(uuid)
        if not folder.exists():
            return
        self._end_processes(uuid)
        self._keepers.forget(uuid)
        self._started.discard(uuid)
        with contextlib.suppress(OSError):  # what others put there holds no job up
            yield from removing_tree(Path(temporary_folder(self.settings, uuid)))
        with contextlib.suppress(FileNotFoundError):  # another clean may be at it
            # `attempt` last: it is all that stops another start.
            for name in sorted(os.listdir(folder), key=lambda name: name == "attempt"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder / name)
            os.rmdir(folder)

    def _end_processes(self, uuid: str) -> None:
        deadline = time.monotonic() + CLEAN_PATIENCE
        while self._runs(uuid):  # a keeper that has written the end has nothing left but to leave
            if time.monotonic() > deadline:
                raise RunnerUnavailable("the job's processes do not end")
            self._keepers.signal(uuid, FORCE)
            time.sleep(0.01)
        if self._exit(uuid) is None:
            kill_marked(uuid)

    def prevent_start(self, uuid: str) -> str | None:
        """Makes the attempt itself: a start that still lies in the server's socket finds it, and runs nothing."""
        self._make_folder()
        folder = self._job_folder(uuid)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            return None if self._fence_attempt(uuid, folder / "attempt") else self._handle(uuid)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {folder} cannot be used: {error.strerror}") from error

    def _fence_attempt(self, uuid: str, attempt: Path) -> bool:
        """Fence the job, and return whether it is fenced: not if a keeper has or had it. Raises OSError; then another
        try can still fence it."""
        try:
            file = os.open(attempt, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(file, FENCED)
            except BlockingIOError:  # a start found the new file and was faster
                raise
            except OSError:  # left empty, it would look as if a keeper had emptied it
                os.unlink(attempt)
                raise
            finally:
                os.close(file)
        except (FileExistsError, BlockingIOError):
            return attempt.read_bytes() == FENCED or self._fence_unused(uuid)
        return True

    def _fence_unused(self, uuid: str) -> bool:
        """Fence the attempt of a start that was cut off before a keeper had the job. Return whether it was one."""
        folder = self._job_folder(uuid)
        attempt = keeper_server.unused_attempt(str(folder / "attempt"), self.boot_id)
        if attempt is None:
            return False
        try:
            os.pwrite(attempt, FENCED, 0)  # on a full disk it keeps the boot's id
            os.ftruncate(attempt, len(FENCED))
            for name in os.listdir(folder):
                if name != "attempt":
                    with contextlib.suppress(FileNotFoundError):  # a server may begin a start of its own
                        os.unlink(folder / name)
            return True
        finally:
            os.close(attempt)

    def inventory(self) -> dict[str, str]:
        try:
            names = os.listdir(self.folder / "jobs")
        except FileNotFoundError:
            return {}
        return {uuid: self._handle(uuid) for uuid in names if self._is_there(uuid)}

    def _is_there(self, uuid: str) -> bool:
        attempt = self._job_folder(uuid) / "attempt"
        with contextlib.suppress(FileNotFoundError):  # never made, or cleared away just now
            return attempt.read_bytes() != FENCED or time.time() - attempt.stat().st_mtime > FENCE_LIFETIME_SECONDS
        return False

    def close(self) -> None:
        self._link.close()
        self._keepers.close()

    # What is known of a job.

    def _on_news(self, news: str) -> None:
        """In a thread. A keeper that has written the end is on its way out: there is no need to wait for it."""
        self._keepers.forget(news)
        self.wake()

    def _state(self, handle: str) -> State | None:
        uuid, boot = self._read(handle)
        if boot != self.boot_id:  # nothing is left; but what ended before is known
            return self._ended(uuid)
        if not self._keepers.known_alive(uuid):
            if self._exit(uuid):
                return self._ended(uuid)
            if not self._lives(uuid):
                if self._exit(uuid) is None:  # its last act may have come in between
                    kill_marked(uuid)
                return self._ended(uuid)
        if uuid not in self._started:
            if not (self._job_folder(uuid) / "started").exists():
                return Pending()
            self._started.add(uuid)
        return Running(self.node, self._note(uuid))

    def _ended(self, uuid: str) -> Exited | Missing:
        """The end of a job that has no process any more. It may have left its own folder without permissions."""
        open_to_owner(Path(self.settings.data_dir) / "jobs" / uuid)
        end = self._exit(uuid)
        return Exited(end, self.node) if end else Missing()

    def _note(self, uuid: str) -> str | None:
        try:
            return str(json.loads((self._job_folder(uuid) / "note.json").read_bytes()))
        except (OSError, ValueError):
            return None

    def _runs(self, uuid: str) -> bool:
        """Whether the job has not ended, and its keeper is there to end it."""
        return self._exit(uuid) is None and self._lives(uuid)

    def _lives(self, uuid: str) -> bool:
        """Whether the job's keeper is alive; if so, it is watched from now on. Raises OSError if it cannot be told."""
        if self._keepers.known_alive(uuid):
            return True
        try:
            attempt = os.open(self._job_folder(uuid) / "attempt", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(attempt, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            self._keepers.watch(uuid, self._who(uuid))
            return True
        finally:
            os.close(attempt)

    def _who(self, uuid: str) -> tuple[int, int] | None:
        """(pid, start time) of the keeper, as it was written in this boot."""
        try:
            who = json.loads((self._job_folder(uuid) / "keeper.json").read_bytes())
            return (int(who["pid"]), int(who["start_time"])) if who["boot_id"] == self.boot_id else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _exit(self, uuid: str) -> Exit | None:
        try:
            return Exit.from_json(json.loads((self._job_folder(uuid) / "exit.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return Exit(Reason.LOST, message="What the keeper wrote of the end cannot be read")

    # Small change.

    def _environment(self, spec: JobSpec, artifact: str | None, account: pwd.struct_passwd | None) -> dict[str, str]:
        name, value = marker_variable(spec.uuid)
        own = {
            "PYTHONUNBUFFERED": "1",
            "POLYAXON_RUN_OUTPUTS_PATH": f"{spec.folder}/outputs",
            "POLYAXON_LOGS_PATH": f"{spec.folder}/log",
            name: value,
        }
        if self.settings.has_gpus:
            own |= {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.resources.gpus)),
            }
        if self._base is None:
            self._base = inherited(self.settings, account)
        base = self._base | {"TMPDIR": temporary_folder(self.settings, spec.uuid)}
        return Artifact.read(artifact).into(base) | dict(spec.env) | own

    def _handle(self, uuid: str) -> str:
        return json.dumps({"v": 1, "uuid": uuid, "boot": self.boot_id})

    @staticmethod
    def _read(handle: str) -> tuple[str, str]:
        """(the job's uuid, the boot that the handle was made in). Raises RunnerUnavailable for what no `start` of this
        version has made."""
        try:
            value = json.loads(handle)
            version, uuid, boot = value["v"], str(value["uuid"]), str(value["boot"])
        except (ValueError, KeyError, TypeError):
            version = uuid = boot = ""
        if version != 1 or not (len(uuid) == 32 and uuid.isalnum()):
            raise RunnerUnavailable("the job's handle cannot be read")
        return uuid, boot

    def _job_folder(self, uuid: str) -> Path:
        return self.folder / "jobs" / uuid

    def _make_folder(self) -> None:
        if self._base is not None:
            return  # a job was started before
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "jobs").mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {self.folder} cannot be used: {error.strerror}") from error


def _check(spec: JobSpec) -> None:
    """Raises StartFailed for a command or a variable that no kernel takes."""
    if not _is_fit(spec.cmd):
        raise StartFailed("the command has a character in it that no command can have")
    for name, text in spec.env.items():
        if not name or "=" in name or not _is_fit(name):
            raise StartFailed(f"there can be no variable with the name {name!r}")
        if not _is_fit(text):
            raise StartFailed(f"the variable `{name}` has a character in it that none can have")


def _is_fit(text: str) -> bool:
    try:
        return b"\0" not in text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


def _groups(account: pwd.struct_passwd) -> list[int]:
    return os.getgrouplist(account.pw_name, account.pw_gid)


class _Keepers:
    """The living keepers that are held: one process descriptor each, and one thread that waits for their ends."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._held: dict[str, int] = {}
        self._by_file: dict[int, str] = {}
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._ending, self._end = os.pipe2(os.O_CLOEXEC)
        self._epoll.register(self._ending, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def known_alive(self, uuid: str) -> bool:
        return uuid in self._held

    def watch(self, uuid: str, who: tuple[int, int] | None) -> None:
        """Hold the keeper, if it is the very process that `who` (pid, start time) means."""
        if who is None:
            return
        with self._lock:
            if uuid in self._held:
                return
            try:
                held = os.pidfd_open(who[0])
            except OSError:
                return
            try:
                is_it = stat_of(who[0])[2] == who[1]
            except OSError:
                is_it = False
            if not is_it:
                os.close(held)
                return
            self._held[uuid], self._by_file[held] = held, uuid
            self._epoll.register(held, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="keepers", daemon=True)
                self._thread.start()

    def signal(self, uuid: str, number: int) -> bool:
        """Signal the keeper; False if it is not held."""
        with self._lock:
            held = self._held.get(uuid)
            if held is None:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, number)
            return True

    def forget(self, uuid: str) -> None:
        with self._lock:
            held = self._held.pop(uuid, None)
            if held is not None:
                del self._by_file[held]
                self._epoll.unregister(held)
                os.close(held)

    def close(self) -> None:
        if self._thread is not None:
            os.write(self._end, b"!")
            self._thread.join()
            os.read(self._ending, 1)
            self._thread = None
        for uuid in list(self._held):
            self.forget(uuid)

    def _wait(self) -> None:
        while True:
            for file, _ in self._epoll.poll():
                if file == self._ending:
                    return
                uuid = self._by_file.get(file)
                if uuid is not None:
                    self.forget(uuid)
            self._wake()
