"""The keeper server: forks keepers and gives jobs to them, so that a job costs a fork at most, and no new interpreter.

    python -I -S launch.py keeper_server <data>/process

Single-threaded; standard library only. The engine starts it when it first needs it. It has a session of its own, and
ends when no one is connected and none of its keepers is left. It may be killed at any time: its keepers continue, and
the next start of a job starts another server.

**Protocol.** A stream socket named `server-<VERSION>` with lines of JSON.

* The server greets each connection with `{"version", "pid"}`.
* A request is what `ProcessRunner.start` sends. The answer is `{"made": bool}`, or `{"error": text}`.
* A connection that sends `{"listen": true}` only receives news, as `[event, uuid]`: a job has `"started"` or `"ended"`.

An engine with another VERSION uses another socket, and so another server.

**Idle keepers.** One keeper is always forked in advance and waits for its job on a socket. The private folder of that
job is prepared, too, and gets its name when the job arrives. The keeper itself prepares the job's log and folders. So
these costs are paid before. After a job that has ended by itself and has left nothing, a keeper waits for another one.

**Files.** In `<data>/process/jobs/<uuid>/`, the private folder of a job, these files appear in this order:

* `attempt`: gives the job to one keeper; see `runners.process.attempts`
* `keeper.json`: pid and start time of the keeper
* `started`: the command has started, and has not ended within a moment
* `note.json`: a sentence that the running job shows, in rare cases
* `exit.json`: how the job ended
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
from typing import Any

from runners.process.keeper import Keeper
from runners.process.keeper_process import PREPARE_AFTER_MS, KeeperProcess, files_of_keeper, keep_jobs, remove_prepared
from runners.process.linux import BOOT_ID_PATH, process_stat

VERSION = 5
"""Version of the protocol."""
REQUEST_LIMIT_BYTES = 1 << 26
IDLE_CHECK_MS = 1000
"""Milliseconds after which an idle server looks whether it can end, or needs fewer keepers."""
IDLE_KEEPERS_LIMIT = 8
"""Keepers that wait for jobs at the same time."""


class Server:
    """The server's event loop, in one thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(BOOT_ID_PATH) as boot_id:
            self.boot_id = boot_id.read().strip()
        self.busy: dict[int, KeeperProcess] = {}
        """Pid → keeper that has a job."""
        self.idle: list[KeeperProcess] = []
        """Keepers that wait for a job, the last one for the shortest time."""
        self.listeners: set[int] = set()
        self.connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self.poll = select.poll()
        self.wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.news_read, self.news_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        self._folder_file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.prepared_folders = f"{folder}/prepared-{VERSION}"
        remove_prepared(self.prepared_folders)
        self.socket_path = f"/proc/self/fd/{self._folder_file}/server-{VERSION}"
        for file in (self.wakeup_read, self.news_read):
            self.poll.register(file, select.POLLIN)
        self.listening = self._listen()

    def _listen(self) -> socket.socket:
        """Bind the socket. Its path goes through the open folder, because it can have at most 107 bytes."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.socket_path)
        os.chmod(self.socket_path, 0o600)
        listening.listen(64)
        listening.setblocking(False)
        self.poll.register(listening.fileno(), select.POLLIN)
        return listening

    def run(self) -> None:
        """Serve until no one is connected and no keeper has a job."""
        must_prepare = False
        while True:
            may_rest = self.connections or self.busy
            pause = None if may_rest and len(self.idle) <= 1 else IDLE_CHECK_MS
            events = self.poll.poll(PREPARE_AFTER_MS if must_prepare else pause)
            for file, _ in events:
                if file == self.listening.fileno():
                    self._accept()
                elif file == self.wakeup_read:
                    self._drain(self.wakeup_read)
                    self._reap()
                elif file == self.news_read:
                    self._take_news(os.read(self.news_read, 1 << 16).decode().splitlines())
                else:
                    self._read(file)
            if must_prepare and not events:
                self._prepare()
            elif not events:
                self._close_idle(keep=1)
            must_prepare = bool(events and self.connections)
            if not self.connections and not self.busy and self._leave():
                return

    def _prepare(self) -> None:
        """Do in advance what the next start needs: fork a keeper, and create the private folder of its job."""
        if not self.idle:
            self._fork_keeper()
        for keeper in self.idle:
            keeper.prepare(self.boot_id)

    def _leave(self) -> bool:
        """Remove the socket. Return False, with a new socket, if a client has connected to the old one meanwhile."""
        os.unlink(self.socket_path)
        self._accept()
        if not self.connections:
            self._close_idle(keep=0)
            return True
        self.poll.unregister(self.listening.fileno())
        self.listening.close()
        self.listening = self._listen()
        return False

    def _close_idle(self, keep: int) -> None:
        """Let idle keepers end, except for the last `keep` ones."""
        while len(self.idle) > keep:
            self.idle.pop(0).close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listening.accept()
                connection.setblocking(True)
                self.connections[connection.fileno()] = (connection, bytearray())
                self.poll.register(connection.fileno(), select.POLLIN)
                self._send(connection, {"version": VERSION, "pid": os.getpid()})

    def _read(self, file: int) -> None:
        connection, buffer = self.connections[file]
        try:
            data = connection.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(buffer) > REQUEST_LIMIT_BYTES:
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
                    self._send(connection, self._answer(request))
            except (ValueError, KeyError, TypeError):  # not a request of an engine
                self._hang_up(file)
                return

    def _hang_up(self, file: int) -> None:
        connection, _ = self.connections.pop(file)
        self.listeners.discard(file)
        self.poll.unregister(file)
        connection.close()

    def _send(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _take_news(self, news: list[str]) -> None:
        """Pass news of keepers on, and note which keepers wait for another job."""
        lines = b""
        for line in news:
            event, uuid, *pids = line.split()
            lines += json.dumps([event, uuid]).encode() + b"\n"
            for pid in pids:
                self._take_back(int(pid))
        for file in self.listeners:
            with contextlib.suppress(OSError):
                self.connections[file][0].send(lines, socket.MSG_DONTWAIT)

    def _answer(self, spec: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"made": self._start(spec)}
        except OSError as error:
            return {"error": f"{error.strerror}: {error.filename}" if error.filename else str(error)}

    def _start(self, spec: dict[str, Any]) -> bool:
        """Give the job to a keeper, unless it has had one. Return whether it was given.

        Raises OSError; then nothing of the job is left.
        """
        uuid = spec["uuid"]
        if not (len(uuid) == 32 and uuid.isalnum()):
            raise ValueError(uuid)
        if not self.idle:
            self._fork_keeper()  # before files of the job are open, which the fork would inherit
        keeper = self.idle[-1]  # it has waited for the shortest time
        folder = keeper.make_folder(f"{self.folder}/jobs/{uuid}", self.boot_id)
        if folder is None:
            return False
        self.busy[keeper.pid] = self.idle.pop()
        try:
            keeper.give_job(spec, folder)
        except OSError:
            keeper.close()
            folder.remove()
            raise
        folder.close()  # the keeper still holds the lock of the attempt
        return True

    def _take_back(self, pid: int) -> None:
        """Use the keeper with this pid for another job, unless it has died or there are enough."""
        keeper = self.busy.pop(pid, None)
        if keeper is not None:
            self.idle.append(keeper)
            self._close_idle(keep=IDLE_KEEPERS_LIMIT)

    def _fork_keeper(self) -> None:
        server_end, keeper_end = socket.socketpair()
        signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid == 0:
            server_end.close()
            self._become_keeper(keeper_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        keeper_end.close()
        self.idle.append(KeeperProcess(pid, process_stat(pid).start_time, server_end, self.prepared_folders))

    def _become_keeper(self, channel: socket.socket) -> None:
        """In the forked process: wait for jobs and keep them. Never returns."""
        exit_code = 1
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            for connection, _ in self.connections.values():
                connection.close()
            for keeper in (*self.idle, *self.busy.values()):
                keeper.close_files()
            self.listening.close()
            for file in (self.wakeup_read, self._wakeup_write, self.news_read, self._folder_file):
                os.close(file)
            keep_jobs(channel, Keeper(self.news_write, files_of_keeper(self.prepared_folders, os.getpid())))
            exit_code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(exit_code)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                keeper = self.busy.pop(pid, None) or next((one for one in self.idle if one.pid == pid), None)
                if keeper is not None:
                    keeper.close()
                    self.idle = [one for one in self.idle if one is not keeper]

    @staticmethod
    def _drain(file: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(file, 4096):
                pass


def main(folder: str) -> None:
    """Run the server of a folder, unless one is running."""
    lock = os.open(f"{folder}/server-{VERSION}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # keepers do not inherit this lock
    except OSError:
        return  # another server is running or just ending
    os.umask(0o022)
    server = Server(folder)
    gc.collect()
    gc.freeze()
    gc.disable()  # forks share memory that is not touched, and nothing here creates cycles
    server.run()
