"""The keeper: the parent of a job's processes. It writes the job's log and waits until its last process has ended.

Standard library only: the keeper server loads this module, and its forks become keepers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from typing import Any

from runners.common.durable import replace_file
from runners.process.job_files import ExitFile, PreparedFiles, make_folder, make_temporary_folder, unpack
from runners.process.log_pipe import LogPipe
from runners.process.spawn import Account, find_shell, spawn
from runners.process.supervisor import Supervisor

ANNOUNCE_AFTER_SECONDS = 0.02
"""The keeper records and announces that a job has started after this time. Of a shorter job, only the end is
recorded and announced."""
JOBS_PER_KEEPER = 100
"""After so many jobs a keeper ends, so that its memory does not grow without end."""


class Keeper:
    """Keeps one job after the other.

    Create it in the process that is to be the keeper. The constructor does everything that can be done before the job
    is known.
    """

    def __init__(self, notify: int, prepared: PreparedFiles) -> None:
        """`notify` is the descriptor of a pipe to the keeper server, for news about the job."""
        self.prepared = prepared
        self.log_pipe = LogPipe()
        self.supervisor = Supervisor(self.log_pipe)
        self._notify = notify
        self._job_count = 0

    def keep(self, spec: dict[str, Any], folder: str, attempt: int, exit_file: ExitFile) -> bool:
        """Run the job. Return when no process of it is left, and `exit_file` is written.

        `spec` is the request of `ProcessRunner.start`; `folder` is the runner's private folder for this job; `attempt`
        is the descriptor that holds the lock of the attempt. Return whether the keeper can keep another job. If not,
        the process must end.
        """
        self._job_count += 1
        self.supervisor.grace = spec["grace"]
        try:
            self.prepared.give("log", f"{spec['folder']}/log")
            self.log_pipe.open_log(f"{spec['folder']}/log", spec["log_limit"])
            self.log_pipe.mask([spec["env"][name] for name in spec["masked"]])
            started = self._start(spec)
        except (OSError, ValueError) as error:
            started = _start_failure(f"The job could not be started: {getattr(error, 'strerror', None) or error}")
        end = started if isinstance(started, dict) else self._wait(started, spec["uuid"], folder)
        self.log_pipe.finish()
        if self.log_pipe.message:
            end["message"] = ". ".join(text for text in (end.get("message"), self.log_pipe.message) if text)
        exit_file.write(end)
        can_continue = self._can_continue(spec, end) and self._become_idle(exit_file)
        is_announced = self._announce("ended", spec["uuid"], *([str(os.getpid())] if can_continue else []))
        exit_file.close()
        os.close(attempt)
        return can_continue and is_announced  # otherwise the server does not know that this keeper is idle

    def _can_continue(self, spec: dict[str, Any], end: dict[str, Any]) -> bool:
        """Return whether this process is as good for another job as a new one: it holds no secret, for example."""
        return (
            self._job_count < JOBS_PER_KEEPER
            and end["reason"] == "exited"
            and not end.keys() & {"stragglers", "message"}
            and not any(spec[name] for name in ("code", "inputs", "job_outputs", "masked"))
            and not self.supervisor.is_stopping
        )

    def _become_idle(self, exit_file: ExitFile) -> bool:
        """Forget the job. Return False if that is not possible."""
        try:
            exit_file.await_signals()
            self.log_pipe.close()
            self.log_pipe = LogPipe()
            self.supervisor.reset(self.log_pipe)
            os.chdir("/")
        except OSError:
            return False
        return True

    def _start(self, spec: dict[str, Any]) -> int | dict[str, Any]:
        """Create the job's files and start its command. Return its pid, or the exit of a job that did not start."""
        account = Account.of(spec)
        work, outputs = f"{spec['folder']}/work", f"{spec['folder']}/outputs"
        for name, path in (("work", work), ("outputs", outputs)):
            self.prepared.give(name, path)
            make_folder(path, account)
        make_temporary_folder(spec, account, self.prepared)
        error_message = _missing_volume(spec)
        if error_message:
            return _start_failure(error_message)
        if spec["code"] or spec["inputs"] or spec["job_outputs"]:
            error_message = unpack(spec, work, outputs, account, self.supervisor)
            if error_message and not self.supervisor.is_stopping:
                return _start_failure(error_message)
        if self.supervisor.is_stopping:
            signal_number = int(signal.SIGKILL if self.supervisor.is_forced else signal.SIGTERM)
            message = "It was stopped before its command began"
            return {"reason": "signalled", "code": 128 + signal_number, "signal": signal_number, "message": message}
        os.chdir(work)
        argv = [find_shell(spec["env"].get("PATH", "")), "-c", spec["cmd"]]
        try:
            return spawn(argv, spec["env"], self.log_pipe.write_end, account, spec["workdir"])
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if spec["workdir"] and error.filename == spec["workdir"]:
                return _start_failure(_unusable_folder(spec, reason))
            return _start_failure(f"The command cannot be started: {reason}")

    def _wait(self, command: int, uuid: str, folder: str) -> dict[str, Any]:
        """Wait until the command and all its descendants have ended. Return the job's exit."""
        os.close(self.log_pipe.write_end)
        self.supervisor.call_after(ANNOUNCE_AFTER_SECONDS, lambda: self._record_start(uuid, folder))
        self.supervisor.on_unkillable = lambda names: self._note_unkillable(uuid, folder, names)
        return _exit_of(self.supervisor.wait(command), self.supervisor)

    def _record_start(self, uuid: str, folder: str) -> None:
        with contextlib.suppress(OSError):  # on a full disk only the end of the job is recorded
            os.close(os.open(f"{folder}/started", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._announce("started", uuid)

    def _note_unkillable(self, uuid: str, folder: str, names: list[str]) -> None:
        """Make the running job show the processes that it waits for."""
        text = f"Cannot be killed, because it runs as another account: {', '.join(names)}. The job ends after it"
        with contextlib.suppress(OSError):
            replace_file(f"{folder}/note.json", json.dumps(text).encode(), sync=False)
        self._announce("started", uuid)

    def _announce(self, *words: str) -> bool:
        """Wake the engine. Return False if the keeper server cannot be reached.

        The words are an event, the uuid, and the pid of this keeper if it waits for another job now.
        """
        try:
            os.write(self._notify, f"{' '.join(words)}\n".encode())
        except OSError:  # the engine finds out by polling
            return False
        return True


def _start_failure(message: str) -> dict[str, Any]:
    return {"reason": "start", "message": message}


def _missing_volume(spec: dict[str, Any]) -> str | None:
    """Return why the job cannot have one of its volumes. Whether its account may enter the folder is not checked."""
    for name, folder in spec.get("volumes", {}).items():
        try:
            if stat.S_ISDIR(os.stat(folder).st_mode):
                continue
            reason = "Not a folder"
        except PermissionError:  # another account may be able to look at it
            continue
        except OSError as error:
            reason = os.strerror(error.errno or 0)
        return f"The volume `{name}` cannot be used: {folder}: {reason}"
    return None


def _unusable_folder(spec: dict[str, Any], reason: str) -> str:
    subject = f"The account `{spec['account']['name']}`" if spec["account"] else "The job"
    advice = "`polyjob run --clean` uses an empty one"
    return f"{subject} cannot enter the working folder `{spec['workdir']}`: {reason}; {advice}"


def _exit_of(status: int, supervisor: Supervisor) -> dict[str, Any]:
    """Return the exit of a job as JSON, from the wait status of its command; see `runners.base.Exit`."""
    signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    end: dict[str, Any] = {
        "reason": "exited" if signal_number is None else "signalled",
        "code": os.WEXITSTATUS(status) if signal_number is None else 128 + signal_number,
        "signal": signal_number,
        "max_rss": supervisor.max_rss,
        "cpu_seconds": round(supervisor.cpu_seconds, 6),
    }
    if supervisor.stragglers:
        end["stragglers"] = supervisor.stragglers
    if supervisor.unkillable:
        names = ", ".join(supervisor.unkillable)
        end["message"] = f"Ran as another account and could not be killed, which delayed the end of the job: {names}"
    return end
