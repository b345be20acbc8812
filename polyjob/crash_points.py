"""Named instants at which a test may have the process die, as a power cut or `kill -9` would have it.

They sit where state changes: before and after every commit, every rename and every call of a runner, in the helper that
does it. The variable `POLYJOB_CRASH_AT` names one, such as `claim:before`; the process that comes by it kills itself.
"""

from __future__ import annotations

import os
import signal

_CRASH_AT = os.environ.get("POLYJOB_CRASH_AT")


def crash_point(name: str) -> None:
    if name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
