"""Starts jobs: creates their pods, or keeps their pods from ever being created."""

from __future__ import annotations

from runners.base import ArtifactMissing, JobSpec, Reason, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes import builds, manifests, pod_secrets, pods, refusals
from runners.kubernetes.api import Api, ApiRefused, Object
from runners.kubernetes.files import PodFiles
from runners.kubernetes.job_records import JobRecords
from runners.kubernetes.manifests import INSTALLATION, JOB, Artifact
from runners.kubernetes.namespace import Handle, Namespace, pod_name
from runners.kubernetes.options import Options

PENDING_REQUEST_SECONDS = 240.0
"""Time after the start of a request for a pod in which the cluster may still carry it out. `Api.ask` sends the last
attempt after up to 132 seconds, and the API server's own time limit is 60 seconds."""


class PodStarter:
    """Creates the pods of jobs in one namespace. A job's records are locked meanwhile."""

    def __init__(
        self, api: Api, namespace: Namespace, records: JobRecords, options: Options, installation: str
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._records = records
        self._options = options
        self._installation = installation

    def start(self, spec: JobSpec, artifact: str | None) -> Handle:
        """Start a job, as `Runner.start` does. Raises ApiRefused, too."""
        with self._records.lock(spec.uuid):
            recorded = self._records.handle(spec.uuid)
            if recorded is not None:
                return recorded
            self._namespace.connect()
            try:
                pod = self._adopt_or_create(spec, manifests.artifact_of(spec, artifact))
            except StartFailed as error:
                if self._records.files(spec.uuid) is not None:  # an earlier request may be pending, which needs a fence
                    raise RunnerRefused(str(error)) from None
                self._records.remove(spec.uuid)
                raise
            handle = self._namespace.handle(spec.uuid, pod)
            self._records.write_handle(handle)
            return handle

    def prevent_start(self, uuid: str) -> Handle | None:
        """Prevent a start, as `Runner.prevent_start` does. Raises ApiRefused, too.

        If a request for the pod had no clear answer, a fence takes the pod's name: a pod that is never scheduled. If
        the cluster refuses the fence, raises RunnerUnavailable as long as the request may still be carried out.
        """
        with self._records.lock(uuid):
            recorded = self._records.handle(uuid)
            if recorded is not None:
                return recorded if recorded.pod_uid else None
            self._namespace.connect()
            pod = pods.find(self._api, pod_name(uuid))
            if pod is None and self._records.files(uuid) is not None:
                pod = self._create_fence(uuid)
            is_job = pod is not None and (pod["metadata"].get("labels") or {}).get(JOB) == uuid
            handle = self._namespace.handle(uuid, pod if is_job else None)
            self._records.write_handle(handle)
            return handle if is_job else None

    def _adopt_or_create(self, spec: JobSpec, artifact: Artifact) -> Object:
        """Return the job's pod, created now or by an earlier start."""
        pod = self._adopt(spec)
        if pod is None:
            if not artifact.is_built and builds.is_reserved(artifact.image, self._options):
                raise StartFailed(builds.reserved_image_message(artifact.image), Reason.IMAGE)
            self._check_artifact(spec, artifact)
            pod = self._create(spec, artifact) or self._adopt(spec)
        if pod is None:
            raise _name_was_taken(spec.name)
        if spec.secrets:
            pod_secrets.create(self._api, spec, pod)
        return pod

    def _check_artifact(self, spec: JobSpec, artifact: Artifact) -> None:
        """Raise ArtifactMissing if the artifact is missing or stale."""
        if spec.is_pinned:
            return
        if artifact.build_steps and self._options.registry:
            raise ArtifactMissing("there is a registry now, which can keep its image")
        if artifact.is_built and builds.image_exists(artifact.image, self._options) is False:
            raise ArtifactMissing(builds.IMAGE_MISSING)

    def _create(self, spec: JobSpec, artifact: Artifact) -> Object | None:
        """Create the job's pod; return None if there is one of that name. Raises as `start`.

        Once a request has no certain outcome, the record of the job's files stays, so that `prevent_start` makes a
        fence.
        """
        is_first = self._records.files(spec.uuid) is None
        self._records.write_files(spec.uuid, PodFiles(spec.upload, spec.inputs, spec.job_outputs))
        try:
            return pods.create(self._api, manifests.job_pod(spec, artifact, self._options))
        except ApiRefused as error:
            if is_first and error.is_clear:
                self._records.remove_files(spec.uuid)
            raise refusals.of_create(error) from None

    def _adopt(self, spec: JobSpec) -> Object | None:
        """Return the pod of this job that an earlier start created."""
        pod = pods.find(self._api, spec.name)
        if pod is None:
            return None
        labels = pod["metadata"].get("labels") or {}
        if labels.get(INSTALLATION) != self._installation or labels.get(JOB) != spec.uuid:
            raise StartFailed(f"There is already a pod named {spec.name}, which does not belong to this polyjob.")
        return pod

    def _create_fence(self, uuid: str) -> Object:
        """Return the pod that has the job's name now: a fence, or the job's own. Raises as `prevent_start`."""
        name = pod_name(uuid)
        fence = manifests.fence_pod(name, uuid, self._installation, self._options)
        try:
            pod = pods.create(self._api, fence) or pods.find(self._api, name)
        except ApiRefused as error:
            if not self._records.may_be_pending(uuid, PENDING_REQUEST_SECONDS):
                raise
            text = "A request for the job's pod may still be carried out, and the pod that would prevent it was refused"
            raise RunnerUnavailable(f"{text}: {error}") from None
        if pod is None:
            raise _name_was_taken(name)
        return pod


def _name_was_taken(name: str) -> RunnerUnavailable:
    return RunnerUnavailable(f"The name {name} was taken by a pod that has disappeared again.")
