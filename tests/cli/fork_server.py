"""Run commands in forks of a process that has imported the command line.

Each command is a process with its own streams, environment and folder, but does not spend time on imports.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from polyjob.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_REQUEST_BYTES = 1 << 17
TIMEOUT_SECONDS = 60


def run_command(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, streams: Sequence[int]) -> int:
    """Run a command with these standard streams, and return its exit code."""
    request = json.dumps({"arguments": arguments, "environment": dict(environment), "cwd": str(cwd)}).encode()
    near, far = socket.socketpair()
    with near:
        with far:
            socket.send_fds(_start(), [request], [*streams, far.fileno()])
        near.settimeout(TIMEOUT_SECONDS)
        return int(near.recv(16))


@functools.cache
def _start() -> socket.socket:
    """Start the server, and return the socket for requests. The server ends when it is closed."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        command = [sys.executable, "-m", "tests.cli.fork_server", str(far.fileno())]
        process = subprocess.Popen(command, pass_fds=[far.fileno()], stdin=subprocess.DEVNULL, cwd=ROOT)

    def close() -> None:
        near.close()
        process.wait(TIMEOUT_SECONDS)

    atexit.register(close)
    return near


def _serve(requests: socket.socket) -> None:
    for module, _ in COMMANDS.values():
        importlib.import_module(f"polyjob.cli.{module}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork is waited for
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            _run_fork(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run_fork(request: Mapping[str, object], descriptors: list[int]) -> None:
    *streams, answer = descriptors
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        main(request["arguments"], prog_name="polyjob")
    except SystemExit as error:
        code = int(error.code) if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for output in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                output.flush()
        os.write(answer, str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _serve(requests)
