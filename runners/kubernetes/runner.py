"""Jobs in pods of a Kubernetes cluster: nothing but the API server is used, no volume is shared with polyjob.

A pod bears the job's fixed name and the labels that find and adopt it. What was started is written down in the
runner's own folder, `<data>/kubernetes/<job uuid>`: so a job whose pod somebody removed is `Missing` and never runs
again. Beside it stand what is still to be put into the pod (`.files`, written before the pod is requested), that a stop
was asked for (`.stop`), and how a job ends whose pod is deleted before its command began (`.end`, written before the
deletion is requested).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from runners.base import (
    ArtifactMissing,
    BuildSpec,
    Exit,
    Exited,
    HandleNotFound,
    JobSpec,
    Missing,
    Pending,
    Reason,
    RemoteRunner,
    RunnerError,
    RunnerRefused,
    RunnerSettings,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    Unknown,
)
from runners.common.ledger import Records
from runners.kubernetes import (
    files,
    manifests,
    pod_status,
    refusals,
)
from runners.kubernetes import (
    logs as kubernetes_logs,
)
from runners.kubernetes import (
    pods as kubernetes_pods,
)
from runners.kubernetes.api import Api, Listing, Object, Refused
from runners.kubernetes.builds import GONE, build_image, is_own, is_there, not_for_jobs, pod_name
from runners.kubernetes.claims import Carriers
from runners.kubernetes.diagnostics import Troubles
from runners.kubernetes.exec import Failed, NotRun, run
from runners.kubernetes.files import FileInjector, PodFiles
from runners.kubernetes.logs import LogCursor, Logs
from runners.kubernetes.manifests import CLAIM, HELPER, HOME, INPUT, INSTALLATION, JOB, MAIN
from runners.kubernetes.options import Options
from runners.kubernetes.permissions import Rights
from runners.kubernetes.pod_status import Pod, Seen
from runners.kubernetes.sweeper import Sweeping
from runners.kubernetes.watch import Hints
from runners.machine_faults import is_machine_fault

EXEC = 20.0
"""Seconds that a signal may take."""
KILL_EVERY = 5.0
UNHEARD_FOR = 30.0
"""Seconds for which a KILL may fail before polyjob deletes the pod. What was not fetched of its log is lost then, and
so are its outputs unless they are in a claim. It is long because the job may have ended, and the status of a pod can
lag behind its node."""
QUIETEST, LOOKS = 10.0, 20.0
"""Seconds from look to look at the log of a job that writes nothing; and how many such looks are made in a second."""
PENDING_REQUEST_SECONDS = 240.0
"""Seconds after the start of a request for a pod in which the cluster may still carry it out. `Api.ask` sends the last
try after up to 132 seconds, and the API server's own time limit is 60 seconds."""
WATCH_LAG = 5.0
"""Seconds that the watch may be behind the list of pods."""
CHANGES = 5
"""How often a pod that changes all the time is looked at before it is left for later."""
CLEANED_JOBS = 1000
"""Number of cleaned jobs that are remembered, the last ones, because the watch may still show their pods."""
FILES, STOP, END = ".files", ".stop", ".end"
ELSEWHERE = "The job is in another cluster or namespace than the one that polyjob uses now."


