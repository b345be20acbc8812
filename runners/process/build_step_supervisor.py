"""The supervisor of one build step: kills the step when the engine that started it dies.

    python -I -S launch.py build_step_supervisor

Standard library only. The first line of standard input is a JSON object that describes the command. The engine holds
the other end of standard input open. When that reaches its end, the command and all its descendants are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal

from runners.process.spawn import Account, spawn
from runners.process.supervisor import FORCE, TERM, Supervisor

NO_COMMAND_EXIT_CODE = 125
NOT_STARTED_EXIT_CODE = 126


def main() -> None:
    """Run the command, with its output on standard output. Exit with its exit code, or 128 + n after signal n."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (TERM, FORCE, signal.SIGCHLD))
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1 << 16)
        if not data:
            os._exit(NO_COMMAND_EXIT_CODE)
        line += data
    request = json.loads(line)
    supervisor = Supervisor(lifeline=0)
    supervisor.on_unkillable = lambda names: _print(
        f"Cannot be killed, because it runs as another account: {', '.join(names)}"
    )
    supervisor.grace = request["grace"]
    try:
        os.chdir(request["folder"])
        command = spawn(request["argv"], request["env"], 1, Account.of(request))
    except (OSError, ValueError) as error:
        _print(f"{request['argv'][0]}: {getattr(error, 'strerror', None) or error}")
        os._exit(NOT_STARTED_EXIT_CODE)
    status = supervisor.wait(command)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # the engine may have died
        os.write(1, f"{line}\n".encode())
