"""Crash points: named places where a test can kill the process, as a power cut or `kill -9` would.

They stand before and after every change of state: in the helper functions for commits, renames and calls of a runner.
The variable `POLYJOB_CRASH_AT` names one, such as `claim:before`. A process that reaches it kills itself.
"""

from __future__ import annotations

import os
import signal

_CRASH_AT = os.environ.get("POLYJOB_CRASH_AT")


def crash_point(name: str) -> None:
    """Kill this process if `POLYJOB_CRASH_AT` names this crash point."""
    if name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
