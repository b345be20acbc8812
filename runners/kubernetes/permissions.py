"""What polyjob needs of its namespace, and what of that it does not have: rights, and that pods like its own are
admitted."""

from __future__ import annotations

import time

from runners.base import JobSpec, RunnerUnavailable
from runners.kubernetes.api import Api, Refused
from runners.kubernetes.manifests import Artifact, job_pod
from runners.kubernetes.options import Options
from runners.kubernetes.refusals import of_create

RIGHTS = (
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
"""(verb, resource, part of it). Commands are run over WebSocket, which older API servers count as `get` of
`pods/exec`, and newer ones as `create`."""
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ASKED_AGAIN_AFTER = 300.0
"""Seconds for which a good answer is believed."""

NO_DRY_RUN = "does not support dry run"
"""Text in the API server's answer if an admission webhook may have side effects."""


class Rights:
    """See the module."""

    def __init__(self, api: Api, options: Options) -> None:
        self._api = api
        self._options = options
        self._good_until = 0.0

    def check(self) -> None:
        """Raises RunnerUnavailable that names each right that is missing, or says why no pod of a job is admitted, and
        Refused."""
        self._api.get("/version")
        if time.monotonic() < self._good_until:
            return
        missing = [right for right in RIGHTS if not self._is_allowed(*right)]
        if missing:
            names = ", ".join(f"{verb} {resource}{'/' if part else ''}{part}" for verb, resource, part in missing)
            raise RunnerUnavailable(
                f"In the namespace `{self._api.namespace}` this account may not: {names}. "
                "deploy/kubernetes/rbac.yaml grants what polyjob needs."
            )
        self._refuse_closed_namespace()
        self._good_until = time.monotonic() + ASKED_AGAIN_AFTER

    def _refuse_closed_namespace(self) -> None:
        """Have the smallest pod of a job checked, and not made. A quota that is used up just now is fine, and so is an
        admission webhook that cannot check without acting."""
        pod = job_pod(JobSpec("0" * 32, "0" * 32, "", "true", {}), Artifact(self._options.helper_image), self._options)
        for container in pod["spec"]["containers"]:
            container["resources"] = self._options.helper_amounts()
        try:
            self._api.request("POST", self._api.pods(), [("dryRun", "All")], pod)
        except Refused as error:
            if not isinstance(of_create(error), RunnerUnavailable) and NO_DRY_RUN not in str(error):
                raise RunnerUnavailable(
                    f"The namespace `{self._api.namespace}` admits no pod of a job: {error}. "
                    "docs/kubernetes-runner.md says what it has to allow."
                ) from None

    def _is_allowed(self, verb: str, resource: str, part: str) -> bool:
        asked = {"namespace": self._api.namespace, "verb": verb, "resource": resource, "subresource": part}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        return bool((self._api.request("POST", REVIEWS, body=body).get("status") or {}).get("allowed"))
