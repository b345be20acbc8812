"""Wait for a command and all its descendants, and end them on request. Standard library only.

A supervisor makes its process the subreaper of everything that the command starts: a descendant that forks twice or
starts a session of its own becomes its child again. So the supervisor knows that everything has ended when the kernel
reports that it has no child left.
"""

from __future__ import annotations

import os
import resource  # noqa: F401 - `os.wait4` needs it; so the server loads it once, and not each keeper again
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from runners.process.linux import PR_SET_CHILD_SUBREAPER, descendants, prctl, process_name, process_stat
from runners.process.log_pipe import LogPipe

TERM, FORCE = signal.SIGTERM, signal.SIGUSR1
"""Signals that end a supervisor's command: with its grace period, or at once."""
SETTLE_SECONDS = 0.2
"""Time in which remaining processes can end by themselves after the command has ended. Then they are stragglers."""
LONGEST_WAIT_MS = 3_600_000
"""Longest single wait; `poll` accepts less than 2**31 milliseconds."""
KILL_AGAIN_MS = 10
"""Pause between two rounds of KILL."""
UNKILLABLE_PAUSE_MS = 1000
"""Pause until the next KILL if this account may not kill a process."""
SUSPEND_ROUNDS = 100
"""Rounds in which all descendants are suspended before they are killed."""


