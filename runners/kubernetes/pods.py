"""Finding, creating and deleting pods by name."""

from __future__ import annotations

import threading
import time

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused, Object
from runners.kubernetes.pod_status import Pod

DELETION_SECONDS = 30.0
"""Time limit for a deleted pod to disappear."""
LONGEST_PAUSE_SECONDS = 1.0


def find(api: Api, name: str, uid: str | None = None) -> Object | None:
    """Return the pod of that name, and of that uid if one is given, or None. Raises ApiRefused, RunnerUnavailable."""
    try:
        pod = api.get(api.pod(name))
    except ApiRefused as error:
        if error.status != 404:
            raise
        return None
    return pod if uid in (None, pod["metadata"]["uid"]) else None


def create(api: Api, manifest: Object) -> Object | None:
    """Create a pod; return None if there is already one of that name. Raises ApiRefused, RunnerUnavailable."""
    try:
        return api.request("POST", api.pods(), body=manifest)
    except ApiRefused as error:
        if error.status != 409 or error.reason != "AlreadyExists":  # a quota that is just changing is a conflict, too
            raise
        return None


def delete(api: Api, pod: Pod, grace: int, version: str | None = None) -> bool:
    """Request the deletion of a pod. Return False if it has been replaced, or is not at that version any more.

    It is fine if the pod is already deleted. With a grace of 0, the pod disappears at once, whether its machine has
    ended it or not. Raises ApiRefused, RunnerUnavailable.
    """
    conditions = {"uid": pod["metadata"]["uid"]} | ({"resourceVersion": version} if version else {})
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace, "preconditions": conditions}
    try:
        api.request("DELETE", api.pod(pod["metadata"]["name"]), body=body)
    except ApiRefused as error:
        if error.status not in (404, 409):
            raise
        return error.status == 404
    return True


def wait_until_deleted(api: Api, name: str, uid: str) -> None:
    """Wait until a deleted pod has disappeared. Raises RunnerUnavailable if that takes too long, and ApiRefused."""
    deadline, pause = time.monotonic() + DELETION_SECONDS, 0.05
    while find(api, name, uid) is not None:
        if time.monotonic() > deadline:
            raise RunnerUnavailable(f"The pod {name} was deleted, but its machine does not confirm that it has ended.")
        threading.Event().wait(pause)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
