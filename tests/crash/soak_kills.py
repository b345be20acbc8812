"""The kills of a soak test: parts of a server end by SIGKILL at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tests.crash.leftovers import keeper_server_pids
from tests.e2e.conftest import Server


class Killer:
    """Kills parts of a server as planned: pairs of seconds and a victim."""

    def __init__(self, server: Server, kills: Sequence[tuple[float, str]], seed: int) -> None:
        self._server = server
        self._kills = kills
        self._random = random.Random(seed)
        self._killed: Counter[str] = Counter()
        self._is_over = threading.Event()
        self.last_killed_at: float | None = None
        """None while more kills are to come."""

    def run(self, began: float) -> None:
        """Make all kills. Blocks until the last one, or until `stop` is called."""
        try:
            for at, victim in self._kills:
                if self._is_over.wait(max(0.0, began + at - time.monotonic())):
                    break
                self._kill(victim)
        finally:
            self.last_killed_at = time.monotonic()

    def stop(self) -> None:
        self._is_over.set()

    def counts(self) -> str:
        kills = ", ".join(f"{count} {victim}" for victim, count in sorted(self._killed.items()))
        return f"{self._killed.total()} kills ({kills})"

    def _kill(self, victim: str) -> None:
        if victim == "everything":
            self._kill_pids(keeper_server_pids(self._server.data_dir))
            self._server.kill()
            time.sleep(self._random.uniform(0, 1))
            self._server.start()
        else:
            workers, engine = self._server.worker_pids(), self._server.engine_pids()
            pids = {
                "worker": workers[:1],
                "workers": workers,
                "engine": engine,
                "both": workers + engine,
                "keeper server": keeper_server_pids(self._server.data_dir),
                "engine and keeper server": engine + keeper_server_pids(self._server.data_dir),
            }[victim]
            if not self._kill_pids(pids):
                return
        self._killed[victim] += 1

    def _kill_pids(self, pids: list[int]) -> int:
        struck = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck += 1
        return struck