class Supervisor:
    """Waits for a command and its descendants. Create it once, in the process that is to be their parent."""

    def __init__(self, log_pipe: LogPipe | None = None, lifeline: int | None = None) -> None:
        """`log_pipe` is copied while waiting. The command is killed when the descriptor `lifeline` reaches its end."""
        self._lifeline = lifeline
        self.reset(log_pipe)
        self._wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(TERM, self._on_term)
        signal.signal(FORCE, self._on_force)
        signal.signal(signal.SIGCHLD, lambda signal_number, frame: None)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (TERM, FORCE, signal.SIGCHLD))
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def reset(self, log_pipe: LogPipe | None) -> None:
        """Forget the last command, and every request to end it that has arrived. Its processes must have ended."""
        self._log_pipe = log_pipe
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # runs the handlers of the signals that have arrived
        self.grace = 0.0
        """Seconds between TERM and KILL."""
        self.is_stopping = False
        """Whether an end of the command was requested."""
        self.is_forced = False
        """Whether it is to be ended at once."""
        self.stragglers: list[str] = []
        """Names of the processes that the command left running and that received TERM."""
        self.unkillable: list[str] = []
        """Names of the processes that this account may not signal."""
        self.on_unkillable: Callable[[list[str]], None] = lambda names: None
        """Called with `unkillable` whenever that has grown."""
        self.max_rss, self.cpu_seconds = 0, 0.0
        """Largest resident memory in bytes, and CPU time, of all processes that the latest `wait` has reaped."""
        self._term_sent = False
        self._stragglers_signalled = False
        self._signalled: set[tuple[int, int]] = set()
        """(pid, start time) of the processes that have received TERM."""
        self._kill_at: float | None = None
        self._settled_at: float | None = None
        self._callback: Callable[[], None] | None = None
        self._callback_at: float | None = None

    def call_after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once `wait` has lasted that long from now; never, if `wait` returns earlier."""
        self._callback, self._callback_at = callback, _now() + seconds

    def wait(self, command: int) -> int:
        """Wait until the process `command` and all its descendants have ended. Return the wait status of the command.

        Can be called again for another command.
        """
        self.max_rss, self.cpu_seconds = 0, 0.0
        self._settled_at = None
        poll = select.poll()
        poll.register(self._wakeup_read, select.POLLIN)
        if self._log_pipe is not None:
            poll.register(self._log_pipe.read_end, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        status: int | None = None
        while True:
            new_status, has_children = self._reap(command)
            status = new_status if new_status is not None else status
            if not has_children:
                break
            for file, _ in poll.poll(self._act(status is not None)):
                if file == self._wakeup_read:
                    _empty(file)
                elif file == self._lifeline:
                    if not os.read(file, 4096):
                        poll.unregister(file)
                        self.is_stopping = self.is_forced = True
                elif self._log_pipe is not None and not self._log_pipe.copy():
                    poll.unregister(file)
        assert status is not None
        return status

    def _reap(self, command: int) -> tuple[int | None, bool]:
        """Return (the command's wait status if it has just ended, whether any child is left)."""
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

    def _act(self, command_ended: bool) -> float | None:
        """Do whatever is due now. Return the milliseconds until something may be due again, None = no limit."""
        now = _now()
        if self._callback_at is not None and now >= self._callback_at and self._callback is not None:
            self._callback_at = None
            self._callback()
        if self._kill_at is not None and now >= self._kill_at:
            self.is_forced = True
        if self.is_forced:
            unkillable = _kill_descendants()
            self._note_unkillable(unkillable)
            return UNKILLABLE_PAUSE_MS if unkillable else KILL_AGAIN_MS
        if self.is_stopping and not self._term_sent:
            self._send_term(now)
        elif command_ended and not self._stragglers_signalled:
            if self._settled_at is None:
                self._settled_at = now + SETTLE_SECONDS
            if now >= self._settled_at:
                self._stragglers_signalled = True
                reached = self._send_term(now)
                self.stragglers = [] if self.is_stopping else reached
        due = [at for at in (self._callback_at, self._kill_at, self._settled_at) if at is not None and at > now]
        return min((min(due) - now) * 1000 + 1, LONGEST_WAIT_MS) if due else None

    def _send_term(self, now: float) -> list[str]:
        """Send TERM to all descendants that have not received one. Return the names of those that it reached.

        CONT follows, so that a suspended process can act on the TERM. The grace period starts with the first TERM.
        """
        self._term_sent = True
        self._kill_at = self._kill_at or now + self.grace
        by_identity = {(pid, _start_time(pid)): (pid, parent, process_name(pid)) for pid, parent in descendants()}
        targets = [by_identity[identity] for identity in by_identity.keys() - self._signalled]
        self._signalled |= by_identity.keys()
        unkillable = {pid for pid, parent, _ in targets if not _send(pid, parent, signal.SIGTERM)}
        for pid, parent, _ in targets:
            _send(pid, parent, signal.SIGCONT)
        self._note_unkillable({name for pid, _, name in targets if pid in unkillable})
        return sorted({name for pid, _, name in targets if pid not in unkillable} - {""})

    def _note_unkillable(self, names: set[str]) -> None:
        if names - {*self.unkillable}:
            self.unkillable = sorted(names | {*self.unkillable})
            self.on_unkillable(self.unkillable)

    def _on_term(self, signal_number: int, frame: Any) -> None:
        self.is_stopping = True

    def _on_force(self, signal_number: int, frame: Any) -> None:
        self.is_stopping = self.is_forced = True


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _empty(file: int) -> None:
    try:
        while os.read(file, 4096):
            pass
    except BlockingIOError:
        pass


def _start_time(pid: int) -> int:
    try:
        return process_stat(pid).start_time
    except OSError:
        return 0


def _send(pid: int, parent: int, signal_number: int) -> bool:
    """Signal a descendant. Return False if this account may not.

    Since the descendants were listed, the pid may have been reused by an unrelated process. So a descriptor is opened
    first; it pins the process, and the process is checked before the descriptor is signalled.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        if process_stat(pid).parent in (parent, os.getpid()):
            signal.pidfd_send_signal(process, signal_number)
    except PermissionError:
        return False
    except OSError:
        pass
    finally:
        os.close(process)
    return True


def _kill_descendants() -> set[str]:
    """Send KILL to all descendants. Return the names of those that this account may not kill.

    All are suspended first, so that none can fork a process that is missing from the list.
    """
    suspended: set[int] = set()
    for _ in range(SUSPEND_ROUNDS):
        new = [(pid, parent) for pid, parent in descendants() if pid not in suspended]
        if not new:
            break
        for pid, parent in new:
            suspended.add(pid)
            _send(pid, parent, signal.SIGSTOP)
    return {process_name(pid) for pid, parent in descendants() if not _send(pid, parent, signal.SIGKILL)}
