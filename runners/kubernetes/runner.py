"""The Kubernetes runner: each job runs in a pod of a cluster.

The runner uses only the API server; it shares no volume with the cluster. A pod has a fixed name and labels, by which
the runner finds it again. See `job_records` for what the runner keeps on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from runners.base import BuildSpec, HandleNotFound, JobSpec, RemoteRunner, RunnerSettings, State
from runners.common.log_times import Times
from runners.kubernetes import pod_secrets, refusals
from runners.kubernetes.api import Api, Listing
from runners.kubernetes.builds import build_image, build_pod_name
from runners.kubernetes.carriers import Carriers
from runners.kubernetes.files import FileInjector
from runners.kubernetes.job_files import JobFiles
from runners.kubernetes.job_records import JobRecords
from runners.kubernetes.job_states import JobStates
from runners.kubernetes.logs import LogCursor, Logs
from runners.kubernetes.manifests import INSTALLATION, JOB, MAIN
from runners.kubernetes.namespace import Handle, Namespace
from runners.kubernetes.options import Options
from runners.kubernetes.permissions import Permissions
from runners.kubernetes.pod_tracker import PodTrackers
from runners.kubernetes.refusals import translate_errors, translate_not_found
from runners.kubernetes.starter import PodStarter
from runners.kubernetes.stopper import PodStopper
from runners.kubernetes.sweeper import PodSweeper
from runners.kubernetes.watch import PodWatch

MIN_QUIET_LOG_SECONDS, QUIET_LOGS_PER_SECOND = 10.0, 20.0
"""Minimum pause between two fetches of the log of a job that writes nothing, and the maximum rate of such fetches for
all jobs together.
"""


class KubernetesRunner(RemoteRunner):
    """Runs jobs as pods of one namespace."""

    artifact_kind = "image"

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        options = self._options = Options.read(settings.options)
        records = self._records = JobRecords(Path(settings.data_dir) / "kubernetes")
        api = self._api = Api(options)
        trackers = self._trackers = PodTrackers()
        self._selector = [("labelSelector", f"{INSTALLATION}={settings.installation}")]
        self._watch = PodWatch(api, self._selector, wake, trackers.note)
        self._namespace = Namespace(api, self._watch.begin)
        self._permissions = Permissions(api, options)
        self._listing = Listing(api, api.pods, self._selector)
        self._sweeper = PodSweeper(api)
        self._logs = Logs()
        self._starter = PodStarter(api, self._namespace, records, options, settings.installation)
        self._stopper = PodStopper(api, records, trackers)
        injector = FileInjector(api, records.folder)
        self._states = JobStates(api, self._namespace, records, trackers, self._stopper, injector, options.patience)
        carriers = Carriers(api, options, settings.installation)
        self._files = JobFiles(api, options, self._states, trackers, self._sweeper, carriers)

    def check(self) -> None:
        with translate_errors():
            self._namespace.connect()
            self._permissions.check()

    def probe(self) -> None:
        with translate_errors():
            self._permissions.check()

    def close(self) -> None:
        self._watch.close()
        self._logs.close()
        self._api.close()

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        with translate_errors():
            self._namespace.connect()
            with self._sweeper.keep(build_pod_name(spec)):
                return build_image(self._api, spec, log, cancelled, self._options, self._records.folder)

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        with translate_errors(refusals.of_one):
            return self._starter.start(spec, artifact).text()

    def prevent_start(self, uuid: str) -> str | None:
        """Prevent a start.

        If the cluster refuses the pod that would prevent it, raises RunnerUnavailable while a request for the job's pod
        may still be carried out, and later RunnerRefused.
        """
        with translate_errors(refusals.of_one):
            handle = self._starter.prevent_start(uuid)
            return handle.text() if handle else None

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        if not handles:
            return {}
        self.max_log_pause = max(MIN_QUIET_LOG_SECONDS, len(handles) / QUIET_LOGS_PER_SECOND)
        with translate_errors():
            self._namespace.connect()
            pods = self._listing.objects()
            self._states.update({pod["metadata"]["uid"]: pod for pod in pods if JOB in pod["metadata"]["labels"]})
            states = {handle: self._states.state(Handle.parse(handle)) for handle in handles}
            return {handle: state for handle, state in states.items() if state is not None}

    def inventory(self) -> dict[str, str]:
        with translate_errors():
            self._namespace.connect()
            pods = Listing(self._api, self._api.pods, self._selector).objects()
            self._sweeper.sweep(pods)
            jobs = [(pod["metadata"]["labels"][JOB], pod) for pod in pods if JOB in pod["metadata"]["labels"]]
            return {uuid: self._namespace.handle(uuid, pod).text() for uuid, pod in jobs}

    def stop(self, handle: str, force: bool) -> None:
        with translate_errors():
            self._stopper.stop(self._namespace.open(handle), force)

    def clean(self, handle: str) -> None:
        with translate_errors():
            job = self._namespace.open(handle)
            self._files.remove(job)
            self._logs.forget(job.pod_name)
            self._trackers.forget(job.pod_uid)
            self._records.remove(job.uuid)

    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        return self.timed_logs(handle, cursor, limit)[:2]

    def timed_logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None, Times]:
        with translate_errors():
            job = self._namespace.open(handle)
        if not job.pod_uid:
            raise HandleNotFound("The job was never started.")
        if cursor is None and self._states.is_waiting(job):
            return b"", None, ()
        position, is_over = LogCursor.parse(cursor), self._trackers.get(job.pod_uid).exit is not None
        try:
            with translate_errors(refusals.of_one), translate_not_found():
                data, position, times = self._logs.read(self._api, job.pod_name, MAIN, position, limit, is_over)
        except HandleNotFound:
            if not self._states.never_ran(job):
                raise
            data, times = b"", ()
        return data, position.text(), times

    def secret_values(self, handle: str) -> Sequence[str]:
        with translate_errors():
            job = self._namespace.open(handle)
        with translate_errors(refusals.of_one):
            return pod_secrets.values(self._api, job)

    def outputs(self, handle: str) -> Iterator[bytes]:
        with translate_errors():
            job = self._namespace.open(handle)
        with translate_errors(refusals.of_one), translate_not_found():
            yield from self._files.outputs(job)
