"""The secret variables of a job: a Secret of the cluster beside the job's pod, which owns it.

The pod is created first, and its container waits for the Secret. So there is no Secret without a pod, and the cluster
removes it with the pod.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from runners.base import HandleNotFound, JobSpec, RunnerRefused
from runners.kubernetes import manifests, pods, refusals
from runners.kubernetes.api import Api, ApiRefused, Object
from runners.kubernetes.manifests import MAIN
from runners.kubernetes.namespace import Handle


def create(api: Api, spec: JobSpec, pod: Object) -> None:
    """Create the Secret of a job with secrets. Idempotent: an earlier one keeps its values.

    Raises RunnerRefused, RunnerUnavailable.
    """
    try:
        api.request("POST", api.secrets(), body=manifests.job_secret(spec, pod["metadata"]["uid"]))
    except ApiRefused as error:
        if error.status != 409 or error.reason != "AlreadyExists":
            raise refusals.of_one(error) from None


def values(api: Api, handle: Handle) -> Sequence[str]:
    """Return the values of a job's secrets. Raises HandleNotFound, RunnerRefused, ApiRefused."""
    pod = pods.find(api, handle.pod_name, handle.pod_uid)
    if pod is None:
        raise HandleNotFound("The job's pod no longer exists.")
    if not _has_secrets(pod):
        return ()
    try:
        secret = api.get(api.secret(handle.pod_name))
    except ApiRefused as error:
        if error.status != 404:
            raise
        raise RunnerRefused(f"The Secret {handle.pod_name}, by which the job's log is masked, was deleted.") from None
    return [base64.b64decode(value).decode() for value in (secret.get("data") or {}).values()]


def _has_secrets(pod: Object) -> bool:
    variables = [
        variable
        for container in pod["spec"]["containers"]
        if container["name"] == MAIN
        for variable in container.get("env") or ()
    ]
    names = [((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name") for variable in variables]
    return pod["metadata"]["name"] in names
