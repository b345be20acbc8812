"""The state of the cluster: objects, their resource versions, and the history for watches."""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.simulators.kubernetes.answers import RequestRefused, already_exists, conflict, expired, not_found
from tests.simulators.kubernetes.selectors import Object, Test

KINDS = {
    "configmaps": "ConfigMap",
    "events": "Event",
    "namespaces": "Namespace",
    "nodes": "Node",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "pods": "Pod",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
    "services": "Service",
}
CLUSTERED = {"namespaces", "nodes"}
HISTORY = 20_000
"""Number of changes in the history. A watch from an older version gets an error."""


def stamp(moment: float | None = None) -> str:
    """Return the current time in the API's notation, in whole seconds."""
    return datetime.fromtimestamp(time.time() if moment is None else moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Stored:
    """One version of one object. Immutable."""

    version: int
    object: Object
    text: bytes
    """The object as JSON without kind and apiVersion, for lists."""

    def to_json(self, resource: str) -> bytes:
        return b'{"kind":"%s","apiVersion":"v1",' % KINDS[resource].encode() + self.text[1:]


@dataclass(frozen=True)
class Change:
    version: int
    resource: str
    kind: str
    """ADDED, MODIFIED or DELETED."""
    now: Stored
    before: Stored | None


class Store:
    """Objects by (resource, namespace, name). Safe for several threads."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.version = 1000
        self.objects: dict[str, dict[tuple[str, str], Stored]] = {resource: {} for resource in KINDS}
        self.history: deque[Change] = deque()
        self.compacted = self.version
        """The oldest version that a watch can start from."""
        self.snapshots: dict[int, list[Stored]] = {}
        self.generation = 0
        """Number of times that all watches were cut."""
        self.is_abrupt = False
        """Whether the last cut was in the middle of their responses."""
        self.closed = False
        self.patience = 3.0
        """Seconds that a request waits for a future version."""

    def get(self, resource: str, namespace: str, name: str) -> Stored:
        with self.lock:
            try:
                return self.objects[resource][namespace, name]
            except KeyError:
                raise not_found(resource, name) from None

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        with self.lock:
            stored = self.objects[resource].get((namespace, name))
            return stored.object if stored else None

    def list(self, resource: str, namespace: str | None, chosen: Test) -> tuple[int, list[Stored]]:
        """Return the current version, and the selected objects in the order of their names."""
        with self.lock:
            version = self.version
            entries = sorted(self.objects[resource].items())
        return version, [
            stored
            for (where, _), stored in entries
            if (namespace is None or where == namespace) and chosen(stored.object)
        ]

    def create(self, resource: str, item: Object) -> Stored:
        """Create an object, and fill in the server's part of `metadata`. Raises RequestRefused if the name is taken."""
        metadata = item["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        with self.lock:
            if key in self.objects[resource]:
                raise already_exists(resource, metadata["name"])
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = stamp()
            return self._put(resource, key, item, "ADDED", None)

    def update(
        self,
        resource: str,
        namespace: str,
        name: str,
        change: Callable[[Object], None],
        uid: str | None = None,
        version: str | None = None,
    ) -> Stored:
        """Replace an object by a changed copy. An unchanged copy gets no new version.

        Raises RequestRefused if there is no such object with this uid, or if it has another version.
        """
        with self.lock:
            before = self.get(resource, namespace, name)
            if uid is not None and before.object["metadata"]["uid"] != uid:
                raise not_found(resource, name)
            if version is not None and version != str(before.version):
                message = "the object has been modified; please apply your changes to the latest version and try again"
                raise conflict(resource, name, message)
            item = copy.deepcopy(before.object)
            change(item)
            if item == before.object:
                return before
            metadata = item["metadata"]
            if not metadata.get("finalizers") and metadata.get("deletionGracePeriodSeconds") == 0:
                return self._remove(resource, (namespace, name), item, before)
            return self._put(resource, (namespace, name), item, "MODIFIED", before)

    def remove(self, resource: str, namespace: str, name: str, uid: str | None = None) -> Stored | None:
        """Remove an object at once. One with finalizers stays, with a deletion time. Return None if there is none."""
        with self.lock:
            before = self.objects[resource].get((namespace, name))
            if before is None or (uid is not None and before.object["metadata"]["uid"] != uid):
                return None
            item = copy.deepcopy(before.object)
            metadata = item["metadata"]
            metadata.setdefault("deletionTimestamp", stamp())
            metadata["deletionGracePeriodSeconds"] = 0
            if not metadata.get("finalizers"):
                return self._remove(resource, (namespace, name), item, before)
            if item == before.object:
                return before
            return self._put(resource, (namespace, name), item, "MODIFIED", before)

    def _put(self, resource: str, key: tuple[str, str], item: Object, kind: str, before: Stored | None) -> Stored:
        stored = self._stored(item)
        self.objects[resource][key] = stored
        self._remember(Change(stored.version, resource, kind, stored, before))
        return stored

    def _remove(self, resource: str, key: tuple[str, str], item: Object, before: Stored) -> Stored:
        stored = self._stored(item)
        del self.objects[resource][key]
        self._remember(Change(stored.version, resource, "DELETED", stored, before))
        return stored

    def _stored(self, item: Object) -> Stored:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        return Stored(self.version, item, json.dumps(item, separators=(",", ":")).encode())

    def _remember(self, change: Change) -> None:
        self.history.append(change)
        if len(self.history) > HISTORY:
            self.compacted = self.history.popleft().version
        self.lock.notify_all()

    def compact(self) -> None:
        """Forget the history. Older watches and pages, including active ones, get an error."""
        with self.lock:
            self.history.clear()
            self.snapshots.clear()
            self.version += 1
            self.compacted = self.version
            self.lock.notify_all()

    def cut_watches(self, abruptly: bool) -> None:
        """End every active watch, in the middle of its response if `abruptly`."""
        with self.lock:
            self.is_abrupt = abruptly
            self.generation += 1
            self.lock.notify_all()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.lock.notify_all()

    def not_older(self, version: int) -> None:
        """Wait until the state has at least that version. Raises RequestRefused after the time limit."""
        with self.lock:
            if not self.lock.wait_for(lambda: self.version >= version, self.patience):
                details = {
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1,
                }
                text = f"Too large resource version: {version}, current: {self.version}"
                raise RequestRefused(504, text, details=details, headers={"Retry-After": "1"})

    def changes(
        self, resource: str, namespace: str | None, chosen: Test, since: int, seconds: float, idle: float
    ) -> Iterator[tuple[str, Stored | None, int]]:
        """Yield (type, object, version) of each change after version `since`, for some seconds.

        Yields ("IDLE", None, version) if nothing happened for `idle` seconds. Ends when watches are cut. Raises
        RequestRefused if the history does not go back that far any more.
        """
        end = time.monotonic() + seconds
        with self.lock:
            generation = self.generation
        while True:
            with self.lock:
                if not self._after(since) and since >= self.compacted:
                    self.lock.wait(max(0.0, min(end - time.monotonic(), idle)))
                if self.closed or self.generation != generation:
                    return
                if since < self.compacted:
                    raise expired(f"too old resource version: {since} ({self.compacted})")
                fresh = self._after(since)
                since = fresh[-1].version if fresh else self.version
            for change in fresh:
                if change.resource == resource and (
                    namespace is None or change.now.object["metadata"].get("namespace", "") == namespace
                ):
                    kind = _kind(change, chosen)
                    if kind:
                        yield kind, change.now, change.version
            if not fresh:
                yield "IDLE", None, since
            if time.monotonic() >= end:
                return

    def _after(self, since: int) -> list[Change]:
        changes: list[Change] = []
        for change in reversed(self.history):
            if change.version <= since:
                break
            changes.append(change)
        return changes[::-1]


def _kind(change: Change, chosen: Test) -> str | None:
    """Return the event for a watch with a selector. A change can move an object into its selection, or out of it."""
    is_in = chosen(change.now.object)
    was_in = change.before is not None and chosen(change.before.object)
    if change.kind == "DELETED":
        return "DELETED" if was_in or is_in else None
    if is_in:
        return "MODIFIED" if was_in else "ADDED"
    return "DELETED" if was_in else None
