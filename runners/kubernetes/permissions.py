"""Checks that polyjob has the permissions that it needs, and that the namespace admits pods of jobs."""

from __future__ import annotations

import time

from runners.base import JobSpec, RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.manifests import Artifact, job_pod
from runners.kubernetes.options import Options
from runners.kubernetes.refusals import of_create

PERMISSIONS = (
    ("create", "pods", ""),
    ("get", "pods", ""),
    ("list", "pods", ""),
    ("watch", "pods", ""),
    ("delete", "pods", ""),
    ("get", "pods", "log"),
    ("get", "pods", "exec"),
    ("create", "pods", "exec"),
    ("list", "events", ""),
)
"""(verb, resource, subresource). polyjob runs commands over WebSocket, which is `get` of `pods/exec` for older API
servers, and `create` for newer ones."""
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RESULT_LIFETIME_SECONDS = 300.0
"""Time for which the result of a successful check is reused."""
NO_DRY_RUN = "does not support dry run"
"""Text in the API server's answer if an admission webhook may have side effects."""


class Permissions:
    """The check of one namespace."""

    def __init__(self, api: Api, options: Options) -> None:
        self._api = api
        self._options = options
        self._good_until = 0.0

    def check(self) -> None:
        """Raise RunnerUnavailable that names each missing permission, or says why the namespace admits no pod of a job.

        Raises ApiRefused, too.
        """
        self._api.get("/version")
        if time.monotonic() < self._good_until:
            return
        missing = [permission for permission in PERMISSIONS if not self._is_allowed(*permission)]
        if missing:
            names = ", ".join(f"{verb} {resource}{'/' if part else ''}{part}" for verb, resource, part in missing)
            raise RunnerUnavailable(
                f"In the namespace `{self._api.namespace}` this account may not: {names}. "
                "deploy/kubernetes/rbac.yaml grants the permissions that polyjob needs."
            )
        self._check_admission()
        self._good_until = time.monotonic() + RESULT_LIFETIME_SECONDS

    def _check_admission(self) -> None:
        """Request a dry run of the smallest pod of a job.

        Two refusals are ignored: a quota that is used up for now, and an admission webhook without dry run.
        """
        pod = job_pod(JobSpec("0" * 32, "0" * 32, "", "true", {}), Artifact(self._options.helper_image), self._options)
        for container in pod["spec"]["containers"]:
            container["resources"] = self._options.helper_amounts()
        try:
            self._api.request("POST", self._api.pods(), [("dryRun", "All")], pod)
        except ApiRefused as error:
            if not isinstance(of_create(error), RunnerUnavailable) and NO_DRY_RUN not in str(error):
                raise RunnerUnavailable(
                    f"The namespace `{self._api.namespace}` admits no pod of a job: {error}. "
                    "docs/kubernetes-runner.md lists what it has to allow."
                ) from None

    def _is_allowed(self, verb: str, resource: str, subresource: str) -> bool:
        attributes = {
            "namespace": self._api.namespace,
            "verb": verb,
            "resource": resource,
            "subresource": subresource,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        return bool((self._api.request("POST", REVIEWS, body=body).get("status") or {}).get("allowed"))
