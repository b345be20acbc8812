"""The engine's connection to the keeper server: made when first needed, with the server started if there is none."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from runners.base import RunnerUnavailable
from runners.process import keeper_server

CONNECT_PATIENCE = 15.0
"""Seconds that a new server gets to greet."""
ANSWER_PATIENCE = 15.0
"""Seconds that a request waits for its answer."""


def _has_more(file: BinaryIO) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


class ServerLink:
    """Two connections, one to ask and one to hear news by, taken up again when the server has gone.

    `on_news` is called in a thread, with the uuid of a job that has ended, or another text.
    """

    def __init__(self, folder: Path, on_news: Callable[[str], None]) -> None:
        self._folder = folder
        self._on_news = on_news
        self._lock = threading.Lock()
        self._asking: BinaryIO | None = None
        self._news: socket.socket | None = None

    def check(self) -> None:
        """Have a connection, to a server that is there. Raises RunnerUnavailable."""
        with self._lock:
            if self._asking is not None and _has_more(self._asking):  # nothing was asked: it is the end
                self._hang_up()
            self._connect()

    def ask(self, request: dict[str, Any]) -> None:
        """Have a keeper given the job, unless the job has had one. Raises RunnerUnavailable; asking again is safe."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                asking = self._connect()
                answer = self._exchange(asking, line)
                if answer is not None:
                    break
            else:
                raise RunnerUnavailable("the keeper server went away")
        if "error" in answer:
            raise RunnerUnavailable(f"the keeper server could not start the job: {answer['error']}")

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _exchange(self, asking: BinaryIO, line: bytes) -> dict[str, Any] | None:
        """The answer; None where the connection broke."""
        try:
            asking.write(line)
            answer = asking.readline()
        except TimeoutError:
            self._hang_up()
            raise RunnerUnavailable("the keeper server does not answer") from None
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self._hang_up()
            return None
        return dict(json.loads(answer))

    def _connect(self) -> BinaryIO:
        if self._asking is not None:
            return self._asking
        deadline = time.monotonic() + CONNECT_PATIENCE
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
        connection.settimeout(ANSWER_PATIENCE)
        self._asking = cast(BinaryIO, connection.makefile("rwb", buffering=0))
        connection.close()  # the file holds it open
        self._listen()
        return self._asking

    def _listen(self) -> None:
        """Without news the engine looks once a second; so a connection that cannot be had is no fault."""
        news = self._try_connect()
        if news is None:
            return
        with contextlib.suppress(OSError):
            news.sendall(b'{"listen": true}\n')
        self._news = news
        threading.Thread(target=self._hear, args=(news,), name="keeper-news", daemon=True).start()

    def _hear(self, news: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), news.makefile("rb") as lines:
            for line in lines:
                self._on_news(json.loads(line))

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

    def _hang_up(self) -> None:
        if self._asking is not None:
            with contextlib.suppress(OSError):
                self._asking.close()
            self._asking = None
        if self._news is not None:
            with contextlib.suppress(OSError):
                self._news.shutdown(socket.SHUT_RDWR)
            self._news.close()
            self._news = None
