"""The connection to a Docker Engine: the client, the identity of the Engine, and the events of its containers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests
from docker.errors import DockerException

from runners.docker.engine import INSTALLATION, EngineInfo, connect, identify_engine, safe_ulimits, translate_errors

RECONNECT_SECONDS = 0.5


class Connection:
    """One client for all threads, created at the first use. All that it remembers can be lost."""

    def __init__(self, installation: str, wake: Callable[[], None]) -> None:
        self.installation = installation
        self.exit_codes: dict[str, str] = {}
        """Container → exit code, as text, from the event of its end.

        The Engine lists such a container as running for another moment.
        """
        self.out_of_memory: set[str] = set()
        """Containers in which a process was killed because the memory limit was reached."""
        self.ulimits: Sequence[Any] = ()
        """Limits of open files and processes for containers, if the machine does not allow the Engine's defaults."""
        self._wake = wake
        self._lock = threading.Lock()
        self._client: Any = None
        self._info: EngineInfo | None = None
        self._is_current = False
        self._outages: deque[tuple[float, float]] = deque(maxlen=20)
        """(begin, end) of each outage, as Unix times."""
        self._is_closed = False

    def client(self) -> Any:
        """Return the client. Identifies the Engine first if it is not identified yet, or was unreachable since.

        Raises RunnerUnavailable.
        """
        with self._lock:
            with translate_errors():
                client = self._client or connect()
                if not self._is_current:
                    self._info, self.ulimits = identify_engine(client, self.installation), ()
                    self._is_current = True
            if self._client is None:
                self._client = client
                threading.Thread(target=self._listen, args=(client,), name="docker-events", daemon=True).start()
            return client

    @property
    def info(self) -> EngineInfo:
        """The identity and features of the Engine. Call `client` before."""
        assert self._info is not None
        return self._info

    def identify_again(self) -> None:
        """Identify the Engine again at the next use, which also repairs a missing or duplicate network."""
        self._is_current = False

    def lower_ulimits(self) -> None:
        """Set limits of open files and processes that the Engine's machine allows, for all containers from now on."""
        self.ulimits = safe_ulimits(self.client())

    def was_away(self, moment: float) -> bool:
        """Return whether the Engine was unreachable at this Unix time."""
        return any(begin - 1.0 <= moment <= end for begin, end in self._outages)

    def forget(self, container: str) -> None:
        self.exit_codes.pop(container, None)
        self.out_of_memory.discard(container)

    def close(self) -> None:
        self._is_closed = True

    def _listen(self, client: Any) -> None:
        """Wake the server's engine whenever a container ends. While the stream is broken, the regular polls suffice."""
        filters = {"label": f"{INSTALLATION}={self.installation}", "type": "container"}
        away_since = None
        while not self._is_closed:
            with contextlib.suppress(DockerException, requests.RequestException, OSError, ValueError):
                events = client.events(filters=filters, decode=True)
                if away_since is not None:
                    self._outages.append((away_since, time.time()))
                    away_since = None
                self._wake()
                for event in events:
                    self._on_event(event)
            away_since, self._is_current = away_since or time.time(), False
            if not self._is_closed:
                threading.Event().wait(RECONNECT_SECONDS)

    def _on_event(self, event: Mapping[str, Any]) -> None:
        """Process any event. The Engine does not filter by name: one that does not know a name would send no events."""
        if event["Action"] == "oom":
            self.out_of_memory.add(event["id"])
        elif event["Action"] == "die":
            self.exit_codes[event["id"]] = event["Actor"]["Attributes"].get("exitCode", "")
            self._wake()
