"""Removes pods that belong to no job and have served their purpose: fences, orphaned builders, carriers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from runners.kubernetes import pods
from runners.kubernetes.api import Api, ApiRefused, Object
from runners.kubernetes.manifests import BUILD, CARRIER, FENCE
from runners.kubernetes.pod_status import unix_time

STALE_SECONDS = 600.0
"""Time after which no request can still be pending, and no engine is about to resume a build."""


class PodSweeper:
    """Removes such pods of one namespace. If its memory is lost, a builder stays for longer."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._in_use: Counter[str] = Counter()
        self._orphaned_since: dict[str, float] = {}
        """Uid of a builder → since when no build of this engine reads it."""

    @contextlib.contextmanager
    def keep(self, name: str) -> Iterator[None]:
        """Keep the pod of that name from being removed meanwhile: a build or a fetch of files uses it."""
        with self._lock:
            self._in_use[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[name] -= 1

    def sweep(self, listed: Sequence[Object]) -> None:
        """Delete those of the listed pods that are stale. Raises RunnerUnavailable."""
        now, orphaned = time.monotonic(), {}
        for pod in listed:
            labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
            is_in_use = self._in_use[pod["metadata"]["name"]] > 0
            if BUILD in labels and not is_in_use:
                orphaned[uid] = self._orphaned_since.get(uid, now)
            age = now - orphaned.get(uid, now)
            has_no_command = FENCE in labels or CARRIER in labels
            if has_no_command:
                age = time.time() - unix_time(pod["metadata"]["creationTimestamp"])
            if age > STALE_SECONDS and not is_in_use:
                with contextlib.suppress(ApiRefused):
                    pods.delete(self._api, pod, 0 if has_no_command else 1)
        self._orphaned_since = orphaned
