"""Adapters of the peers: job servers and web servers that are measured where they are installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.servers import SLOTS, await_ok, free_port, processes_with, running

TASK_SPOOLER = "task-spooler"
NGINX = "nginx"
COMMANDS = {TASK_SPOOLER: "tsp", NGINX: "nginx"}
"""Peer → the command of its Debian package."""


def is_installed(peer: str) -> bool:
    return shutil.which(COMMANDS[peer]) is not None


class TaskSpooler:
    """A queue of task-spooler of its own. It is used by its command, as there is no other way."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._environment = {**os.environ, "TS_SOCKET": str(folder / "socket"), "TMPDIR": str(folder)}
        self._path = shutil.which(COMMANDS[TASK_SPOOLER]) or ""

    def submit(self, *command: str) -> str:
        """Queue a command, and return its id."""
        found = subprocess.run(
            [self._path, *command], env=self._environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return found.stdout.strip()

    def act(self, *arguments: str) -> None:
        """Run `tsp` without its output, at the least cost."""
        quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
        pid = os.posix_spawn(self._path, [self._path, *arguments], self._environment, file_actions=quiet)
        os.waitpid(pid, 0)

    def submit_many(self, clients: int, seconds: float = 0.0, count: int = 0) -> float:
        """Queue `true` from several clients, for some time or `count` times. Return the jobs per second."""
        until, done = time.perf_counter() + seconds, [0] * clients

        def client(own: int) -> None:
            while done[own] < count // clients or time.perf_counter() < until:
                self.act("true")
                done[own] += 1

        threads = [threading.Thread(target=client, args=(own,)) for own in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - started)

    def processes(self) -> list[int]:
        return processes_with(f"TS_SOCKET={self.folder / 'socket'}")


@contextlib.contextmanager
def task_spooler(folder: Path) -> Iterator[TaskSpooler]:
    """Run a queue with as many slots as the servers until the end of the block."""
    spooler = TaskSpooler(folder)
    try:
        spooler.act("-S", str(SLOTS))
        yield spooler
    finally:
        spooler.act("-K")
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def nginx(folder: Path, files: Path) -> Iterator[int]:
    """Serve a folder by nginx with `sendfile`, and yield the port."""
    folder.mkdir()
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; sendfile on; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ root {files}; }}\n"
        f"location = /healthz {{ return 200 ok; }} }} }}\n"
    )
    command = [COMMANDS[NGINX], "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    log = folder / "output.log"
    with running(command, dict(os.environ), folder, log) as process:
        await_ok(process, port, "/healthz", log)
        yield port
