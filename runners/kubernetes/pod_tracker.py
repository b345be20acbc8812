"""The runner's memory of each pod.

All of it can be lost: the records on disk and the cluster itself are enough to go on after a restart.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from runners.base import Exit, Exited
from runners.kubernetes import pod_status
from runners.kubernetes.diagnostics import ProblemTimer
from runners.kubernetes.files import Injection
from runners.kubernetes.manifests import JOB
from runners.kubernetes.pod_status import Pod, PodView

WATCH_LAG_SECONDS = 5.0
"""Time by which the watch may be later than the list of pods."""
FORGOTTEN_PODS = 1000
"""Number of forgotten pods that are recognized, the most recent ones, because the watch may still show them."""


@dataclass(eq=False)
class PodTracker:
    """The memory of one pod."""

    pod: Pod | None = None
    """The pod as the last poll listed it; None if it was not in the list."""
    view: PodView | None = None
    """The state of the job according to `pod`."""
    exit: Exited | None = None
    """The final state of the job."""
    disruption: Exit | None = None
    """The end of a job whose pod the cluster takes away. After the deletion, no other source tells why."""
    last_end: Exit | None = None
    """The end of the command that the pod reported last while it was being deleted."""
    is_deleting: bool = False
    """polyjob deletes the pod before its command has begun, and the watch has not shown the pod's last state yet."""
    missing_since: float | None = None
    """Time at which such a pod was first missing in the list."""
    has_begun: bool = False
    """The log shows that the command has begun, while the pod's status does not."""
    killed_at: float = float("-inf")
    """Time of the last KILL for build steps that exceeded their time limit."""
    undelivered_since: float | None = None
    """Time of the first KILL that could not be delivered."""
    problem_timer: ProblemTimer = dataclasses.field(default_factory=ProblemTimer)
    """Measures for how long the pod has not been able to start."""
    helper_timer: ProblemTimer = dataclasses.field(default_factory=ProblemTimer)
    """Measures for how long its helper has not started although the job has ended."""
    injection: Injection = dataclasses.field(default_factory=Injection)
    """The progress of copying the job's files into the pod."""

    def note(self, pod: Pod, is_deleted: bool) -> None:
        """Remember how a job ended whose pod is being deleted: the pod may report it only once."""
        self.disruption = pod_status.disruption(pod) or self.disruption
        if pod["metadata"].get("deletionTimestamp"):
            self.last_end = pod_status.own_end(pod) or self.last_end
        if is_deleted:
            self.is_deleting = False

    def awaits_last_state(self) -> bool:
        """Return whether the watch may still show the last state of a pod that is no longer in the list."""
        if not self.is_deleting:
            return False
        if self.missing_since is None:
            self.missing_since = time.monotonic()
        return time.monotonic() - self.missing_since < WATCH_LAG_SECONDS


class PodTrackers:
    """The trackers of all pods of jobs, by the pod's uid. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trackers: dict[str, PodTracker] = {}
        self._forgotten: deque[str] = deque(maxlen=FORGOTTEN_PODS)

    def get(self, uid: str) -> PodTracker:
        """Return a pod's tracker, a new one if there is none. That of a forgotten pod is not kept."""
        with self._lock:
            tracker = self._trackers.get(uid)
            if tracker is None:
                tracker = PodTracker()
                if uid not in self._forgotten:
                    self._trackers[uid] = tracker
            return tracker

    def forget(self, uid: str) -> None:
        """Forget everything about a pod, also what the watch may still show of it. Idempotent."""
        with self._lock:
            self._trackers.pop(uid, None)
            self._forgotten.append(uid)

    def note(self, pod: Pod, is_deleted: bool = False) -> None:
        """Pass the state of any pod of this installation on to its tracker."""
        if JOB in pod["metadata"]["labels"]:
            self.get(pod["metadata"]["uid"]).note(pod, is_deleted)

    def drop_unlisted(self, listed: Mapping[str, Pod]) -> None:
        """Drop the views of pods that are no longer in the list."""
        with self._lock:
            unlisted = [tracker for uid, tracker in self._trackers.items() if uid not in listed]
        for tracker in unlisted:
            tracker.pod = tracker.view = None
