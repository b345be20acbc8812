"""The keeper server: forks a keeper for each job, so that a job costs a fork and not an interpreter.

    python -I -S keeper_server.py <data>/process

Standard library only, single-threaded. It is started on demand by whoever first wants a job started, has a session of
its own, and leaves when nobody is connected and no keeper of its own is left. It may be killed at any time: keepers go
on, and the next start brings another server.

Protocol: a stream socket `server-<VERSION>`, lines of JSON. The server greets with `{"version", "pid"}`; a request is
what `ProcessRunner.start` sends, its answer `{"made": bool}` or `{"error": text}`; a line `{"look": true}` comes
whenever the engine had better look. An engine with another VERSION has another socket, and so another server.

In `<process>/jobs/<uuid>/`, the runner's own folder of a job, these appear in order: `attempt`, made exclusively and
locked by the keeper for as long as it lives; `keeper.json`, who the keeper is; `started`; `exit.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from typing import Any

VERSION = 1
LARGEST_REQUEST = 1 << 26


def _load_keeper() -> Any:
    """The module beside this file; there is no import path here, and none is wanted."""
    path = os.path.join(os.path.dirname(__file__), "keeper.py")
    spec = importlib.util.spec_from_file_location("keeper", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            self.boot_id = boot_id.read().strip()
        self.keeper = _load_keeper()
        self.children: set[int] = set()
        self.connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self.poll = select.poll()
        self.wake, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.news, self.notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._wake_writing = writing
        self._opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{self._opened}/server-{VERSION}"
        for file in (self.wake, self.news):
            self.poll.register(file, select.POLLIN)
        self.listening = self._listen()

    def _listen(self) -> socket.socket:
        """The path goes through the open folder: a socket's path has 107 bytes at most, a folder's may have more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        os.chmod(self.path, 0o600)
        listening.listen(64)
        listening.setblocking(False)
        self.poll.register(listening.fileno(), select.POLLIN)
        return listening

    def run(self) -> None:
        while True:
            for file, _ in self.poll.poll(None if self.connections or self.children else 1000):
                if file == self.listening.fileno():
                    self._accept()
                elif file == self.wake:
                    self._drain(self.wake)
                    self._reap()
                elif file == self.news:
                    self._drain(self.news)
                    self._tell_all(b'{"look": true}\n')
                else:
                    self._read(file)
            if not self.connections and not self.children and self._leave():
                return

    def _leave(self) -> bool:
        """Nobody is here: take the name away, and go unless somebody came through it meanwhile."""
        os.unlink(self.path)
        self._accept()
        if not self.connections:
            return True
        self.poll.unregister(self.listening.fileno())
        self.listening.close()
        self.listening = self._listen()
        return False

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listening.accept()
                connection.setblocking(True)
                self.connections[connection.fileno()] = (connection, bytearray())
                self.poll.register(connection.fileno(), select.POLLIN)
                self._tell(connection, {"version": VERSION, "pid": os.getpid()})

    def _read(self, file: int) -> None:
        connection, buffer = self.connections[file]
        try:
            data = connection.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(buffer) > LARGEST_REQUEST:
            self._hang_up(file)
            return
        buffer += data
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            self._tell(connection, self._answer(json.loads(line)))

    def _hang_up(self, file: int) -> None:
        connection, _ = self.connections.pop(file)
        self.poll.unregister(file)
        connection.close()

    def _tell(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _tell_all(self, line: bytes) -> None:
        for connection, _ in self.connections.values():
            with contextlib.suppress(OSError):
                connection.send(line, socket.MSG_DONTWAIT)

    def _answer(self, spec: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"made": self._start(spec)}
        except OSError as error:
            return {"error": f"{error.strerror}: {error.filename}" if error.filename else str(error)}

    def _start(self, spec: dict[str, Any]) -> bool:
        """Fork a keeper, unless this job has had one; whether it was forked."""
        folder = f"{self.folder}/jobs/{spec['uuid']}"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            attempt = os.open(f"{folder}/attempt", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        fcntl.flock(attempt, fcntl.LOCK_EX)
        signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid == 0:
            self._be_keeper(spec, folder)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        self.children.add(pid)
        _, _, started = self.keeper.stat_of(pid)
        who = {"boot_id": self.boot_id, "pid": pid, "start_time": started}
        self.keeper.write_by_rename(f"{folder}/keeper.json", who)
        os.close(attempt)  # the keeper holds it on
        return True

    def _be_keeper(self, spec: dict[str, Any], folder: str) -> None:
        """In the fork. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            for connection, _ in self.connections.values():
                connection.close()
            self.listening.close()
            for file in (self.wake, self._wake_writing, self.news, self._opened):
                os.close(file)
            self.keeper.keep(spec, folder, self.notify)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self.children.discard(pid)

    @staticmethod
    def _drain(file: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(file, 4096):
                pass


def main() -> None:
    folder = sys.argv[1]
    lock = os.open(f"{folder}/server-{VERSION}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which no keeper inherits
    except OSError:
        return  # there is one already, or one that is just leaving
    os.umask(0o022)
    server = Server(folder)
    import gc

    gc.collect()
    gc.freeze()
    gc.disable()  # a fork shares what is never touched; nothing here makes cycles
    server.run()


if __name__ == "__main__":
    main()
