"""Start the command of a job or build step, possibly as another account. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from runners.process.linux import PR_SET_NO_NEW_PRIVS, prctl

OOM_SCORE = 500
"""`oom_score_adj` of jobs and build steps: when memory runs out, the kernel kills them before the server."""
OOM_SCORE_PATH = "/proc/self/oom_score_adj"
DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Signals that are reset to their defaults for a command, as Python or a `nohup` may have changed them."""


class Account:
    """The account that a command runs as. It holds numbers only, so that nothing has to be looked up here."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.user: int = value["user"]
        self.group: int = value["group"]
        self.groups: list[int] = value["groups"]

    @classmethod
    def of(cls, request: dict[str, Any]) -> Account | None:
        """Return the account of a request, or None if its command runs as the server's own account."""
        return cls(request["account"]) if request["account"] else None

    def become(self) -> None:
        """Change this process to the account for good. No setuid bit or capability of a program can undo that."""
        os.setgroups(self.groups)
        os.setgid(self.group)
        os.setuid(self.user)
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def spawn(argv: list[str], env: dict[str, str], output: int, account: Account | None, folder: str | None = None) -> int:
    """Start a command in `folder`, or else in the current folder, and return its pid.

    The command has an empty standard input and a process group of its own, and writes to `output`. Raises OSError if it
    cannot be executed, or with `filename` set to the folder if the account cannot enter that.
    """
    with _raised_oom_score():
        if account is None:
            if folder:
                os.chdir(folder)
            return _spawn_as_self(argv, env, output)
        return _spawn_as(account, argv, env, output, folder)


def find_shell(search_path: str) -> str:
    """Return the path of bash if there is one, else of sh."""
    for folder in ("/bin", "/usr/bin", *search_path.split(":")):
        if folder and os.access(f"{folder}/bash", os.X_OK):
            return f"{folder}/bash"
    return "/bin/sh"


@contextlib.contextmanager
def _raised_oom_score() -> Iterator[None]:
    """Give OOM_SCORE to the processes that are started inside the block, unless this process has a higher score.

    A process may raise its own score and restore it; a child keeps the score that it was started with.
    """
    previous = None
    file = -1
    with contextlib.suppress(OSError, ValueError):
        file = os.open(OOM_SCORE_PATH, os.O_RDWR | os.O_CLOEXEC)
        score = os.pread(file, 20, 0)
        if int(score) < OOM_SCORE:
            os.pwrite(file, str(OOM_SCORE).encode(), 0)
            previous = score
    try:
        yield
    finally:
        if previous is not None:
            with contextlib.suppress(OSError):
                os.pwrite(file, previous, 0)
        if file >= 0:
            os.close(file)


def _spawn_as_self(argv: list[str], env: dict[str, str], output: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(
        argv[0], argv, env, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=DEFAULT_SIGNALS
    )


def _spawn_as(account: Account, argv: list[str], env: dict[str, str], output: int, folder: str | None) -> int:
    os.fchown(output, account.user, account.group)  # otherwise the command could not open its own /dev/stderr
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        failing = folder
        try:
            os.setpgid(0, 0)
            account.become()
            if folder:
                os.chdir(folder)
            failing = argv[0]
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for signal_number in DEFAULT_SIGNALS:
                signal.signal(signal_number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.execve(argv[0], argv, env)
        except OSError as error:
            os.write(error_write, json.dumps([error.errno or errno.EIO, failing]).encode())
        finally:
            os._exit(127)
    os.close(error_write)
    with open(error_read, "rb") as file:
        failure = file.read()
    if failure:
        os.waitpid(pid, 0)
        error_number, failing = json.loads(failure)
        raise OSError(error_number, os.strerror(error_number), failing)
    return pid
