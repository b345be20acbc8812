"""The engine's connection to the keeper server. It starts the server if none is running."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from runners.base import RunnerUnavailable
from runners.process import keeper_server, launch

START_SECONDS = 15.0
"""Time within which a new server must greet."""
ANSWER_SECONDS = 15.0
"""Time within which the server must answer a request."""
GREETING_SECONDS = 5.0
"""Time within which a running server must greet."""


def _has_input(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


class KeeperClient:
    """Two connections to the keeper server, one for requests and one for news. It reconnects when they break.

    `on_news` is called in a thread of its own with each piece of news: an event and the uuid of its job.
    """

    def __init__(self, folder: Path, on_news: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._on_news = on_news
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None
        self._answers: BinaryIO | None = None
        self._news: socket.socket | None = None

    def check(self) -> None:
        """Connect to the server, and start it if necessary. Raises RunnerUnavailable."""
        with self._lock:
            if self._requests is not None and _has_input(self._requests):  # without a request, it can only be the end
                self._disconnect()
            self._connect()

    def start_job(self, request: dict[str, Any]) -> bool:
        """Make the server give the job to a keeper, unless it has had one. Return whether it was given.

        Idempotent. Raises RunnerUnavailable.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                answer = self._send(self._connect(), line)
                if answer is not None:
                    break
            else:
                raise RunnerUnavailable("the keeper server ended twice during a request; see its `server.log`")
        if "error" in answer:
            raise RunnerUnavailable(f"the keeper server could not start the job: {answer['error']}")
        return bool(answer["made"])

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _send(self, requests: socket.socket, line: bytes) -> dict[str, Any] | None:
        """Send a request and return the answer, or None if the connection broke."""
        assert self._answers is not None
        try:
            requests.sendall(line)
            answer = self._answers.readline()
        except TimeoutError:
            self._disconnect()
            raise RunnerUnavailable("the keeper server does not answer") from None
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self._disconnect()
            return None
        return dict(json.loads(answer))

    def _connect(self) -> socket.socket:
        if self._requests is not None:
            return self._requests
        deadline = time.monotonic() + START_SECONDS
        server: subprocess.Popen[bytes] | None = None
        try:
            while (connection := self._try_connect()) is None:
                if time.monotonic() > deadline:
                    raise RunnerUnavailable(f"the keeper server does not start; see {self._folder}/server.log")
                if server is None or server.poll() is not None:
                    server = self._start_server()
                time.sleep(0.005)
        finally:
            if server is not None:
                threading.Thread(target=server.wait, name="keeper-server", daemon=True).start()
        connection.settimeout(ANSWER_SECONDS)
        self._requests, self._answers = connection, connection.makefile("rb")
        self._listen()
        return connection

    def _listen(self) -> None:
        """Connect for news. Failures are ignored, because the engine polls once a second anyway."""
        news = self._try_connect()
        if news is None:
            return
        with contextlib.suppress(OSError):
            news.sendall(b'{"listen": true}\n')
        self._news = news
        threading.Thread(target=self._read_news, args=(news,), name="keeper-news", daemon=True).start()

    def _read_news(self, news: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), news.makefile("rb") as lines:
            for line in lines:
                event, uuid = json.loads(line)
                self._on_news(event, uuid)

    def _try_connect(self) -> socket.socket | None:
        """Return a connection that the server has greeted, or None. Raises RunnerUnavailable if there is no folder.

        The path goes through the open folder, because the path of a socket can have at most 107 bytes.
        """
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RunnerUnavailable(f"the folder {self._folder} cannot be used: {error.strerror}") from error
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(GREETING_SECONDS)
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
        log = os.open(self._folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                launch.command("keeper_server", str(self._folder)),
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

    def _disconnect(self) -> None:
        if self._requests is not None and self._answers is not None:
            self._answers.close()
            self._requests.close()
            self._requests = self._answers = None
        if self._news is not None:
            with contextlib.suppress(OSError):
                self._news.shutdown(socket.SHUT_RDWR)
            self._news.close()
            self._news = None