class KubernetesRunner(RemoteRunner):
    """See the module."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self.options = Options.read(settings.options)
        self._records = Records(Path(settings.data_dir) / "kubernetes")
        self._api = Api(self.options)
        self._rights = Rights(self._api, self.options)
        self._selector = [("labelSelector", f"{INSTALLATION}={settings.installation}")]
        self._listing = Listing(self._api, self._api.pods, self._selector)
        self._views: dict[str, tuple[Pod, Seen]] = {}
        """The pods as they were last listed, and what they say."""
        self._hints = Hints(self._api, self._selector, wake, self._note_end)
        self._giving = FileInjector(self._api, self._records.folder)
        self._carriers = Carriers(self._api, self.options, settings.installation)
        self._logs = Logs()
        self._lock = threading.Lock()
        self._space: str | None = None
        """Which namespace of which cluster it is; empty where that may not be asked."""
        self._sweeping = Sweeping(self._api)
        self._exits: dict[str, Exited] = {}
        self._disruptions: dict[str, Exit] = {}
        """Of jobs whose pods the cluster takes away, and leaves nothing of; may be lost: then nobody knows why."""
        self._last_ends: dict[str, Exit] = {}
        """The last reported end of each command whose pod is being deleted; may be lost."""
        self._deleting: set[str] = set()
        """Pods that polyjob deletes before their command has begun, until the watch shows that they are gone; may be
        lost."""
        self._missing_since: dict[str, float] = {}
        """Since when those of them are missing in the list."""
        self._cleaned: deque[str] = deque(maxlen=CLEANED_JOBS)
        """Pods of cleaned jobs: nothing more is remembered of them."""
        self._begun: set[str] = set()
        """Pods whose log shows that the command has begun, while their status does not."""
        self._troubles = Troubles(self._api, self.options.patience)
        self._killed_at: dict[str, float] = {}
        """When the build steps in these pods, which took too long, were last sent KILL."""
        self._unheard: dict[str, float] = {}
        """Since when the containers of these pods take no KILL."""

    def check(self) -> None:
        with _said():
            self._ready()
            self._rights.check()

    def probe(self) -> None:
        with _said():
            self._rights.check()

    def close(self) -> None:
        self._hints.close()
        self._logs.close()
        self._api.close()

    def _ready(self) -> Api:
        """The API, once it is known which cluster it is of. Raises Refused, RunnerUnavailable."""
        with self._lock:
            if self._space is None:
                try:
                    found = self._api.get(f"/api/v1/namespaces/{self._api.namespace}")
                    self._space = str(found["metadata"]["uid"])
                except Refused as error:
                    if error.status not in (403, 404):
                        raise
                    self._space = ""
                self._hints.begin()
        return self._api

    # Building.

    artifact_kind = "image"

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        with _said():
            api = self._ready()
            with self._sweeping.following(pod_name(spec)):
                return build_image(api, spec, log, cancelled, self.options, self._records.folder)

    # Starting.

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        with _said(refusals.of_one), self._records.alone(spec.uuid):
            known = self._records.read(spec.uuid)
            if known is not None:
                return known
            try:
                found = self._made(self._ready(), spec, manifests.artifact_of(spec, artifact))
            except StartFailed as error:
                if self._records.read(spec.uuid, FILES) is not None:  # a request may be on its way, which needs a fence
                    raise RunnerRefused(str(error)) from None
                self._records.remove(spec.uuid)
                raise
            handle = self._handle(spec.uuid, found)
            self._records.write(spec.uuid, handle)
            return handle

    def _made(self, api: Api, spec: JobSpec, made: manifests.Artifact) -> Object:
        """The job's pod, made now or by an earlier start."""
        found = self._found(api, spec)
        if found is None:
            if not made.is_built and is_own(made.image, self.options):
                raise StartFailed(not_for_jobs(made.image), Reason.IMAGE)
            self._refuse_outdated(spec, made)
            found = self._create(api, spec, made) or self._found(api, spec)
        if found is None:
            raise RunnerUnavailable(f"The name {spec.name} was taken by a pod that is gone again.")
        return found

    def _refuse_outdated(self, spec: JobSpec, made: manifests.Artifact) -> None:
        if spec.is_pinned:
            return
        if made.steps and self.options.registry:
            raise ArtifactMissing("there is a registry now, which its image can be kept in")
        if made.is_built and is_there(made.image, self.options) is False:
            raise ArtifactMissing(GONE)

    def _create(self, api: Api, spec: JobSpec, made: manifests.Artifact) -> Object | None:
        """The new pod; None where there is one of that name. Raises as `start`.

        Once a request was sent whose outcome is not certain, `FILES` stays, so that `prevent_start` takes the pod's
        name.
        """
        is_first = self._records.read(spec.uuid, FILES) is None
        self._records.write(spec.uuid, PodFiles(spec.upload, spec.inputs).text(), FILES)
        try:
            return kubernetes_pods.create(api, manifests.job_pod(spec, made, self.options))
        except Refused as error:
            if is_first and error.is_clear:
                self._records.forget(spec.uuid, FILES)
            raise refusals.of_create(error) from None

    def _found(self, api: Api, spec: JobSpec) -> Object | None:
        """The pod of this job that an earlier start has made."""
        found = kubernetes_pods.find(api, spec.name)
        if found is None:
            return None
        labels = found["metadata"].get("labels") or {}
        if labels.get(INSTALLATION) != self.settings.installation or labels.get(JOB) != spec.uuid:
            raise StartFailed(f"A pod named {spec.name} is there, and is not of this polyjob.")
        return found

    # Watching.

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        if not handles:
            return {}
        self.max_log_pause = max(QUIETEST, len(handles) / LOOKS)
        with _said():
            api = self._ready()
            listed = {
                pod["metadata"]["uid"]: pod for pod in self._listing.objects() if JOB in pod["metadata"]["labels"]
            }
            told = [json.loads(handle) for handle in handles]
            views = self._views = {identity: self._view(identity, pod) for identity, pod in listed.items()}
            self._troubles.look([pod for pod, view in views.values() if view.is_unexplained])
            states = {}
            for handle, one in zip(handles, told, strict=True):
                pod, view = views.get(one["id"], (None, None))
                state = self._state(api, one, pod, view)
                if state is not None:
                    states[handle] = state
            return states

    def _view(self, identity: str, pod: Pod) -> tuple[Pod, Seen]:
        """What a pod says; read once of one that has not changed."""
        known = self._views.get(identity)
        if known is not None and known[0] is pod:
            return known
        self._note_end(pod)
        self._drop_false_end(pod)
        return pod, pod_status.seen(pod)

    def _drop_false_end(self, pod: Pod) -> None:
        """Forget the end of a job whose command has begun: `_take_away` wrote it, and did not delete the pod."""
        if pod_status.has_begun(pod) and not pod["metadata"].get("deletionTimestamp"):
            self._records.forget(pod["metadata"]["labels"][JOB], END)

    def _note_end(self, pod: Pod, is_gone: bool = False) -> None:
        """Remember how a job ended whose pod is being deleted: the pod may report it only once."""
        if JOB not in pod["metadata"]["labels"]:
            return
        identity, end = pod["metadata"]["uid"], pod_status.disruption(pod)
        if end is not None:
            self._disruptions[identity] = end
        last = pod_status.own_end(pod) if pod["metadata"].get("deletionTimestamp") else None
        if last is not None:
            self._last_ends[identity] = last
        if is_gone:
            self._deleting.discard(identity)
        if identity in self._cleaned:  # asked last, because `clean` may run meanwhile
            self._forget_end(identity)

    def _forget_end(self, identity: str) -> None:
        self._disruptions.pop(identity, None)
        self._last_ends.pop(identity, None)
        self._deleting.discard(identity)

    def _state(self, api: Api, handle: Mapping[str, Any], pod: Pod | None, view: Seen | None) -> State | None:
        identity, uuid = handle["id"], handle["uuid"]
        if not identity:
            return Missing()
        if not self._is_here(handle):
            return Unknown(ELSEWHERE)
        if identity in self._exits:
            return self._exits[identity]
        if pod is None or view is None:
            return self._of_missing(api, identity, uuid)
        if pod["metadata"].get("deletionTimestamp") and self._records.read(uuid, END):
            return Pending("It is being taken away")
        if isinstance(view.state, Exited):
            self._exits[identity] = self._completed(view.state, uuid)
            return self._exits[identity]
        if isinstance(view.state, Pending):
            return self._pending(api, pod, view, uuid)
        self._troubles.forget(identity)
        return view.state

    def _of_missing(self, api: Api, identity: str, uuid: str) -> State | None:
        if kubernetes_pods.find(api, f"polyjob-{uuid}", identity) is not None or self._may_yet_be_shown(identity):
            return None
        end = self._end_taken_away(identity, uuid) or self._disruptions.get(identity)
        if end is None:
            return Missing()
        self._exits[identity] = Exited(end)
        return self._exits[identity]

    def _may_yet_be_shown(self, identity: str) -> bool:
        """Return whether the watch may still show the last state of a pod that is no longer in the list."""
        if identity not in self._deleting:
            return False
        return time.monotonic() - self._missing_since.setdefault(identity, time.monotonic()) < WATCH_LAG

    def _end_taken_away(self, identity: str, uuid: str) -> Exit | None:
        """Return the end of a job whose pod polyjob deleted before the command began, as far as polyjob knew, else
        None. What the pod reported last takes precedence."""
        known, last = self._records.read(uuid, END), self._last_ends.get(identity)
        end = Exit.from_json(json.loads(known)) if known else None
        if end is None or last is None or last.reason is Reason.EXITED or self._records.read(uuid, STOP) is not None:
            return end if end is None or last is None else last
        text = f"polyjob ended it, because its pod said too late that the command had begun. {end.message}"
        return dataclasses.replace(last, message=text)

    def _completed(self, state: Exited, uuid: str) -> Exited:
        """With who ended it, of a job that TERM or KILL has ended; and we did not."""
        end = state.exit
        by_signal = end.reason is Reason.SIGNALLED and end.signal in (signal.SIGTERM, signal.SIGKILL)
        if not by_signal or end.message or self._records.read(uuid, STOP) is not None:
            return state
        text = "Not by polyjob: the job itself, or somebody else"
        return dataclasses.replace(state, exit=dataclasses.replace(end, message=text))

    def _pending(self, api: Api, pod: Pod, view: Seen, uuid: str) -> State | None:
        identity, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if identity in self._begun:
            return self._lagging(pod)
        if pod_status.container_runs(pod, INPUT):
            self._giving.begin(name, PodFiles.read(self._records.read(uuid, FILES) or "{}"))
            why = self._giving.trouble(name)
            return Pending(why) if why else view.state
        if pod_status.is_building(pod):
            self._end_late_steps(api, pod, uuid)
            return view.state
        trouble = view.trouble or self._troubles.of(pod)
        if trouble is None:
            self._troubles.forget(identity)
            return view.state
        if self._troubles.is_too_long(identity, trouble):
            begun = self._has_begun(api, pod)
            if begun is not False:
                return self._lagging(pod) if begun else Pending(trouble.text)
            end = Exit(trouble.reason, message=self._troubles.sentence(trouble))
            if self._take_away(api, pod, end):
                return self._of_missing(api, identity, uuid)
        return Pending(trouble.text)

    def _has_begun(self, api: Api, pod: Pod) -> bool | None:
        """Whether the command of a pod that does not say so has begun; None where its machine cannot be asked."""
        begun = kubernetes_logs.has_begun(api, pod)
        if begun:
            self._begun.add(pod["metadata"]["uid"])
        return begun

    def _lagging(self, pod: Pod) -> Running:
        return Running(pod["spec"].get("nodeName"), "The command has begun, and its pod does not say so yet")

    def _end_late_steps(self, api: Api, pod: Pod, uuid: str) -> None:
        limit = (pod["metadata"].get("annotations") or {}).get(manifests.BUILD_TIMEOUT)
        started = pod_status.started_at(pod)
        if limit is None or started is None or time.time() < started + float(limit):
            return
        identity, now = pod["metadata"]["uid"], time.monotonic()
        if now - self._killed_at.get(identity, float("-inf")) < KILL_EVERY:
            return
        self._killed_at[identity] = now

        def kill() -> None:
            with contextlib.suppress(NotRun, Failed, Refused, RunnerUnavailable):  # it is tried again
                run(api, pod["metadata"]["name"], MAIN, manifests.signal_command("KILL", uuid), EXEC)

        threading.Thread(target=kill, name="kubernetes-kill", daemon=True).start()

    def _is_here(self, handle: Mapping[str, Any]) -> bool:
        if handle["namespace"] != self._api.namespace:
            return False
        return not (handle["space"] and self._space) or handle["space"] == self._space

    def inventory(self) -> dict[str, str]:
        with _said():
            api = self._ready()
            pods = Listing(api, api.pods, self._selector).objects()
            self._sweeping.sweep(pods)
            return {
                pod["metadata"]["labels"][JOB]: self._handle(pod["metadata"]["labels"][JOB], pod)
                for pod in pods
                if JOB in pod["metadata"]["labels"]
            }

    # Ending.

    def stop(self, handle: str, force: bool) -> None:
        told = self._mine(handle)
        number = signal.SIGKILL if force else signal.SIGTERM
        with _said():
            api = self._api
            for _ in range(CHANGES if told["id"] else 0):
                pod = self._own_pod(api, told)
                if pod is None or isinstance(pod_status.seen(pod).state, Exited):
                    return
                self._records.write(told["uuid"], "", STOP)
                if pod_status.has_begun(pod) or self._has_begun(api, pod):
                    self._drop_false_end(pod)
                    self._signal(api, pod, told["uuid"], number)
                    return
                end = Exit(Reason.SIGNALLED, message="It was stopped before its command began", begun=False)
                if self._take_away(api, pod, end):
                    return

    def _signal(self, api: Api, pod: Pod, uuid: str, number: signal.Signals) -> None:
        name = pod["metadata"]["name"]
        try:
            run(api, name, MAIN, manifests.signal_command(number.name.removeprefix("SIG"), uuid), EXEC)
        except Refused as error:
            if error.status != 404:
                raise
        except (NotRun, Failed):  # it has ended just now, and the pod does not say so yet; or it has no shell any more
            if number is signal.SIGKILL:
                since = self._unheard.setdefault(pod["metadata"]["uid"], time.monotonic())
                if time.monotonic() - since > UNHEARD_FOR:
                    kubernetes_pods.delete(api, pod, 1)

    def _take_away(self, api: Api, pod: Pod, end: Exit) -> bool:
        """Delete a pod whose command has not begun, as far as the pod says, and remember `end` as the job's. Return
        False if the pod has changed since it was looked at.

        The end is written first: once the pod is deleted, nothing else tells how the job ended."""
        identity, uuid = pod["metadata"]["uid"], pod["metadata"]["labels"][JOB]
        with self._records.alone(uuid):
            earlier = self._records.read(uuid, END)
            self._deleting.add(identity)
            self._records.write(uuid, json.dumps(end.to_json()), END)
            if kubernetes_pods.delete(api, pod, 1, pod["metadata"]["resourceVersion"]):
                self._troubles.forget(identity)
                return True
            if earlier is not None:  # an earlier call may have deleted the pod
                self._records.write(uuid, earlier, END)
            else:
                self._records.forget(uuid, END)
                self._deleting.discard(identity)
            return False

    def clean(self, handle: str) -> None:
        told = self._mine(handle)
        with _said():
            api = self._api
            pod = self._own_pod(api, told) if told["id"] else None
            has_files = self._has_files(told, pod)
            if pod is not None:
                has_files = not self._remove(api, pod) and has_files
                kubernetes_pods.wait_until_gone(api, pod["metadata"]["name"], told["id"])
            if has_files:
                self._carriers.clear(told["uuid"])
        identity, name = told["id"], f"polyjob-{told['uuid']}"
        self._cleaned.append(identity)
        self._forget_end(identity)
        self._exits.pop(identity, None)
        self._missing_since.pop(identity, None)
        self._begun.discard(identity)
        self._unheard.pop(identity, None)
        self._killed_at.pop(identity, None)
        self._troubles.forget(identity)
        self._giving.forget(name)
        self._logs.forget(name)
        self._records.remove(told["uuid"], FILES, STOP, END)

    def _has_files(self, told: Mapping[str, Any], pod: Pod | None) -> bool:
        """Whether the claim may hold files of a job."""
        is_nowhere = pod is not None and not (pod.get("spec") or {}).get("nodeName")
        return bool(self.options.claim and told["id"]) and not is_nowhere and not self._never_ran(told)

    def _remove(self, api: Api, pod: Pod) -> bool:
        """Delete a pod, without a grace only where nothing of the job runs: then nobody has to be waited for. Return
        whether its files in the claim were removed before."""
        is_over, is_cleared = isinstance(pod_status.seen(pod).state, Exited), False
        if self.options.claim and is_over and pod_status.container_runs(pod, HELPER):
            with contextlib.suppress(NotRun, Failed):
                files.remove_all(api, pod["metadata"]["name"], pod["metadata"]["labels"][JOB])
                is_cleared = True
        is_nowhere = not (pod.get("spec") or {}).get("nodeName")
        kubernetes_pods.delete(api, pod, 0 if is_over or is_nowhere else 1)
        return is_cleared

    def prevent_start(self, uuid: str) -> str | None:
        """Where a request of `start` has no clear answer, a pod of that name that is never scheduled stops it. If the
        namespace does not admit that pod or has no room for it, raise RunnerUnavailable while the request may still be
        carried out, then RunnerRefused."""
        with _said(refusals.of_one), self._records.alone(uuid):
            known = self._records.read(uuid)
            if known is not None:
                return known if json.loads(known)["id"] else None
            api, name = self._ready(), f"polyjob-{uuid}"
            found = kubernetes_pods.find(api, name)
            if found is None and self._records.read(uuid, FILES) is not None:
                found = self._create_fence(api, name, uuid)
            is_ours = found is not None and (found["metadata"].get("labels") or {}).get(JOB) == uuid
            handle = self._handle(uuid, found if is_ours else None)
            self._records.write(uuid, handle)
            return handle if is_ours else None

    def _create_fence(self, api: Api, name: str, uuid: str) -> Object:
        """Return the pod that has the job's name now: a fence, or what a start has made. Raises as `prevent_start`."""
        fence = manifests.fence_pod(name, uuid, self.settings.installation, self.options)
        try:
            found = kubernetes_pods.create(api, fence) or kubernetes_pods.find(api, name)
        except Refused as error:
            if not self._records.is_recent(uuid, FILES, PENDING_REQUEST_SECONDS):
                raise
            text = "A request for the job's pod may still be carried out, and the pod that would stop it is refused"
            raise RunnerUnavailable(f"{text}: {error}") from None
        if found is None:
            raise RunnerUnavailable(f"The name {name} was taken by a pod that is gone again.")
        return found

    # Files.

    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        told = self._mine(handle)
        if not told["id"]:
            raise HandleNotFound("The job was never started.")
        if cursor is None and self._is_waiting(told["id"]):
            return b"", None
        pod, position = f"polyjob-{told['uuid']}", LogCursor.read(cursor)
        try:
            with _said(refusals.of_one), _gone():
                data, position = self._logs.read(self._api, pod, MAIN, position, limit, told["id"] in self._exits)
        except HandleNotFound:
            if not self._never_ran(told):
                raise
            data = b""
        return data, position.text()

    def _is_waiting(self, identity: str) -> bool:
        """Whether the last poll saw the pod, and nothing that its job's container could have written."""
        pod, view = self._views.get(identity, (None, None))
        if pod is None or view is None or identity in self._begun:
            return False
        return isinstance(view.state, Pending) and not pod_status.has_begun(pod)

    def outputs(self, handle: str) -> Iterator[bytes]:
        told = self._mine(handle)
        with _said(refusals.of_one), _gone():
            pod = self._own_pod(self._api, told) if told["id"] else None
            if pod is None and self._never_ran(told):
                return
            name, home = self._place_of_files(told, pod)
            try:
                with self._sweeping.following(name):
                    yield from files.fetch(self._api, name, home)
            except (NotRun, Failed) as error:
                kind = RunnerUnavailable if is_machine_fault(str(error)) else RunnerRefused
                raise kind(f"The outputs cannot be fetched from the job's pod: {error}") from None

    def _place_of_files(self, told: Mapping[str, Any], pod: Pod | None) -> tuple[str, str]:
        """(The pod whose helper has the job's files, the folder in which it has them). Raises as `outputs`."""
        runs = pod_status.container_runs(pod, HELPER) if pod is not None else False
        if runs is not False and pod is not None:
            if runs is None and self._troubles.helper_is_late(pod):
                raise HandleNotFound("The helper container of the job's pod cannot be started.")
            return pod["metadata"]["name"], HOME
        if self.options.claim and told["id"]:
            return self._carriers.pod(told["uuid"]), f"{CLAIM}/{told['uuid']}"
        if pod is None:
            raise HandleNotFound("The pod of the job is not there any more.")
        raise HandleNotFound(f"{pod_status.end_of(pod, HELPER)}.")

    def _never_ran(self, told: Mapping[str, Any]) -> bool:
        """Whether it is known that nothing of the job ran, so that it has left neither a log nor outputs."""
        known = self._exits.get(told["id"])
        end = known.exit if known else self._end_taken_away(told["id"], told["uuid"])
        return end is not None and not end.has_begun and end.reason is not Reason.BUILD

    # Handles.

    def _own_pod(self, api: Api, told: Mapping[str, Any]) -> Object | None:
        return kubernetes_pods.find(api, f"polyjob-{told['uuid']}", told["id"])

    def _mine(self, handle: str) -> dict[str, Any]:
        """What a handle says. Raises RunnerUnavailable for one of another cluster or namespace."""
        told: dict[str, Any] = json.loads(handle)
        with _said():
            self._ready()
        if told["id"] and not self._is_here(told):
            raise RunnerUnavailable(ELSEWHERE)
        return told

    def _handle(self, uuid: str, pod: Pod | None) -> str:
        identity = pod["metadata"]["uid"] if pod else ""
        told = {"v": 1, "uuid": uuid, "id": identity, "namespace": self._api.namespace, "space": self._space}
        return json.dumps(told)


def _unavailable(error: Refused) -> RunnerError:
    return RunnerUnavailable(f"The Kubernetes API server answers {error.status}: {error}")


@contextlib.contextmanager
def _said(meaning: Callable[[Refused], RunnerError] = _unavailable) -> Iterator[None]:
    """Whatever the API server refuses, in the contract's words: as `meaning` takes it."""
    try:
        yield
    except Refused as error:
        raise meaning(error) from None
    except OSError as error:
        raise RunnerUnavailable(f"The runner's own files cannot be used: {error}") from None


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.status != 404:
            raise
        raise HandleNotFound("The pod is not there any more.") from None
