"""The state of each job: from its pod in the list, the runner's records, and what it remembers of the pod."""

from __future__ import annotations

import dataclasses
import signal

from runners.base import Exit, Exited, Missing, Pending, Reason, Running, State, Unknown
from runners.kubernetes import pod_status, pods
from runners.kubernetes.api import Api
from runners.kubernetes.diagnostics import PodEvents, final_message
from runners.kubernetes.files import FileInjector, PodFiles
from runners.kubernetes.job_records import JobRecords
from runners.kubernetes.manifests import INPUT
from runners.kubernetes.namespace import ANOTHER_CLUSTER, Handle, Namespace
from runners.kubernetes.pod_status import Pod, PodView, StartProblem
from runners.kubernetes.pod_tracker import PodTracker, PodTrackers
from runners.kubernetes.stopper import PodStopper


class JobStates:
    """Determines the states of jobs.

    If the state of a pod requires it, also copies the job's files into the pod, ends build steps that exceed their time
    limit, and deletes a pod that cannot start.
    """

    def __init__(
        self, api: Api, namespace: Namespace, records: JobRecords, trackers: PodTrackers, stopper: PodStopper,
        injector: FileInjector, patience: float,
    ) -> None:  # fmt: skip
        self._api = api
        self._namespace = namespace
        self._records = records
        self._trackers = trackers
        self._stopper = stopper
        self._injector = injector
        self._patience = patience
        self._events = PodEvents(api)

    def update(self, listed: dict[str, Pod]) -> None:
        """Take in the pods of a new list, by uid. A pod that has not changed is not read again."""
        for uid, pod in listed.items():
            tracker = self._trackers.get(uid)
            if tracker.pod is not pod:
                self._trackers.note(pod)
                self._stopper.drop_false_end(pod)
                tracker.pod, tracker.view = pod, pod_status.pod_view(pod)
        self._trackers.drop_unlisted(listed)
        views = [(pod, self._trackers.get(uid).view) for uid, pod in listed.items()]
        self._events.refresh([pod for pod, view in views if view is not None and view.is_unexplained])

    def state(self, handle: Handle) -> State | None:
        """Return the state of a job as of the last list; None if it cannot be determined now."""
        if not handle.pod_uid:
            return Missing()
        if not self._namespace.contains(handle):
            return Unknown(ANOTHER_CLUSTER)
        tracker = self._trackers.get(handle.pod_uid)
        pod, view = tracker.pod, tracker.view
        if tracker.exit is not None:
            return tracker.exit
        if pod is None or view is None:
            return self._unlisted_state(handle, tracker)
        if pod["metadata"].get("deletionTimestamp") and self._records.end(handle.uuid) is not None:
            return Pending("Its pod is being deleted")
        if isinstance(view.state, Exited):
            tracker.exit = self._explain_signal(view.state, handle.uuid)
            return tracker.exit
        if isinstance(view.state, Pending):
            return self._pending_state(handle, tracker, pod, view)
        tracker.problem_timer.reset()
        return view.state

    def recorded_end(self, handle: Handle, tracker: PodTracker) -> Exit | None:
        """Return the end of a job whose pod polyjob deleted because the command had not begun, as far as polyjob knew.

        The last report of the pod takes precedence. Returns None for any other job.
        """
        end, last = self._records.end(handle.uuid), tracker.last_end
        if end is None or last is None:
            return end
        if last.reason is Reason.EXITED or self._records.is_stop_requested(handle.uuid):
            return last
        text = f"polyjob ended it, because its pod reported too late that the command had begun. {end.message}"
        return dataclasses.replace(last, message=text)

    def never_ran(self, handle: Handle) -> bool:
        """Return whether it is certain that the job ran nothing, so that it has left neither a log nor outputs."""
        tracker = self._trackers.get(handle.pod_uid)
        end = tracker.exit.exit if tracker.exit else self.recorded_end(handle, tracker)
        return end is not None and not end.has_begun and end.reason is not Reason.BUILD

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether the pod was in the last list, and its container cannot have written to the log."""
        tracker = self._trackers.get(handle.pod_uid)
        pod, view = tracker.pod, tracker.view
        if pod is None or view is None or tracker.has_begun:
            return False
        return isinstance(view.state, Pending) and not pod_status.has_begun(pod)

    def _unlisted_state(self, handle: Handle, tracker: PodTracker) -> State | None:
        if pods.find(self._api, handle.pod_name, handle.pod_uid) is not None or tracker.awaits_last_state():
            return None
        end = self.recorded_end(handle, tracker) or tracker.disruption
        if end is None:
            return Missing()
        tracker.exit = Exited(end)
        return tracker.exit

    def _explain_signal(self, state: Exited, uuid: str) -> Exited:
        """Add a message if TERM or KILL ended the job, and polyjob did not send it."""
        end = state.exit
        by_signal = end.reason is Reason.SIGNALLED and end.signal in (signal.SIGTERM, signal.SIGKILL)
        if not by_signal or end.message or self._records.is_stop_requested(uuid):
            return state
        text = "Not by polyjob: the job itself or another user sent the signal"
        return dataclasses.replace(state, exit=dataclasses.replace(end, message=text))

    def _pending_state(self, handle: Handle, tracker: PodTracker, pod: Pod, view: PodView) -> State | None:
        if tracker.has_begun:
            return _lagging_state(pod)
        if pod_status.container_runs(pod, INPUT):
            files = self._records.files(handle.uuid) or PodFiles()
            self._injector.begin(pod["metadata"]["name"], files, tracker.injection)
            return Pending(tracker.injection.error) if tracker.injection.error else view.state
        if pod_status.is_building(pod):
            self._stopper.kill_late_build_steps(pod, handle.uuid)
            return view.state
        problem = view.problem or self._events.problem_of(pod)
        if problem is None:
            tracker.problem_timer.reset()
            return view.state
        if tracker.problem_timer.is_final(problem, self._patience):
            return self._fail_start(handle, tracker, pod, problem)
        return Pending(problem.text)

    def _fail_start(self, handle: Handle, tracker: PodTracker, pod: Pod, problem: StartProblem) -> State | None:
        """End a job whose command cannot begin because of a problem."""
        begun = self._stopper.has_begun(pod)
        if begun:
            return _lagging_state(pod)
        end = Exit(problem.reason, message=final_message(problem, self._patience))
        if begun is False and self._stopper.delete_before_start(pod, end):
            return self._unlisted_state(handle, tracker)
        return Pending(problem.text)


def _lagging_state(pod: Pod) -> Running:
    return Running(pod["spec"].get("nodeName"), "The command has begun; its pod does not report that yet")
