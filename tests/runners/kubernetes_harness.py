"""The harness of the Kubernetes runner, on the simulator or on the cluster of POLYJOB_TEST_KUBECONFIG.

On a real cluster, POLYJOB_TEST_IMAGE names an image with a shell that its nodes can pull. The helper uses it, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runners.base import BuildSpec, JobSpec, RemoteRunner, Runner, RunnerUnavailable
from runners.testing import CommandHarness
from runners.volumes import Volume
from tests.simulators.registry import BUILDER, Registry

KUBECONFIG, IMAGE = os.environ.get("POLYJOB_TEST_KUBECONFIG", ""), os.environ.get("POLYJOB_TEST_IMAGE", "busybox")


class KubernetesHarness(CommandHarness):
    reads_job_outputs = True
    """The Kubernetes runner of an installation of its own. `cluster` is the simulator; None = a real cluster."""

    has_secrets = True
    log_chunk_bytes = 997

    def __init__(self, folder: Path, cluster: Any, *, registry: Registry | None = None, **options: str) -> None:
        self.installation = uuid.uuid4().hex
        self.cluster = cluster
        settings = {"kubeconfig": str(cluster.kubeconfig) if cluster else KUBECONFIG, "helper_image": IMAGE}
        if registry is not None:
            settings |= {"registry": f"http://{registry.host}", "builder_image": "python", "builder_command": BUILDER}
        self.options = settings | options
        super().__init__(folder, options=self.options)

    def make(self) -> Runner:
        from runners.kubernetes.runner import KubernetesRunner

        return KubernetesRunner(self.settings, self.woken.set)

    @property
    def remote(self) -> RemoteRunner:
        assert isinstance(self.runner, RemoteRunner)
        return self.runner

    def spec(self, cmd: str = "true", env: Mapping[str, str] | None = None, **fields: Any) -> JobSpec:
        return super().spec(cmd, env, **{"image": IMAGE, **fields})

    def build_spec(self, *steps: str, env: Mapping[str, str] | None = None, **fields: Any) -> BuildSpec:
        if "registry" not in self.options:
            pytest.skip("needs a registry: there is none on this cluster")
        values: dict[str, Any] = {"image": IMAGE, "key": uuid.uuid4().hex * 2, **fields}
        return dataclasses.replace(super().build_spec(*steps, env=env), **values)

    def volume(self, name: str, is_read_only: bool) -> tuple[Volume, Path] | None:
        """Create a claim, if the cluster is the simulator, which has its files on this machine."""
        if self.cluster is None:
            return None
        claim = f"{name}-{uuid.uuid4().hex[:8]}"
        self.cluster.add("persistentvolumeclaims", claim, spec={"accessModes": ["ReadWriteMany"]})
        folder = self.cluster.kubeconfig.parent / "claims" / "default" / claim
        folder.mkdir(parents=True)
        return Volume(name, claim, is_read_only, is_claim=True), folder

    def unstartable_job(self) -> JobSpec:
        return self.spec("true", env={"": "a variable without a name"})

    def lost_job(self) -> tuple[JobSpec, str]:
        spec = self.spec("sleep 1000")
        handle = self.runner.start(spec, None)
        self.remove(spec)
        return spec, handle

    def remove(self, spec: JobSpec) -> None:
        """Delete the pod of a job at once, as another user of the cluster would."""
        with self._api() as api:
            api.request("DELETE", api.pod(spec.name), body={"gracePeriodSeconds": 0})

    def close(self) -> None:
        """Close the runners and delete all pods. Fences and builders would stay for longer than a test lasts."""
        from runners.kubernetes import pods as kubernetes_pods

        super().close()
        with self._api() as api:
            for pod in self.pods():
                kubernetes_pods.delete(api, pod, 0)

    def pods(self) -> list[Any]:
        """Return all pods of this installation; none if the cluster is not configured."""
        with self._api() as api, contextlib.suppress(RunnerUnavailable):
            query = [("labelSelector", f"polyjob.installation={self.installation}")]
            items: list[Any] = api.get(api.pods(), query)["items"]
            return items
        return []

    @contextlib.contextmanager
    def _api(self) -> Iterator[Any]:
        from runners.kubernetes.api import Api
        from runners.kubernetes.options import Options

        api = Api(Options.read(self.options))
        yield api
        api.close()

    def outputs(self, handle: str) -> dict[str, bytes]:
        """Return the files of a job's outputs folder and their contents."""
        files = {}
        with tarfile.open(fileobj=io.BytesIO(b"".join(self.remote.outputs(handle)))) as tarball:
            for member in tarball:
                content = tarball.extractfile(member)
                if content is not None:
                    files[member.name] = content.read()
        return files
