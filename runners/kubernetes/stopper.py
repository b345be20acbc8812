"""Stops jobs: signals their commands, and deletes pods whose command has not begun."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

from runners.base import Exit, Exited, Reason, RunnerUnavailable
from runners.kubernetes import logs, manifests, pod_status, pods
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.exec import CommandFailed, CommandNotRun, run
from runners.kubernetes.job_records import JobRecords
from runners.kubernetes.manifests import JOB, MAIN
from runners.kubernetes.namespace import Handle
from runners.kubernetes.pod_status import Pod
from runners.kubernetes.pod_tracker import PodTrackers

SIGNAL_SECONDS = 20.0
"""Time limit for sending a signal."""
KILL_PERIOD_SECONDS = 5.0
"""Pause between two KILLs for build steps that exceeded their time limit."""
UNDELIVERED_KILL_SECONDS = 30.0
"""Time for which a KILL may fail before polyjob deletes the pod.

The deletion loses the part of the log that was not fetched, and the outputs unless they are in a claim. The time is
long because the job may have ended already, and the status of a pod can lag behind its node.
"""
STOP_ATTEMPTS = 5
"""Number of attempts to stop a pod that keeps changing, before the next call of `stop`."""


class PodStopper:
    """Stops jobs of one namespace."""

    def __init__(self, api: Api, records: JobRecords, trackers: PodTrackers) -> None:
        self._api = api
        self._records = records
        self._trackers = trackers

    def stop(self, handle: Handle, force: bool) -> None:
        """Stop a job, as `Runner.stop` does. Raises ApiRefused, RunnerUnavailable."""
        for _ in range(STOP_ATTEMPTS if handle.pod_uid else 0):
            pod = pods.find(self._api, handle.pod_name, handle.pod_uid)
            if pod is None or isinstance(pod_status.pod_view(pod).state, Exited):
                return
            self._records.write_stop(handle.uuid)
            if pod_status.has_begun(pod) or self.has_begun(pod):
                self.drop_false_end(pod)
                self._signal(pod, handle.uuid, signal.SIGKILL if force else signal.SIGTERM)
                return
            end = Exit(Reason.SIGNALLED, message="It was stopped before its command began", begun=False)
            if self.delete_before_start(pod, end):
                return

    def has_begun(self, pod: Pod) -> bool | None:
        """Return whether the command has begun, although the status does not show it; None if the machine is silent."""
        begun = logs.has_begun(self._api, pod)
        if begun:
            self._trackers.get(pod["metadata"]["uid"]).has_begun = True
        return begun

    def delete_before_start(self, pod: Pod, end: Exit) -> bool:
        """Delete a pod whose command has not begun, according to its status, and record the end of its job.

        Returns False if the pod has changed since it was read. The end is recorded first, because nothing else tells
        how the job ended once the pod is deleted. Raises ApiRefused, RunnerUnavailable.
        """
        uuid, tracker = pod["metadata"]["labels"][JOB], self._trackers.get(pod["metadata"]["uid"])
        with self._records.lock(uuid):
            earlier = self._records.end(uuid)
            tracker.is_deleting = True
            self._records.write_end(uuid, end)
            if pods.delete(self._api, pod, 1, pod["metadata"]["resourceVersion"]):
                tracker.problem_timer.reset()
                return True
            if earlier is not None:  # an earlier call may have deleted the pod
                self._records.write_end(uuid, earlier)
            else:
                self._records.remove_end(uuid)
                tracker.is_deleting = False
            return False

    def drop_false_end(self, pod: Pod) -> None:
        """Remove the recorded end of a job whose command has begun: `delete_before_start` did not delete its pod."""
        if pod_status.has_begun(pod) and not pod["metadata"].get("deletionTimestamp"):
            self._records.remove_end(pod["metadata"]["labels"][JOB])

    def kill_late_build_steps(self, pod: Pod, uuid: str) -> None:
        """Send KILL to a pod whose build steps have exceeded their time limit. Returns at once."""
        limit = (pod["metadata"].get("annotations") or {}).get(manifests.BUILD_TIMEOUT)
        started = pod_status.started_at(pod)
        if limit is None or started is None or time.time() < started + float(limit):
            return
        tracker, now = self._trackers.get(pod["metadata"]["uid"]), time.monotonic()
        if now - tracker.killed_at < KILL_PERIOD_SECONDS:
            return
        tracker.killed_at = now

        def kill() -> None:
            errors = (CommandNotRun, CommandFailed, ApiRefused, RunnerUnavailable)
            with contextlib.suppress(*errors):  # the next poll tries again
                self._run_kill(pod, uuid, signal.SIGKILL)

        threading.Thread(target=kill, name="kubernetes-kill", daemon=True).start()

    def _signal(self, pod: Pod, uuid: str, signal_number: signal.Signals) -> None:
        try:
            self._run_kill(pod, uuid, signal_number)
        except ApiRefused as error:
            if error.status != 404:
                raise
        except (CommandNotRun, CommandFailed):  # it has just ended, or its container has no shell any more
            if signal_number is signal.SIGKILL:
                self._delete_if_undeliverable(pod)

    def _delete_if_undeliverable(self, pod: Pod) -> None:
        tracker, now = self._trackers.get(pod["metadata"]["uid"]), time.monotonic()
        if tracker.undelivered_since is None:
            tracker.undelivered_since = now
        if now - tracker.undelivered_since > UNDELIVERED_KILL_SECONDS:
            pods.delete(self._api, pod, 1)

    def _run_kill(self, pod: Pod, uuid: str, signal_number: signal.Signals) -> None:
        command = manifests.signal_command(signal_number.name.removeprefix("SIG"), uuid)
        run(self._api, pod["metadata"]["name"], MAIN, command, SIGNAL_SECONDS)
