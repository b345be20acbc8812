"""Crash points: named places where a test can kill the process, as a power cut or `kill -9` would.

They are where state changes: before and after every commit, every rename and every call of a runner, in the helper
functions for these. The variable `POLYJOB_CRASH_AT` names one, such as `claim:before`. A process that reaches it kills
itself.
"""

from __future__ import annotations

import os
import signal

_CRASH_AT = os.environ.get("POLYJOB_CRASH_AT")


def crash_point(name: str) -> None:
    """Kill this process if `POLYJOB_CRASH_AT` names this crash point."""
    if name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
