"""The keeper: the one parent of a job's processes, which writes its log and sees it to the last process's end.

Standard library only, and little of it: this file is loaded by the keeper server, whose forks become keepers, and is
run on its own as `keeper.py supervise …` around each build step.

A keeper is the subreaper of all that its command starts: whoever forks twice or makes a session of its own comes back
to it. It holds the only end of the pipe that they write to, so that nobody can cut or overwrite the log. It ends when
the kernel says that no child is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

TERM, FORCE = signal.SIGTERM, signal.SIGUSR1
"""What a keeper is told: end the job with its grace, or at once."""
SETTLE = 0.2
"""Seconds that what is left gets to end by itself once the command has ended, before it counts as a straggler."""
STARTED_AFTER = 0.02
"""Seconds of running after which the start is announced; shorter jobs announce only their end."""
LONGEST_WAIT_MS = 3_600_000
"""Milliseconds that one wait lasts at most; `poll` takes less than 2**31."""
KILL_AGAIN_MS = 10
REFUSED_PAUSE_MS = 1000
"""Milliseconds until the next KILL where a process cannot be killed by this account."""
OOM_SCORE = 500
"""`oom_score_adj` of a job: the kernel kills a job before the server when memory runs out."""
PIPE_SIZE = 1 << 20
PIECE = 1 << 18
BLOCK = 1 << 16
"""Bytes of zeros that become a hole when a file is unpacked."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def write_by_rename(path: str, content: object) -> None:
    """Have `path` appear with `content` as JSON, whole. Not synced: what a power cut takes counts as lost."""
    part = f"{path}.part"
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, json.dumps(content).encode())
    finally:
        os.close(file)
    os.rename(part, path)


class Ending:
    """The file `exit.json`, its room on the disk taken at the start: a job may fill the disk, and its end be written
    all the same."""

    ROOM = 4096

    def __init__(self, path: str) -> None:
        """Take the room. Raises OSError where the disk has none."""
        self._path = path
        self.file = os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self.file, 0, self.ROOM)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                os.close(self.file)
                raise  # another file system cannot do it; then the disk has to have room at the end

    @classmethod
    def of(cls, path: str, file: int) -> Ending:
        """The ending whose room was taken before, by the file that was opened for it."""
        ending = cls.__new__(cls)
        ending._path, ending.file = path, file
        return ending

    def write(self, end: dict[str, Any]) -> None:
        """Have the file appear with `end`, shortened where it would not fit."""
        data = json.dumps(end).encode()
        if len(data) > self.ROOM:
            data = json.dumps(end | {"stragglers": [], "message": str(end.get("message", ""))[:500]}).encode()
        os.pwrite(self.file, data, 0)
        os.ftruncate(self.file, len(data))
        os.rename(f"{self._path}.part", self._path)


