"""Run commands against a real server, against a scripted one, or without any."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from click.testing import CliRunner, Result

from polyjob.cli import main
from tests.cli import fork_server
from tests.e2e.conftest import ROOT, Server

# Without a server.


def invoke(*arguments: str, **environment: str) -> Result:
    """Run a command in this process, without a server in its environment."""
    without_server = {
        "XDG_CONFIG_HOME": "/nonexistent",
        "POLYJOB_URL": None,
        "POLYJOB_TOKEN": None,
        "POLYJOB_PROJECT": None,
    }
    return CliRunner().invoke(main, arguments, env=without_server | environment)


# Against a real server.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "polyjob", *arguments]


def environment(server: Server, **more: str) -> dict[str, str]:
    return server.environment | {"POLYJOB_DATA_DIR": str(server.data_dir)} | more


def polyjob(
    server: Server, *arguments: str, data: bytes = b"", cwd: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, in a fork of a process that has imported it."""
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(data)
        stdin.seek(0)
        streams = (stdin.fileno(), stdout.fileno(), stderr.fileno())
        code = fork_server.run_command(arguments, environment(server, **more), cwd, streams)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def popen(server: Server, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a command without a terminal."""
    return subprocess.Popen(
        [*prefix, *command(*arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server),
        cwd=ROOT,
    )


def json_of(server: Server, *arguments: str) -> Any:
    """Return the JSON that a command prints."""
    done = polyjob(server, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def finished_job(server: Server, script: str) -> str:
    """Run a job and return its number."""
    number = server.submit(script)["id"]
    server.until_done(int(number))
    return str(number)


class Terminal:
    """A command with a terminal, used as a context. Leaving it waits for the end of the command."""

    def __init__(self, server: Server, *arguments: str) -> None:
        self.exit_code: int | None = None
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.chdir(ROOT)
            os.execve(sys.executable, command(*arguments), environment(server))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            _, status = os.waitpid(self._pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        os.close(self._descriptor)

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def read_until(self, text: bytes, seconds: float = 30) -> bytes:
        output, deadline = b"", time.monotonic() + seconds
        while text not in output and time.monotonic() < deadline:
            if select.select([self._descriptor], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):
                    output += os.read(self._descriptor, 4096)
        assert text in output, output
        return output


# Against a scripted server.

JOB_PATH = "/ana/demo/jobs/1"
JOB_URL = f"/api/v1{JOB_PATH}"
RUNNING_JOB = {
    "id": 1, "unique_name": "ana.demo.jobs.1", "last_status": "running", "finished_at": None, "started_at": None,
    "build_job": None, "notes": [], "urls": {"page": "http://x/1"}, "exit": None, "exit_code": None,
}  # fmt: skip
STOPPED_JOB = RUNNING_JOB | {"last_status": "stopped", "finished_at": "2026-01-01T00:00:00+00:00"}

Responder = Callable[[BaseHTTPRequestHandler], Any]
"""Returns the JSON document of a response, or None if it has responded itself."""


@contextlib.contextmanager
def scripted_server(responders: dict[str, Responder], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve with one responder for each `METHOD /path`, and return the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            document = responders[f"{self.command} {self.path.partition('?')[0]}"](self)
            if document is not None:
                send(self, json.dumps(document).encode())

        do_GET = do_POST = respond

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def server_tls(certificate: Path) -> ssl.SSLContext:
    """Return the TLS of a server with this certificate, whose key is beside it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
