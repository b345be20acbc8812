"""Child processes that are kept alive, and the engine as the helper of a bare `gunicorn wsgi:app`."""

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
from polyjob.settings import Settings, absolute_path, environment

PARENT_PIPE = "POLYJOB_PARENT_PIPE"
"""Names the descriptor that a child of ours reads «end of file» from once its parent is gone."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
HEALTHY_LIFE = 10.0
"""A child that lived this long counts as one that had never died before."""
END_LIMIT = 10.0
"""Time between TERM and KILL of a child."""

PYTHON = [sys.executable, "-P"]
"""Imports nothing from the folder that it is started in, which may be anybody's."""
ENGINE = [*PYTHON, "-m", "polyjob", "engine"]
_PATH_VARIABLES = (
    "CURL_CA_BUNDLE", "DOCKER_CERT_PATH", "DOCKER_CONFIG", "KUBECONFIG", "PIP_CERT", "PIP_CONFIG_FILE", "PYTHONPATH",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR",
)  # fmt: skip
"""Variables of others that hold paths, or several."""


def end_with_parent() -> None:
    """End this process, by TERM and later by KILL, when the parent that named its pipe to it ends, however it ends.

    Does nothing where no parent did. Returns at once; a thread waits.
    """
    name = os.environ.get(PARENT_PIPE)
    if name is None:
        return
    pipe = int(name)
    os.set_inheritable(pipe, False)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_LIMIT)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


class Child:
    """A process that is started again, after a pause that doubles, whenever it dies. Ends with this process.

    It is in a session of its own, so that no key of the terminal reaches it, and in the folder `/`, which cannot be
    removed. Nothing here blocks but `end`.
    """

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], *files: int) -> None:
        self.name = name
        self._command = list(command)
        self._environ = dict(environ)
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._pause = 0.0
        self._born = 0.0
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
        self._born = time.monotonic()

    def tend(self) -> float | None:
        """Start it if it is dead and its pause is over; the seconds until that, None while it lives."""
        if self._process is not None:
            return None
        left = self._next_start - time.monotonic()
        if left > 0:
            return left
        try:
            self.start()
        except OSError:  # no memory or process left: later, perhaps
            self._rest()
            return self._pause
        return None

    def died(self, status: int) -> str:
        """To be told when its pid was reaped. Returns what to say about it."""
        assert self._process is not None
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        self._process = None
        if time.monotonic() - self._born >= HEALTHY_LIFE:
            self._pause = 0.0
        self._rest()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{self.name} {how}; it starts again in {self._pause:g} s"

    def _rest(self) -> None:
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if self._pause else FIRST_PAUSE
        self._next_start = time.monotonic() + self._pause

    def signal(self, number: int) -> None:
        """Nothing happens to one that is dead."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def end_children(children: Sequence[Child], limit: float = END_LIMIT) -> None:
    """TERM to all, KILL to who is left after `limit` seconds. Blocks until all are gone."""
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
    """Take every dead child of this process, adopted orphans too; what to say of those that are ours."""
    said = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            said += [child.died(status) for child in children if child.pid == pid]
    return said


@contextlib.contextmanager
def signals() -> Iterator[tuple[int, list[int]]]:
    """(a descriptor that is readable after a signal, the TERM and INT signals so far). For the main thread.

    A process that leaves this is about to end: from then on nothing that a hand on Ctrl-C sends disturbs it.
    """
    told: list[int] = []

    def tell(number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            told.append(number)

    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, tell)
    try:
        yield reading, told
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)


def tend(
    children: Sequence[Child],
    say: Callable[[str], None],
    until: int | None = None,
    may_start: Callable[[Child], bool] = lambda child: True,
) -> None:
    """Keep the children alive until TERM or INT comes or the descriptor `until` is readable; then end them. Blocks.

    A child that `may_start` refuses is asked about again a second later.
    """
    with signals() as (reading, told):
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        if until is not None:
            poll.register(until, select.POLLIN)
        while not told:
            for message in reap(children):
                say(message)
            pauses = [child.tend() if child.pid or may_start(child) else 1.0 for child in children]
            waits = [pause for pause in pauses if pause is not None]
            events = poll.poll(1000 * min(waits) + 1 if waits else None)
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 4096)
            if any(descriptor == until for descriptor, _ in events):
                break
        end_children(children)


def child_environment(settings: Settings) -> dict[str, str]:
    """This process's environment with the settings in it, for a child in another folder. In it, `-m polyjob` finds this
    very code."""
    environ = {**os.environ, **environment(settings)}
    for name in _PATH_VARIABLES:
        if environ.get(name):
            paths = [absolute(path) for path in environ[name].split(os.pathsep) if path]
            environ[name] = os.pathsep.join(paths)
    root = str(Path(__file__).resolve().parents[2])
    others = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    return {**environ, "PYTHONPATH": os.pathsep.join([root, *others])}


def absolute(path: str) -> str:
    """Return the path as seen from this process's folder, or unchanged where that folder was removed."""
    try:
        return str(absolute_path(path))
    except ValueError:
        return path


def start_helper(settings: Settings) -> None:
    """Start the helper of the calling process, which is not its child. Blocks until the helper watches."""
    command = [*PYTHON, "-m", "polyjob", "helper", str(os.getpid())]
    environ = {name: value for name, value in child_environment(settings).items() if name != PARENT_PIPE}
    subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/", check=True, timeout=60
    )


def engine_may_start(settings: Settings) -> bool:
    """Whether no other engine works on the data folder. Where that cannot be told, the engine itself says why."""
    try:
        return engine_pid(settings.data_dir) is None
    except OSError:
        return True


def help_process(pid: int, settings: Settings) -> None:
    """Detach; then keep an engine alive as long as process `pid` lives. Returns at once in the calling process' place.

    While another engine works on the data folder this one waits for its turn.
    """
    process = os.pidfd_open(pid)
    if os.fork():
        os._exit(0)
    engine = Child("the engine", ENGINE, child_environment(settings))
    tend(
        [engine],
        lambda text: print(f"polyjob: {text}", file=sys.stderr, flush=True),
        until=process,
        may_start=lambda child: engine_may_start(settings),
    )