def stat_of(pid: int | str) -> tuple[str, int, int]:
    """(state, parent, start time in ticks since boot) of a process. Raises OSError if there is none."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


class Output:
    """The pipe that a command writes to, and the file that it is copied into; the command is never made to wait."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reading, False)
        with contextlib.suppress(OSError):  # an account has its share of large pipes; a small one does as well
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._file = -1
        self._left = self._limit = 0
        self._buffer = memoryview(mmap.mmap(-1, PIECE))
        self.dropped = 0
        self.fault: str | None = None
        self.message: str | None = None

    def open(self, path: str, limit: int) -> None:
        """Say which file it is, and how many bytes of it are kept."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._left = self._limit = limit

    def copy(self, pieces: int = 16) -> bool:
        """Copy what is there, a few pieces at most; False at the end, when nobody can write any more."""
        for _ in range(pieces):
            try:
                count = os.readv(self.reading, [self._buffer])
            except BlockingIOError:
                return True
            if not count:
                return False
            self._keep(self._buffer[:count])
        return True

    def drain(self) -> None:
        """Copy all that is there now, and nothing that a stranger who holds the pipe may add meanwhile."""
        there = bytearray(4)
        fcntl.ioctl(self.reading, termios.FIONREAD, there)
        left = int.from_bytes(there, sys.byteorder)
        while left > 0:
            try:
                count = os.readv(self.reading, [self._buffer[: min(left, PIECE)]])
            except BlockingIOError:
                return
            if not count:
                return
            left -= count
            self._keep(self._buffer[:count])

    def end(self) -> None:
        """Say in the last line what was dropped, or in `message` where the disk does not take even that."""
        if not self.dropped:
            return
        why = self.fault or f"the limit is {self._limit} bytes"
        line = f"polyjob dropped {self.dropped} bytes of this log here: {why}"
        try:
            os.write(self._file, f"\n{line}\n".encode())
        except OSError:
            self.message = line.replace("this log here", "the log")

    def _keep(self, data: memoryview) -> None:
        written = 0
        if self.fault is None:
            kept = min(len(data), self._left)
            try:
                while written < kept:
                    written += os.write(self._file, data[written:kept])
            except OSError as error:
                self.fault = f"the disk did not take it ({os.strerror(error.errno or 0)})"
        self._left -= written
        self.dropped += len(data) - written


class Supervisor:
    """Waits for one command and all that comes of it. Made in the process that is to be their parent, once."""

    def __init__(self, output: Output | None = None, lifeline: int | None = None) -> None:
        self.grace = 0.0
        """Seconds between TERM and KILL."""
        self.stopped = False
        """Somebody has asked for the end."""
        self.forced = False
        """It is to be at once."""
        self.stragglers: list[str] = []
        """Names of the processes that the command left behind and that received TERM."""
        self.refused: list[str] = []
        """Names of the processes that this account may not signal."""
        self.on_refused: Callable[[list[str]], None] = lambda names: None
        """Called with `refused` whenever it has grown."""
        self.max_rss, self.cpu_seconds = 0, 0.0
        """Largest resident memory in bytes, and time, of all that the latest wait has reaped."""
        self._output = output
        self._lifeline = lifeline
        self._term_sent = False
        self._left_sent = False
        """What the command left behind has had its TERM."""
        self._warned: set[tuple[int, int]] = set()
        """(pid, start time) of the processes that have had a TERM."""
        self._kill_at: float | None = None
        self._settled_at: float | None = None
        self._announce: Callable[[], None] | None = None
        self._announce_at: float | None = None
        self._reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(TERM, self._on_term)
        signal.signal(FORCE, self._on_force)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (TERM, FORCE, signal.SIGCHLD))
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def announce(self, call: Callable[[], None], after: float) -> None:
        """Have `call` made once the wait has lasted `after` seconds."""
        self._announce, self._announce_at = call, _now() + after

    def wait(self, command: int) -> int:
        """Wait until `command` and all that came of it are gone; the command's wait status. May be called again."""
        self.max_rss, self.cpu_seconds = 0, 0.0
        self._settled_at = None
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        if self._output is not None:
            poll.register(self._output.reading, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        status: int | None = None
        while True:
            ended, any_left = self._reap(command)
            status = ended if ended is not None else status
            if not any_left:
                break
            for file, _ in poll.poll(self._due(status is not None)):
                if file == self._reading:
                    _empty(file)
                elif file == self._lifeline:
                    if not os.read(file, 4096):
                        poll.unregister(file)
                        self.stopped = self.forced = True
                elif self._output is not None and not self._output.copy():
                    poll.unregister(file)
        assert status is not None
        return status

    def _reap(self, command: int) -> tuple[int | None, bool]:
        """(the command's wait status if it has ended just now, whether any child is left)."""
        status = None
        while True:
            try:
                pid, ended, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return status, False
            if pid == 0:
                return status, True
            self.max_rss = max(self.max_rss, usage.ru_maxrss * 1024)
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            if pid == command:
                status = ended

    def _due(self, command_ended: bool) -> float | None:
        """Do what is due, and return the milliseconds until something may be due again."""
        now = _now()
        if self._announce_at is not None and now >= self._announce_at and self._announce is not None:
            self._announce_at = None
            self._announce()
        if self._kill_at is not None and now >= self._kill_at:
            self.forced = True
        if self.forced:
            refused = _kill_all()
            self._note_refused(refused)
            return REFUSED_PAUSE_MS if refused else KILL_AGAIN_MS
        if self.stopped and not self._term_sent:
            self._send_term(now)
        elif command_ended and not self._left_sent:
            if self._settled_at is None:
                self._settled_at = now + SETTLE
            if now >= self._settled_at:
                self._left_sent = True
                left = self._send_term(now)
                self.stragglers = [] if self.stopped else left
        instants = [at for at in (self._announce_at, self._kill_at, self._settled_at) if at is not None and at > now]
        return min((min(instants) - now) * 1000 + 1, LONGEST_WAIT_MS) if instants else None

    def _send_term(self, now: float) -> list[str]:
        """Send TERM to all that have not had one, and CONT, so that a suspended process can act on it; the names of
        those that it reached. The grace counts from the first TERM."""
        self._term_sent = True
        self._kill_at = self._kill_at or now + self.grace
        found = {(pid, _start_time(pid)): (pid, parent, _name(pid)) for pid, parent in _descendants()}
        descendants = [found[who] for who in found.keys() - self._warned]
        self._warned |= found.keys()
        refused = {pid for pid, parent, _ in descendants if not _send(pid, parent, signal.SIGTERM)}
        for pid, parent, _ in descendants:
            _send(pid, parent, signal.SIGCONT)
        self._note_refused({name for pid, _, name in descendants if pid in refused})
        return sorted({name for pid, _, name in descendants if pid not in refused} - {""})

    def _note_refused(self, names: set[str]) -> None:
        if names - {*self.refused}:
            self.refused = sorted(names | {*self.refused})
            self.on_refused(self.refused)

    def _on_term(self, number: int, frame: Any) -> None:
        self.stopped = True

    def _on_force(self, number: int, frame: Any) -> None:
        self.stopped = self.forced = True


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _empty(file: int) -> None:
    try:
        while os.read(file, 4096):
            pass
    except BlockingIOError:
        pass


def _descendants() -> list[tuple[int, int]]:
    """(pid, its parent) of all that came of this process, parents first."""
    found: list[tuple[int, int]] = []
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop(0)
        for pid in _children(parent):
            found.append((pid, parent))
            waiting.append(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it has ended meanwhile; its children are ours now
    return found


def _start_time(pid: int) -> int:
    try:
        return stat_of(pid)[2]
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _send(pid: int, parent: int, number: int) -> bool:
    """Signal one descendant; False if this account may not. Between being listed and being signalled, its number may
    have gone to a stranger: what is signalled is what is held, and it is looked at once it is held."""
    try:
        held = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        if stat_of(pid)[1] in (parent, os.getpid()):
            signal.pidfd_send_signal(held, number)
    except PermissionError:
        return False
    except OSError:
        pass
    finally:
        os.close(held)
    return True


def _kill_all() -> set[str]:
    """Send KILL to all, and return the names of those that this account may not kill. All are halted first, so that
    none forks out of the list."""
    known: set[int] = set()
    for _ in range(100):
        fresh = [(pid, parent) for pid, parent in _descendants() if pid not in known]
        if not fresh:
            break
        for pid, parent in fresh:
            known.add(pid)
            _send(pid, parent, signal.SIGSTOP)
    return {_name(pid) for pid, parent in _descendants() if not _send(pid, parent, signal.SIGKILL)}


class Account:
    """Who a command runs as: names of numbers that are looked up before, so that nothing is looked up here."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.user: int = value["user"]
        self.group: int = value["group"]
        self.groups: list[int] = value["groups"]

    def become(self) -> None:
        """Become the account for good: no program with a setuid bit or capabilities gives this process more again."""
        os.setgroups(self.groups)
        os.setgid(self.group)
        os.setuid(self.user)
        prctl(PR_SET_NO_NEW_PRIVS, 1)


DEFAULTS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Signals that a command finds as the system has them, whatever Python or a `nohup` around the server made of them."""


@contextlib.contextmanager
def _first_to_be_killed() -> Iterator[None]:
    """Have the kernel kill what is started meanwhile before the server, when memory runs out.

    A process may raise its own score and take that back; what it has started meanwhile keeps it.
    """
    path = "/proc/self/oom_score_adj"
    before = None
    with contextlib.suppress(OSError, ValueError):
        with open(path) as file:
            score = int(file.read())
        if score < OOM_SCORE:
            with open(path, "w") as file:
                file.write(str(OOM_SCORE))
            before = score
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError), open(path, "w") as file:
                file.write(str(before))


def spawn(argv: list[str], env: dict[str, str], output: int, account: Account | None) -> int:
    """Start a command in the present folder, with nothing to read, in a process group of its own; its pid.

    Raises OSError where it cannot be executed.
    """
    with _first_to_be_killed():
        return _spawn(argv, env, output, account)


def _spawn(argv: list[str], env: dict[str, str], output: int, account: Account | None) -> int:
    if account is None:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        return os.posix_spawn(argv[0], argv, env, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=DEFAULTS)
    os.fchown(output, account.user, account.group)  # or the job could not open its own /dev/stderr
    told, telling = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            account.become()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for number in DEFAULTS:
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.execve(argv[0], argv, env)
        except OSError as error:
            os.write(telling, str(error.errno or errno.EIO).encode())
        finally:
            os._exit(127)
    os.close(telling)
    with open(told, "rb") as file:
        fault = file.read()
    if fault:
        os.waitpid(pid, 0)
        raise OSError(int(fault), os.strerror(int(fault)))
    return pid


def shell(path: str) -> str:
    """bash, where there is one, else sh."""
    for folder in ("/bin", "/usr/bin", *path.split(":")):
        if folder and os.access(f"{folder}/bash", os.X_OK):
            return f"{folder}/bash"
    return "/bin/sh"


# A job's keeper.


class Keeper:
    """One job's keeper, all that can be made ready before the job is known made ready. Made in the process that is to
    be it."""

    def __init__(self, notify: int) -> None:
        self.output = Output()
        self.supervisor = Supervisor(self.output)
        self._notify = notify

    def keep(self, spec: dict[str, Any], folder: str, ending: Ending) -> None:
        """Run the job; returns when nothing of it is left and `exit.json` is there.

        `spec` is what `ProcessRunner.start` sends; `folder` is the runner's own for this job.
        """
        self.supervisor.grace = spec["grace"]
        try:
            self.output.open(f"{spec['folder']}/log", spec["log_limit"])
            command = self._prepare(spec)
        except (OSError, ValueError) as error:
            command = _failure(f"The job could not be started: {getattr(error, 'strerror', None) or error}")
        end = command if isinstance(command, dict) else self._see_off(command, folder)
        self.output.drain()
        self.output.end()
        if self.output.message:
            end["message"] = f"{end['message']}. {self.output.message}" if end.get("message") else self.output.message
        ending.write(end)
        self._tell(spec["uuid"])

    def _prepare(self, spec: dict[str, Any]) -> int | dict[str, Any]:
        """Make the job's files and start its command; its pid, or the end of a job whose command never ran."""
        account = Account(spec["account"]) if spec["account"] else None
        work, outputs = f"{spec['folder']}/work", f"{spec['folder']}/outputs"
        for path in (work, outputs):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            _give(path, account)
        _make_temporary_folder(spec, account)
        if spec["code"] or spec["inputs"]:
            fault = _unpack(spec, work, outputs, account, self.supervisor)
            if fault and not self.supervisor.stopped:
                return _failure(fault)
        if self.supervisor.stopped:
            number = int(signal.SIGKILL if self.supervisor.forced else signal.SIGTERM)
            return {"reason": "signalled", "code": 128 + number, "signal": number, "message": "It had not started yet"}
        os.chdir(work)
        argv = [shell(spec["env"].get("PATH", "")), "-c", spec["cmd"]]
        try:
            return spawn(argv, spec["env"], self.output.writing, account)
        except OSError as error:
            return _failure(f"The command cannot be started: {os.strerror(error.errno or 0)}")

    def _see_off(self, command: int, folder: str) -> dict[str, Any]:
        """Wait for the command and all that came of it; the job's end."""
        os.close(self.output.writing)
        with contextlib.suppress(OSError):  # a disk may be full, and then only the job's end is told
            os.close(os.open(f"{folder}/started", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self.supervisor.announce(lambda: self._tell("started"), STARTED_AFTER)
        self.supervisor.on_refused = lambda names: self._note_refused(folder, names)
        return _ended(self.supervisor.wait(command), self.supervisor)

    def _note_refused(self, folder: str, names: list[str]) -> None:
        """Have the job show what it waits for."""
        text = f"Cannot be killed, because it runs as another account: {', '.join(names)}. The job ends after it"
        with contextlib.suppress(OSError):
            write_by_rename(f"{folder}/note.json", text)
        self._tell("started")

    def _tell(self, news: str) -> None:
        """Have the engine look; the job's uuid tells that it has ended."""
        with contextlib.suppress(OSError):  # nobody listens: the engine looks by itself
            os.write(self._notify, f"{news}\n".encode())


def _give(folder: str, account: Account | None) -> None:
    """Give a folder of this process to the account. Links are not followed."""
    if account is None:
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            os.fchown(opened, account.user, account.group)
    finally:
        os.close(opened)


def _make_temporary_folder(spec: dict[str, Any], account: Account | None) -> None:
    """Make the job's own TMPDIR. Where that fails, the job uses the folder above it, as any other process does."""
    try:
        os.mkdir(spec["tmp"], 0o700)
        _give(spec["tmp"], account)
    except OSError:
        if spec["env"].get("TMPDIR") == spec["tmp"]:
            spec["env"]["TMPDIR"] = os.path.dirname(spec["tmp"])


def _failure(message: str) -> dict[str, Any]:
    return {"reason": "start", "message": message}


def _ended(status: int, supervisor: Supervisor) -> dict[str, Any]:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    end: dict[str, Any] = {
        "reason": "exited" if number is None else "signalled",
        "code": os.WEXITSTATUS(status) if number is None else 128 + number,
        "signal": number,
        "max_rss": supervisor.max_rss,
        "cpu_seconds": round(supervisor.cpu_seconds, 6),
    }
    if supervisor.stragglers:
        end["stragglers"] = supervisor.stragglers
    if supervisor.refused:
        names = ", ".join(supervisor.refused)
        end["message"] = f"Ran as another account and could not be killed, so the job lasted as long: {names}"
    return end


def _unpack(
    spec: dict[str, Any], work: str, outputs: str, account: Account | None, supervisor: Supervisor
) -> str | None:
    """Unpack code and earlier outputs, in a process that can be stopped; what went wrong."""
    import gzip  # noqa: F401 - both before the account changes, which may not read where Python is
    import tarfile  # noqa: F401

    told, telling = os.pipe2(os.O_CLOEXEC)
    # Opened before the account changes, which may not read the data folder.
    code = os.open(spec["code"], os.O_RDONLY | os.O_CLOEXEC) if spec["code"] else None
    inputs = os.open(spec["inputs"], os.O_RDONLY | os.O_CLOEXEC) if spec["inputs"] else None
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number in (TERM, FORCE):
                signal.signal(number, signal.SIG_DFL)
            if account:
                account.become()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # which a change of account would undo
            if os.getppid() != keeper:
                os._exit(1)
            if code is not None:
                _extract(code, work, strip=0)
            if inputs is not None:
                _extract(inputs, outputs, strip=1)
            os._exit(0)
        except BaseException as error:
            reason = getattr(error, "strerror", None) or str(error)
            os.write(telling, f"The job's files cannot be unpacked: {reason}".encode(errors="replace")[:2000])
        finally:
            os._exit(1)
    for file in (telling, code, inputs):
        if file is not None:
            os.close(file)
    status = supervisor.wait(pid)
    with open(told, "rb") as words:
        text = words.read().decode(errors="replace")
    return text or (None if status == 0 else "The job's files cannot be unpacked: the unpacking was killed")


def _extract(file: int, folder: str, strip: int) -> None:
    """Unpack an archive that was checked when it came in, without the `strip` topmost folders of its names."""
    import tarfile

    def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in archive:
            name = _beneath(member.name, strip)
            if not name or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                continue
            member.name = name
            if member.islnk():
                member.linkname = _beneath(member.linkname, strip)
            member.mode = (member.mode & 0o777) | (0o700 if member.isdir() else 0o600)
            member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
            yield member

    class Sparse(tarfile.TarFile):
        """Writes blocks of zeros as holes, so that a file takes no more of the disk than it did when it was packed."""

        def makefile(self, member: tarfile.TarInfo, path: Any) -> None:
            source = self.extractfile(member)
            if member.issparse() or source is None:
                super().makefile(member, path)
                return
            with open(path, "wb", buffering=0) as target:
                while block := source.read(BLOCK):
                    if block.count(0) == len(block):
                        target.seek(len(block), os.SEEK_CUR)
                    else:
                        _write(target.fileno(), block)
                target.truncate(member.size)

    # The names are made safe here, as older Pythons have no filters; a newer one would want to be told of one.
    trusted: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    with Sparse.open(fileobj=open(file, "rb"), mode="r:gz", errors="surrogateescape") as archive:
        archive.extractall(folder, members(archive), **trusted)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _beneath(name: str, strip: int) -> str:
    """A member's path below the folder that it is unpacked into; empty for what has none."""
    parts = [part for part in name.split("/") if part not in ("", ".")][strip:]
    return "" if ".." in parts else "/".join(parts)


# Around one build step: `keeper.py supervise`, told on standard input, which is its lifeline too.


def supervise() -> None:
    """Run the command that the first line of standard input gives, and exit with its code, 128 + n for signal n.

    The command writes to standard output. When standard input ends, whatever came of the command is killed: so a build
    step ends with the engine that started it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (TERM, FORCE, signal.SIGCHLD))
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            os._exit(125)
        line += piece
    told = json.loads(line)
    supervisor = Supervisor(lifeline=0)
    supervisor.on_refused = lambda names: _say(f"Cannot be killed, as it runs as another account: {', '.join(names)}")
    supervisor.grace = told["grace"]
    account = Account(told["account"]) if told["account"] else None
    try:
        os.chdir(told["folder"])
        command = spawn(told["argv"], told["env"], 1, account)
    except (OSError, ValueError) as error:
        _say(f"{told['argv'][0]}: {getattr(error, 'strerror', None) or error}")
        os._exit(126)
    status = supervisor.wait(command)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever reads it may be gone
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__" and sys.argv[1:] == ["supervise"]:
    supervise()
