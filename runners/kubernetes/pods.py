"""Pods of one namespace by their names: found, made, deleted, waited for."""

from __future__ import annotations

import threading
import time

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, Object, Refused
from runners.kubernetes.pod_status import Pod

PATIENCE_TO_END = 30.0
"""Seconds that a pod gets to be gone once it is deleted."""
LONGEST_PAUSE = 1.0


def find(api: Api, name: str, identity: str | None = None) -> Object | None:
    """The pod of that name, and of that uid if one is given; None where there is none. Raises Refused,
    RunnerUnavailable."""
    try:
        found = api.get(api.pod(name))
    except Refused as error:
        if error.status != 404:
            raise
        return None
    return found if identity in (None, found["metadata"]["uid"]) else None


def create(api: Api, manifest: Object) -> Object | None:
    """The new pod; None where there is one of that name. Raises Refused, RunnerUnavailable."""
    try:
        return api.request("POST", api.pods(), body=manifest)
    except Refused as error:
        if error.status != 409 or error.reason != "AlreadyExists":  # a quota that just changes is a conflict, too
            raise
        return None


def delete(api: Api, pod: Pod, grace: int, version: str | None = None) -> bool:
    """Have a pod deleted; false where it is another one, or another version, by now. One that is gone is fine.

    Without a grace it is gone at once, whether its machine has ended it or not. Raises Refused, RunnerUnavailable.
    """
    conditions = {"uid": pod["metadata"]["uid"]} | ({"resourceVersion": version} if version else {})
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace, "preconditions": conditions}
    try:
        api.request("DELETE", api.pod(pod["metadata"]["name"]), body=body)
    except Refused as error:
        if error.status not in (404, 409):
            raise
        return error.status == 404
    return True


def wait_until_gone(api: Api, name: str, identity: str) -> None:
    """Blocks. Raises RunnerUnavailable where that takes too long, and Refused."""
    deadline, pause = time.monotonic() + PATIENCE_TO_END, 0.05
    while find(api, name, identity) is not None:
        if time.monotonic() > deadline:
            raise RunnerUnavailable(f"The pod {name} is deleted, and its machine does not say so.")
        threading.Event().wait(pause)
        pause = min(LONGEST_PAUSE, pause * 2)
