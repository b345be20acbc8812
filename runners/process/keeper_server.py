"""The keeper server: forks a keeper for each job, so that a job costs a fork and not an interpreter.

    python -I -S keeper_server.py <data>/process

Standard library only, single-threaded. It is started on demand by whoever first wants a job started, has a session of
its own, and leaves when nobody is connected and no keeper of its own is left. It may be killed at any time: keepers go
on, and the next start brings another server.

Protocol: a stream socket `server-<VERSION>`, lines of JSON. The server greets with `{"version", "pid"}`; a request is
what `ProcessRunner.start` sends, its answer `{"made": bool}` or `{"error": text}`. Who sends `{"listen": true}` is
answered by news only: a line with the uuid of each job that has ended, `"started"` where one has started. An engine
with another VERSION has another socket, and so another server.

One keeper is always forked ahead and waits for its job on a socket, so that the fork, and what it costs until the
memory is its own, is over before the job comes.

In `<process>/jobs/<uuid>/`, the runner's own folder of a job, these appear in order: `attempt`, made exclusively and
locked by the keeper for as long as it lives; `keeper.json`, who the keeper is; `started`; `note.json`, a sentence that
the running job shows; `exit.json`. The attempt holds this boot's id until a keeper has the job, which empties it. So an
attempt that is not locked and holds the id is of a server that died before, and the next start goes on with it.

An attempt gets its name with the id in it, by a hard link to `attempt.part`. On a file system without hard links it is
empty for a moment. `attempt.part`, which holds the id until the attempt does, tells such an attempt from one that a
keeper has emptied.
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
import struct
import sys
import time
from typing import Any

VERSION = 3
LARGEST_REQUEST = 1 << 26
TAKEN_AFTER = 2.0
"""Seconds after which a keeper that can run has taken its job, or left."""


def _load_keeper() -> Any:
    """The module beside this file; there is no import path here, and none is wanted."""
    path = os.path.join(os.path.dirname(__file__), "keeper.py")
    spec = importlib.util.spec_from_file_location("keeper", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Spare:
    """A keeper that waits for its job. Made in the server."""

    def __init__(self, pid: int, start_time: int, channel: socket.socket) -> None:
        self.pid = pid
        self.start_time = start_time
        self._channel = channel

    def give(self, spec: dict[str, Any], folder: str, attempt: int, ending: int) -> None:
        """Hand over the job, with the lock on its attempt and the file for its end. Raises OSError where the keeper is
        gone; it has not begun then."""
        data = json.dumps([spec, folder]).encode()
        socket.send_fds(self._channel, [struct.pack("=Q", len(data))], [attempt, ending])
        self._channel.sendall(data)
        self._channel.close()

    def dismiss(self) -> None:
        self._channel.close()


def take_job(channel: socket.socket) -> tuple[dict[str, Any], str, int] | None:
    """In the keeper: wait for the job; (spec, folder, file for the end), or None where the server has gone. The lock
    on the attempt is held by a descriptor that nobody closes."""
    header, received, _, _ = socket.recv_fds(channel, 8, 2)
    if len(header) < 8:
        return None
    attempt, ending = received
    for file in received:
        os.set_inheritable(file, False)  # the job must not have it: it would hold the lock on behalf of a dead keeper
    (size,) = struct.unpack("=Q", header)
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    spec, folder = json.loads(data)
    os.ftruncate(attempt, 0)  # from here on, no other keeper gets the job
    return spec, folder, ending


def unused_attempt(path: str, boot_id: str) -> int | None:
    """Lock the attempt of a start that no keeper has got yet, and have it hold the boot's id. Return its file, or None
    if there is no such attempt: a keeper has or had the job, it was fenced, or it is of another boot.

    Waits a moment for a keeper that is about to take the job, or to leave because its server died.
    """
    try:
        attempt = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    deadline = time.monotonic() + TAKEN_AFTER
    try:
        while _is_unused(attempt, path, boot_id) and time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(attempt, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_unused(attempt, path, boot_id):
                    os.pwrite(attempt, boot_id.encode(), 0)
                    return attempt
            time.sleep(0.01)
    except OSError:
        os.close(attempt)
        raise
    os.close(attempt)
    return None


def _is_unused(attempt: int, path: str, boot_id: str) -> bool:
    try:
        if not os.path.samestat(os.fstat(attempt), os.stat(path)):
            return False
    except FileNotFoundError:  # removed by a fence that failed, or by a clean
        return False
    content = os.pread(attempt, 100, 0)
    if content:
        return content == boot_id.encode()
    try:
        with open(f"{path}.part", "rb") as part:
            return part.read() == boot_id.encode()
    except FileNotFoundError:
        return False


class Server:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            self.boot_id = boot_id.read().strip()
        self.keeper = _load_keeper()
        self.children: set[int] = set()
        self.spare: Spare | None = None
        self.listeners: set[int] = set()
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
                    self._pass_on(os.read(self.news, 1 << 16).decode().split())
                else:
                    self._read(file)
            if self.connections and self.spare is None:
                self.spare = self._fork_spare()
            if not self.connections and not self.children and self._leave():
                return

    def _leave(self) -> bool:
        """Nobody is here: take the name away, and go unless somebody came through it meanwhile."""
        os.unlink(self.path)
        self._accept()
        if not self.connections:
            if self.spare is not None:
                self.spare.dismiss()
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
            try:
                request = json.loads(line)
                if "listen" in request:
                    self.listeners.add(file)
                else:
                    self._tell(connection, self._answer(request))
            except (ValueError, KeyError, TypeError):  # no engine has said that
                self._hang_up(file)
                return

    def _hang_up(self, file: int) -> None:
        connection, _ = self.connections.pop(file)
        self.listeners.discard(file)
        self.poll.unregister(file)
        connection.close()

    def _tell(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _pass_on(self, news: list[str]) -> None:
        line = b"".join(json.dumps(item).encode() + b"\n" for item in news)
        for file in self.listeners:
            with contextlib.suppress(OSError):
                self.connections[file][0].send(line, socket.MSG_DONTWAIT)

    def _answer(self, spec: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"made": self._start(spec)}
        except OSError as error:
            return {"error": f"{error.strerror}: {error.filename}" if error.filename else str(error)}

    def _start(self, spec: dict[str, Any]) -> bool:
        """Give the job to a keeper, unless it has had one; whether it was given. Raises OSError with nothing left."""
        uuid = spec["uuid"]
        if not (len(uuid) == 32 and uuid.isalnum()):
            raise ValueError(uuid)
        folder = f"{self.folder}/jobs/{uuid}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        attempt = self._begin_attempt(f"{folder}/attempt")
        if attempt is None:
            return False
        try:
            self._hand_over(spec, folder, attempt)
        except OSError:
            for name in ("exit.json.part", "keeper.json.part", "keeper.json", "attempt"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{folder}/{name}")
            raise
        finally:
            os.close(attempt)  # the keeper holds it on
        return True

    def _begin_attempt(self, path: str) -> int | None:
        """Make the job's attempt, or go on with one that no keeper has got. Return its locked file, or None if a keeper
        has or had the job, or if it was fenced."""
        if not os.path.exists(path):  # else `attempt.part` would make one that a keeper has emptied look unused
            with contextlib.suppress(FileExistsError):  # a fence was faster
                self._make_attempt(path)
        attempt = unused_attempt(path, self.boot_id)
        try:
            with contextlib.suppress(FileNotFoundError):  # a fence has cleared the folder
                os.unlink(f"{path}.part")
        except OSError:
            if attempt is not None:
                os.close(attempt)
            raise
        return attempt

    def _make_attempt(self, path: str) -> None:
        """Have an attempt appear that no keeper has got. Raises FileExistsError if there is one, FileNotFoundError if a
        clean or a fence removes its files meanwhile."""
        part = f"{path}.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)  # it may be a second name of an attempt: nothing is written to it
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, self.boot_id.encode())
        finally:
            os.close(file)
        try:
            os.link(part, path)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:  # no hard links here; another fault shows again
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _hand_over(self, spec: dict[str, Any], folder: str, attempt: int) -> None:
        ending = self.keeper.Ending(f"{folder}/exit.json").file
        try:
            spare, self.spare = self.spare or self._fork_spare(), None
            who = {"boot_id": self.boot_id, "pid": spare.pid, "start_time": spare.start_time}
            self.children.add(spare.pid)
            try:
                self.keeper.write_by_rename(f"{folder}/keeper.json", who)
                spare.give(spec, folder, attempt, ending)
            except OSError:
                spare.dismiss()
                raise
        finally:
            os.close(ending)

    def _fork_spare(self) -> Spare:
        mine, its = socket.socketpair()
        signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._be_keeper(its)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        its.close()
        return Spare(pid, self.keeper.stat_of(pid)[2], mine)

    def _be_keeper(self, channel: socket.socket) -> None:
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
            keeper = self.keeper.Keeper(self.notify)
            job = take_job(channel)
            if job is not None:
                spec, folder, ending = job
                keeper.keep(spec, folder, self.keeper.Ending.of(f"{folder}/exit.json", ending))
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
                if self.spare is not None and self.spare.pid == pid:
                    self.spare.dismiss()
                    self.spare = None

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
