"""Child processes that are kept running, and the helper that runs the engine of a bare `gunicorn wsgi:app`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from polyjob.engine_link import engine_pid
from polyjob.server.terminal import warn
from polyjob.setting_values import absolute_path
from polyjob.settings import Settings, environment

PARENT_PIPE = "POLYJOB_PARENT_PIPE"
"""The variable with a pipe's descriptor in a child. The pipe ends when the parent ends."""
PREPARED_PIPE = "POLYJOB_PREPARED_PIPE"
"""The variable with a pipe's descriptor in the web server. The pipe ends when the data folder is prepared."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""Pause before a restart. It doubles from the first to the longest."""
HEALTHY_LIFE_SECONDS = 10.0
"""Lifetime after which the pauses begin with the first one again."""
TERM_TO_KILL_SECONDS = 10.0
"""Time between TERM and KILL of a child."""

PYTHON = [sys.executable, "-P"]
"""`-P` imports nothing from the working folder, which others may be able to write to."""
ENGINE = [*PYTHON, "-m", "polyjob", "engine"]
_PATH_VARIABLES = (
    "CURL_CA_BUNDLE", "DOCKER_CERT_PATH", "DOCKER_CONFIG", "KUBECONFIG", "PIP_CERT", "PIP_CONFIG_FILE", "PYTHONPATH",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR",
)  # fmt: skip
"""Variables of other programs that contain one path or several."""


def end_with_parent() -> bool:
    """End this process, with TERM and later with KILL, when its parent ends in any way.

    Returns at once; a thread waits. Returns False, and does nothing, in a process without a parent's pipe.
    """
    name = os.environ.get(PARENT_PIPE)
    if name is None:
        return False
    pipe = int(name)
    os.set_inheritable(pipe, False)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(TERM_TO_KILL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
    return True


def wait_until_prepared() -> None:
    """Block until the parent of this process has prepared the data folder."""
    name = os.environ.get(PREPARED_PIPE)
    if name is not None:
        os.read(int(name), 1)


class Child:
    """A process that is restarted whenever it dies, after a pause that doubles. It ends with this process.

    It has a session of its own, so that Ctrl-C does not reach it, and the working folder `/`, which cannot be removed.
    No method blocks.
    """

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], *files: int) -> None:
        self.name = name
        self._command = list(command)
        self._environ = dict(environ)
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._pause = 0.0
        self._started_at = 0.0
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env={**self._environ, PARENT_PIPE: str(self._reading)},
            stdin=subprocess.DEVNULL,
            pass_fds=(self._reading, *self._files),
            start_new_session=True,
            cwd="/",
        )
        self._started_at = time.monotonic()

    def tend(self) -> float | None:
        """Start the process if it is dead and its pause is over.

        Return the remaining pause in seconds, or None if the process lives.
        """
        if self._process is not None:
            return None
        remaining = self._next_start - time.monotonic()
        if remaining > 0:
            return remaining
        try:
            self.start()
        except OSError:  # out of memory or processes: try again later
            self._back_off()
            return self._pause
        return None

    def record_exit(self, status: int) -> str:
        """Record the exit status of the process, and return a message about it."""
        assert self._process is not None
        exit_code = os.waitstatus_to_exitcode(status)
        self._process.returncode = exit_code
        self._process = None
        if time.monotonic() - self._started_at >= HEALTHY_LIFE_SECONDS:
            self._pause = 0.0
        self._back_off()
        end = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        return f"{self.name} {end}; restarting in {self._pause:g} s"

    def _back_off(self) -> None:
        self._pause = min(self._pause * 2, MAX_PAUSE_SECONDS) if self._pause else FIRST_PAUSE_SECONDS
        self._next_start = time.monotonic() + self._pause

    def signal(self, number: int) -> None:
        """Send a signal. Does nothing if the process is dead."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def end_children(children: Sequence[Child], limit: float = TERM_TO_KILL_SECONDS) -> None:
    """Send TERM to all, and KILL to those left after `limit` seconds. Blocks until all have ended."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + limit
    while any(child.pid is not None for child in children):
        if time.monotonic() > deadline:
            for child in children:
                child.signal(signal.SIGKILL)
        reap(children)
        time.sleep(0.01)


def reap(children: Sequence[Child]) -> list[str]:
    """Reap every dead child of this process, also adopted orphans. Return messages about `children`."""
    messages = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            messages += [child.record_exit(status) for child in children if child.pid == pid]
    return messages


@contextlib.contextmanager
def signals() -> Iterator[tuple[int, list[int]]]:
    """Return (a descriptor that is readable after a signal, the TERM and INT signals so far). For the main thread.

    After the block, the process is about to end, and ignores further signals of Ctrl-C.
    """
    received: list[int] = []

    def record(number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            received.append(number)

    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, record)
    try:
        yield reading, received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)


def tend(
    children: Sequence[Child],
    report: Callable[[str], None],
    until: int | None = None,
    may_start: Callable[[Child], bool] = lambda child: True,
) -> None:
    """Keep the children running until TERM or INT arrives or the descriptor `until` is readable. Then end them. Blocks.

    If `may_start` refuses a child, it is asked again a second later.
    """
    with signals() as (reading, received):
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        if until is not None:
            poll.register(until, select.POLLIN)
        while not received:
            for message in reap(children):
                report(message)
            pauses = [child.tend() if child.pid or may_start(child) else 1.0 for child in children]
            waits = [pause for pause in pauses if pause is not None]
            events = poll.poll(1000 * min(waits) + 1 if waits else None)
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 4096)
            if any(descriptor == until for descriptor, _ in events):
                break
        end_children(children)


def child_environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with the settings in it, for a child in another working folder.

    In that environment, `-m polyjob` runs this installation.
    """
    environ = {**os.environ, **environment(settings)}
    for name in _PATH_VARIABLES:
        if environ.get(name):
            paths = [absolute(path) for path in environ[name].split(os.pathsep) if path]
            environ[name] = os.pathsep.join(paths)
    root = str(Path(__file__).resolve().parents[2])
    others = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    return {**environ, "PYTHONPATH": os.pathsep.join([root, *others])}


def absolute(path: str) -> str:
    """Return the absolute path, or the path unchanged if the working folder was removed."""
    try:
        return str(absolute_path(path))
    except ValueError:
        return path


def start_helper(settings: Settings) -> None:
    """Start the helper of this process, which does not become its child. Blocks until the helper is watching."""
    command = [*PYTHON, "-m", "polyjob", "helper", str(os.getpid())]
    environ = {name: value for name, value in child_environment(settings).items() if name != PARENT_PIPE}
    subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/", check=True, timeout=60
    )


def engine_may_start(settings: Settings) -> bool:
    """Return whether no other engine works on the data folder. If the lock cannot be read, the engine reports why."""
    try:
        return engine_pid(settings.data_dir) is None
    except OSError:
        return True


def help_process(pid: int, settings: Settings) -> None:
    """Detach, and keep an engine running as long as process `pid` runs. The calling process ends at once.

    The engine waits while another one works on the data folder.
    """
    process = os.pidfd_open(pid)
    if os.fork():
        os._exit(0)
    engine = Child("the engine", ENGINE, child_environment(settings))
    tend(
        [engine],
        warn,
        until=process,
        may_start=lambda child: engine_may_start(settings),
    )
