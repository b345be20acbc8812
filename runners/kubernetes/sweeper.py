"""Remove polyjob's pods that belong to no job and are not needed any more: fences, builders that nobody listens to, and
carriers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from runners.kubernetes import pods as kubernetes_pods
from runners.kubernetes.api import Api, Object, Refused
from runners.kubernetes.manifests import BUILD, CARRIER, FENCE
from runners.kubernetes.pod_status import moment_of

STALE_AFTER = 600.0
"""Seconds after which no request can still be on its way, nor an engine about to take up a build again."""


class Sweeping:
    """See the module. What it remembers may be lost: then a builder goes later."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._followed: Counter[str] = Counter()
        self._alone: dict[str, float] = {}
        """Since when nobody listens to a builder."""

    @contextlib.contextmanager
    def following(self, name: str) -> Iterator[None]:
        """Keep the pod of that name meanwhile: a builder that is listened to, or one whose files are fetched."""
        with self._lock:
            self._followed[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._followed[name] -= 1

    def sweep(self, pods: Sequence[Object]) -> None:
        """Have those of these pods deleted that serve no more. Raises RunnerUnavailable."""
        now, alone = time.monotonic(), {}
        for pod in pods:
            labels, identity = pod["metadata"]["labels"], pod["metadata"]["uid"]
            is_fence = FENCE in labels or CARRIER in labels
            if BUILD in labels and not self._followed[pod["metadata"]["name"]]:
                alone[identity] = self._alone.get(identity, now)
            age = now - alone.get(identity, now)
            if is_fence:
                age = time.time() - moment_of(pod["metadata"]["creationTimestamp"])
            if age > STALE_AFTER and not self._followed[pod["metadata"]["name"]]:
                with contextlib.suppress(Refused):
                    kubernetes_pods.delete(self._api, pod, 0 if is_fence else 1)
        self._alone = alone
