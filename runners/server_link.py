"""The engine's connection to the keeper server: made when first needed, with the server started if there is none."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners import keeper_server
from runners.base import RunnerUnavailable

CONNECT_PATIENCE = 15.0
"""Seconds that a new server gets to greet."""
ANSWER_PATIENCE = 15.0
"""Seconds that a request waits for its answer."""


class ServerLink:
    """One connection, shared by threads, taken up again when the server has gone."""

    def __init__(self, folder: Path, wake: Callable[[], None]) -> None:
        self._folder = folder
        self._wake = wake
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def check(self) -> None:
        """Have a connection. Raises RunnerUnavailable."""
        with self._lock:
            self._connect()

    def ask(self, request: dict[str, Any]) -> None:
        """Have a keeper forked, unless the job has had one. Raises RunnerUnavailable; asking again is safe."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                self._connect()
                answer = self._exchange(line)
                if answer is not None:
                    break
            else:
                raise RunnerUnavailable("the keeper server went away")
        if "error" in answer:
            raise RunnerUnavailable(f"the keeper server could not start the job: {answer['error']}")

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _exchange(self, line: bytes) -> dict[str, Any] | None:
        """The answer; None where the connection broke."""
        assert self._connection is not None
        try:
            self._connection.sendall(line)
            answer = self._answers.get(timeout=ANSWER_PATIENCE)
        except queue.Empty:
            self._hang_up()
            raise RunnerUnavailable("the keeper server does not answer") from None
        except OSError:
            answer = None
        if answer is None:
            self._hang_up()
        return answer

    def _connect(self) -> None:
        if self._connection is not None:
            return
        deadline = time.monotonic() + CONNECT_PATIENCE
        server: subprocess.Popen[bytes] | None = None
        while True:
            connection = self._try_connect()
            if connection is not None:
                break
            if time.monotonic() > deadline:
                raise RunnerUnavailable(f"the keeper server does not start; see {self._folder}/server.log")
            if server is None or server.poll() is not None:
                server = self._start_server()
            time.sleep(0.005)
        if server is not None:
            threading.Thread(target=server.wait, name="keeper-server", daemon=True).start()
        self._connection = connection
        self._answers = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(connection, self._answers), name="server-link", daemon=True).start()

    def _try_connect(self) -> socket.socket | None:
        """Through the open folder, as a socket's path has 107 bytes at most."""
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {self._folder} cannot be used: {error.strerror}") from error
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{folder}/server-{keeper_server.VERSION}")
            if not connection.recv(4096).endswith(b"\n"):
                raise OSError
            connection.settimeout(None)
        except OSError:
            connection.close()
            return None
        finally:
            os.close(folder)
        return connection

    def _start_server(self) -> subprocess.Popen[bytes]:
        script = str(Path(keeper_server.__file__).resolve())
        log = os.open(self._folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except OSError as error:
            raise RunnerUnavailable(f"the keeper server cannot be started: {error}") from error
        finally:
            os.close(log)

    def _read(self, connection: socket.socket, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        """In a thread: answers to who asked, news to the engine."""
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            for line in lines:
                answer = json.loads(line)
                if "look" in answer:
                    self._wake()
                else:
                    answers.put(answer)
        answers.put(None)

    def _hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
            self._connection = None
