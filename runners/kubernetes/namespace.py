"""The namespace of the cluster that the runner uses, and the handles of jobs in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.pod_status import Pod

ANOTHER_CLUSTER = "The job is in another cluster or namespace than the one that polyjob uses now."


@dataclass(frozen=True)
class Handle:
    """The handle of a job: which pod of which namespace it runs in."""

    uuid: str
    pod_uid: str
    """Empty if the job was never started."""
    namespace: str
    namespace_uid: str | None
    """It tells clusters apart. Empty if polyjob has no permission to read it."""

    @property
    def pod_name(self) -> str:
        return pod_name(self.uuid)

    @classmethod
    def parse(cls, text: str) -> Handle:
        fields = json.loads(text)
        return cls(fields["uuid"], fields["id"], fields["namespace"], fields["space"])

    def text(self) -> str:
        fields = {"uuid": self.uuid, "id": self.pod_uid, "namespace": self.namespace, "space": self.namespace_uid}
        return json.dumps({"v": 1, **fields})


def pod_name(uuid: str) -> str:
    """Return the fixed name of a job's pod."""
    return f"polyjob-{uuid}"


class Namespace:
    """One namespace of one cluster. Sends no request until `connect`."""

    def __init__(self, api: Api, on_connect: Callable[[], None]) -> None:
        """`on_connect` is called once the cluster is known."""
        self._api = api
        self._on_connect = on_connect
        self._lock = threading.Lock()
        self._uid: str | None = None
        """Empty if polyjob has no permission to read it."""

    def connect(self) -> None:
        """Find out which cluster this is. Idempotent. Raises ApiRefused, RunnerUnavailable."""
        with self._lock:
            if self._uid is None:
                try:
                    namespace = self._api.get(f"/api/v1/namespaces/{self._api.namespace}")
                    self._uid = str(namespace["metadata"]["uid"])
                except ApiRefused as error:
                    if error.status not in (403, 404):
                        raise
                    self._uid = ""
                self._on_connect()

    def handle(self, uuid: str, pod: Pod | None) -> Handle:
        """Return the handle of a job in this pod; of one that was never started if `pod` is None."""
        return Handle(uuid, pod["metadata"]["uid"] if pod else "", self._api.namespace, self._uid)

    def contains(self, handle: Handle) -> bool:
        """Return whether a job is in this namespace of this cluster, as far as polyjob can tell."""
        if handle.namespace != self._api.namespace:
            return False
        return not (handle.namespace_uid and self._uid) or handle.namespace_uid == self._uid

    def open(self, text: str) -> Handle:
        """Parse a handle, and connect. Raises RunnerUnavailable for a job elsewhere, and as `connect`."""
        handle = Handle.parse(text)
        self.connect()
        if handle.pod_uid and not self.contains(handle):
            raise RunnerUnavailable(ANOTHER_CLUSTER)
        return handle
