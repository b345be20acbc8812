"""Requests for objects: lists in pages, watches, and single objects."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.simulators.kubernetes import pods
from tests.simulators.kubernetes.answers import RequestRefused, expired, invalid, success
from tests.simulators.kubernetes.connections import Answering, read_json
from tests.simulators.kubernetes.faults import HangUp
from tests.simulators.kubernetes.selectors import Object, both
from tests.simulators.kubernetes.store import CLUSTERED, KINDS, Stored

WATCH_SECONDS = 1800.0
BOOKMARK = 1.0
"""Seconds without a change after which a watch gets a bookmark (a real server: about a minute)."""


class Resources(Answering):
    def _collection(self, verb: str, resource: str, namespace: str | None, body: bytes) -> None:
        chosen = both(self.query.get("labelSelector"), self.query.get("fieldSelector"), resource)
        if resource in CLUSTERED:
            namespace = None
        if verb == "list":
            return self._list(resource, namespace, chosen)
        if verb == "watch":
            return self._watch(resource, namespace, chosen)
        if verb == "deletecollection" and resource == "pods" and namespace:
            stored_items = pods.delete_all(self.cluster, namespace, chosen, self._options(body))
            return self._list_of("pods", self.cluster.store.version, stored_items, {})
        if verb == "create" and resource == "pods" and namespace:
            stored, warnings = pods.create(self.cluster, namespace, read_json(body), self.query.get("dryRun") == "All")
            self.cluster.warnings.extend(warnings)
            headers = {"Warning": ", ".join("299 - " + json.dumps(text) for text in warnings)} if warnings else {}
            return self._send(201, stored.to_json("pods"), headers)
        if verb == "create":
            return self._send(201, self._create(resource, namespace, read_json(body)).to_json(resource))
        raise RequestRefused(405, "the server does not allow this method on the requested resource")

    def _create(self, resource: str, namespace: str | None, item: Object) -> Stored:
        """Create an object of another kind than a pod, without validation."""
        item = {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
        if namespace:
            item.setdefault("metadata", {})["namespace"] = namespace
        if not item.get("metadata", {}).get("name"):
            raise invalid(KINDS[resource], "", [("metadata.name", "FieldValueRequired", "Required value")])
        stored = self.cluster.store.create(resource, item)
        self.cluster.scheduler.wake()
        return stored

    def _list(self, resource: str, namespace: str | None, chosen: Any) -> None:
        store = self.cluster.store
        position, version, stored_items = "", 0, None
        if self.query.get("continue"):
            version, position = _continued(self.query["continue"])
            stored_items = store.snapshots.get(version)
            if stored_items is None:
                text = "The provided continue parameter is too old to display a consistent list result."
                raise expired(text)
        elif self.query.get("resourceVersion", "0") not in ("", "0"):
            store.not_older(_version(self.query["resourceVersion"]))
        if stored_items is None:
            version, stored_items = store.list(resource, namespace, chosen)
        limit = int(self.query.get("limit") or 0)
        rest = [stored for stored in stored_items if _position_of(stored) > position] if position else stored_items
        extra: dict[str, Any] = {}
        if limit and len(rest) > limit:
            store.snapshots[version] = stored_items
            extra["continue"] = _continue(version, _position_of(rest[limit - 1]))
            if not self.query.get("labelSelector") and not self.query.get("fieldSelector"):
                extra["remainingItemCount"] = len(rest) - limit
            rest = rest[:limit]
        self._list_of(resource, version, rest, extra)

    def _list_of(self, resource: str, version: int, stored_items: list[Stored], extra: dict[str, Any]) -> None:
        metadata = json.dumps({"resourceVersion": str(version), **extra}).encode()
        head = b'{"kind":"%sList","apiVersion":"v1","metadata":%s,"items":[' % (KINDS[resource].encode(), metadata)
        self._send(200, head + b",".join(stored.text for stored in stored_items) + b"]}")

    def _watch(self, resource: str, namespace: str | None, chosen: Any) -> None:
        store = self.cluster.store
        given = self.query.get("resourceVersion", "")
        seconds = float(self.query.get("timeoutSeconds") or WATCH_SECONDS)
        bookmarks = self.query.get("allowWatchBookmarks") in ("true", "True", "1")
        first: list[Stored] = []
        since = _version(given) if given not in ("", "0") else 0
        if since:
            store.not_older(since)
        else:
            since, first = store.list(resource, namespace, chosen)
        self._begin_stream("application/json")
        self._chunk(b"".join(_event("ADDED", stored.to_json(resource)) for stored in first))
        last_version = since
        generation = store.generation
        try:
            for kind, stored, version in store.changes(resource, namespace, chosen, since, seconds, BOOKMARK):
                if stored is not None:
                    self._chunk(_event(kind, stored.to_json(resource)))
                    last_version = version
                elif self._is_closed():
                    return
                elif bookmarks and version > last_version:
                    self._chunk(_event("BOOKMARK", _bookmark(resource, version)))
                    last_version = version
        except RequestRefused as pod_forbidden:
            self._chunk(_event("ERROR", json.dumps(pod_forbidden.status).encode()))
        if store.generation != generation and store.is_abrupt:
            raise HangUp
        self._end_stream()

    def _options(self, body: bytes) -> dict[str, Any]:
        options = read_json(body) if body else {}
        for name in ("gracePeriodSeconds",):
            if name in self.query:
                options[name] = int(self.query[name])
        return options

    def _one(self, verb: str, resource: str, namespace: str, name: str, body: bytes) -> None:
        store = self.cluster.store
        if verb == "get":
            return self._send(200, store.get(resource, namespace, name).to_json(resource))
        if verb == "delete" and resource == "pods":
            return self._send(200, pods.delete(self.cluster, namespace, name, self._options(body)).to_json("pods"))
        if verb == "patch" and resource == "pods":
            kind = self.headers.get("Content-Type", "").partition(";")[0]
            return self._send(
                200, pods.patch(self.cluster, resource, namespace, name, kind, read_json(body)).to_json("pods")
            )
        if verb == "delete":
            metadata = store.get(resource, namespace, name).object["metadata"]
            store.remove(resource, namespace, name)
            return self._say(success({"name": name, "kind": resource, "uid": metadata["uid"]}))
        raise RequestRefused(405, "the server does not allow this method on the requested resource")


def _version(text: str) -> int:
    if not text.isdigit():
        raise RequestRefused(400, f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _position_of(stored: Stored) -> str:
    metadata = stored.object["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _continue(version: int, position: str) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": version, "start": position}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def _continued(text: str) -> tuple[int, str]:
    try:
        token = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(token["rv"]), token["start"]
    except (ValueError, KeyError):
        raise RequestRefused(400, f"continue key is not valid: {text}") from None


def _event(kind: str, item: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), item)


def _bookmark(resource: str, version: int) -> bytes:
    body = {
        "kind": KINDS[resource],
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
    }
    if resource == "pods":
        body |= {"spec": {"containers": None}, "status": {}}
    return json.dumps(body).encode()
