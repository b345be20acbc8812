"""The API server's HTTP: connections, who may do what, paths to resources, lists, watches and streams."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.kubernetes import pods
from tests.kubernetes.answers import Refused, expired, forbidden, not_found, success
from tests.kubernetes.execution import V4, V5, Execution
from tests.kubernetes.faults import HangUp
from tests.kubernetes.logs import read, wanted
from tests.kubernetes.selectors import Object, both
from tests.kubernetes.store import CLUSTERED, KINDS, Stored

if TYPE_CHECKING:
    from tests.kubernetes.cluster import Cluster

PATH = re.compile(
    r"/api/v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
WATCH_SECONDS = 1800.0
UNPULLED = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
BOOKMARK = 1.0
"""Seconds without a change after which a watch is sent a bookmark (a real server: about a minute)."""


class Listener(ThreadingHTTPServer):
    """Knows its connections, so that they can be cut."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, cluster: Cluster) -> None:
        self.cluster = cluster
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is nothing to tell of; anything else is a defect of the stand-in, and is kept."""
        import sys

        error = sys.exception()
        if not isinstance(error, OSError | HangUp):
            self.cluster.defects.append(error)
            super().handle_error(request, client_address)

    def cut(self) -> None:
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Listener

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    # --- one request

    def _answer(self) -> None:
        self.cluster = self.server.cluster
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.is_streaming = False
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self._route(url.path.rstrip("/"), body)
        except Refused as refused:
            if self.is_streaming:
                raise AssertionError("too late to refuse") from refused
            self._send(refused.code, json.dumps(refused.status).encode(), refused.headers)
        except HangUp:
            self.close_connection = True
            self.connection.close()
        self.wfile.flush()

    def _route(self, path: str, body: bytes) -> None:
        match = PATH.fullmatch(path)
        verb, resource = self._verb(match), self._resource(match)
        self.cluster.count(verb if match else self.command.lower(), resource if match else path, path)
        self.cluster.faults.meet(verb, path)
        if path in ("/version", "/healthz", "/livez", "/readyz"):
            return self._about(path)
        user = self._user()
        if path in ("/api", "/apis", "/api/v1"):
            return self._about(path)
        if path == REVIEWS and self.command == "POST":
            return self._review(_json(body))
        if match is None or match["resource"] not in KINDS:
            self._send(404, b"404 page not found\n", {"Content-Type": "text/plain"})
            return None
        namespace, name = match["namespace"], match["name"]
        if match["resource"] == "namespaces":
            namespace, name = None, match["name"]
        self._allow(user, verb, resource, namespace, name)
        if name is None:
            return self._collection(verb, match["resource"], namespace, body)
        if match["sub"]:
            return self._subresource(match["resource"], match["sub"], namespace or "", name, body)
        return self._one(verb, match["resource"], namespace or "", name, body)

    def _verb(self, match: re.Match[str] | None) -> str:
        if match and not match["name"]:
            if self.command == "GET":
                return "watch" if self.query.get("watch") in ("true", "True", "1") else "list"
            if self.command == "DELETE":
                return "deletecollection"
        return {"GET": "get", "POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}[self.command]

    def _resource(self, match: re.Match[str] | None) -> str:
        if match is None:
            return ""
        return match["resource"] + (f"/{match['sub']}" if match["sub"] else "")

    def _user(self) -> str:
        given = self.headers.get("Authorization", "")
        user = self.cluster.tokens.get(given.removeprefix("Bearer ")) if given.startswith("Bearer ") else None
        if user is None:
            raise Refused(401, "Unauthorized")
        return user

    def _allow(self, user: str, verb: str, resource: str, namespace: str | None, name: str | None) -> None:
        if not self.cluster.allows(verb, resource, namespace):
            raise forbidden(user, verb, resource, namespace, name)

    # --- answers

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _say(self, item: dict[str, Any], code: int = 200) -> None:
        self._send(code, json.dumps(item).encode())

    def _begin_stream(self, kind: str) -> None:
        self.is_streaming = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    # --- what is not a resource

    def _about(self, path: str) -> None:
        if path == "/version":
            major, minor = self.cluster.version
            said = {
                "major": str(major),
                "minor": str(minor),
                "gitVersion": f"v{major}.{minor}.0",
                "platform": "linux/amd64",
            }
            return self._say(said)
        if path == "/api":
            return self._say({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self._say({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        if path == "/api/v1":
            return self._say({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})
        return self._send(200, b"ok", {"Content-Type": "text/plain"})

    def _review(self, review: dict[str, Any]) -> None:
        asked = (review.get("spec") or {}).get("resourceAttributes") or {}
        resource = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = not asked.get("group") and self.cluster.allows(
            asked.get("verb", ""), resource, asked.get("namespace") or None
        )
        said = {"allowed": allowed, **({} if allowed else {"reason": ""})}
        kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        self._say({**kind, "metadata": {}, "spec": review.get("spec"), "status": said}, 201)

    # --- collections

    def _collection(self, verb: str, resource: str, namespace: str | None, body: bytes) -> None:
        chosen = both(self.query.get("labelSelector"), self.query.get("fieldSelector"), resource)
        if resource in CLUSTERED:
            namespace = None
        if verb == "list":
            return self._list(resource, namespace, chosen)
        if verb == "watch":
            return self._watch(resource, namespace, chosen)
        if verb == "deletecollection" and resource == "pods" and namespace:
            found = pods.delete_all(self.cluster, namespace, chosen, self._options(body))
            return self._list_of("pods", self.cluster.store.version, found, {})
        if verb == "create" and resource == "pods" and namespace:
            stored, warnings = pods.create(self.cluster, namespace, _json(body))
            self.cluster.warnings.extend(warnings)
            headers = {"Warning": ", ".join(f'299 - "{text}"' for text in warnings)} if warnings else {}
            return self._send(201, stored.whole("pods"), headers)
        raise Refused(405, "the server does not allow this method on the requested resource")

    def _list(self, resource: str, namespace: str | None, chosen: Any) -> None:
        store = self.cluster.store
        position, version, found = "", 0, None
        if self.query.get("continue"):
            version, position = _continued(self.query["continue"])
            found = store.snapshots.get(version)
            if found is None:
                text = "The provided continue parameter is too old to display a consistent list result."
                raise expired(text)
        elif self.query.get("resourceVersion", "0") not in ("", "0"):
            store.not_older(_version(self.query["resourceVersion"]))
        if found is None:
            version, found = store.list(resource, namespace, chosen)
        limit = int(self.query.get("limit") or 0)
        rest = [stored for stored in found if _place(stored) > position] if position else found
        extra: dict[str, Any] = {}
        if limit and len(rest) > limit:
            store.snapshots[version] = found
            extra["continue"] = _continue(version, _place(rest[limit - 1]))
            if not self.query.get("labelSelector") and not self.query.get("fieldSelector"):
                extra["remainingItemCount"] = len(rest) - limit
            rest = rest[:limit]
        self._list_of(resource, version, rest, extra)

    def _list_of(self, resource: str, version: int, found: list[Stored], extra: dict[str, Any]) -> None:
        metadata = json.dumps({"resourceVersion": str(version), **extra}).encode()
        head = b'{"kind":"%sList","apiVersion":"v1","metadata":%s,"items":[' % (KINDS[resource].encode(), metadata)
        self._send(200, head + b",".join(stored.text for stored in found) + b"]}")

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
        self._chunk(b"".join(_event("ADDED", stored.whole(resource)) for stored in first))
        told = since
        try:
            for kind, stored, version in store.changes(resource, namespace, chosen, since, seconds, BOOKMARK):
                if stored is not None:
                    self._chunk(_event(kind, stored.whole(resource)))
                    told = version
                elif self._is_closed():
                    return
                elif bookmarks and version > told:
                    self._chunk(_event("BOOKMARK", _bookmark(resource, version)))
                    told = version
        except Refused as refused:
            self._chunk(_event("ERROR", json.dumps(refused.status).encode()))
        self._end_stream()
        self.close_connection = True

    def _is_closed(self) -> bool:
        """Whether the client has hung up."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    # --- single objects

    def _options(self, body: bytes) -> dict[str, Any]:
        options = _json(body) if body else {}
        for name in ("gracePeriodSeconds",):
            if name in self.query:
                options[name] = int(self.query[name])
        return options

    def _one(self, verb: str, resource: str, namespace: str, name: str, body: bytes) -> None:
        store = self.cluster.store
        if verb == "get":
            return self._send(200, store.get(resource, namespace, name).whole(resource))
        if verb == "delete" and resource == "pods":
            return self._send(200, pods.delete(self.cluster, namespace, name, self._options(body)).whole("pods"))
        if verb == "patch" and resource == "pods":
            kind = self.headers.get("Content-Type", "").partition(";")[0]
            return self._send(200, pods.patch(self.cluster, resource, namespace, name, kind, _json(body)).whole("pods"))
        raise Refused(405, "the server does not allow this method on the requested resource")

    def _subresource(self, resource: str, sub: str, namespace: str, name: str, body: bytes) -> None:
        if resource == "pods" and sub == "log" and self.command == "GET":
            return self._log(namespace, name)
        if resource == "pods" and sub == "exec" and self.command in ("GET", "POST"):
            return self._exec(namespace, name)
        if resource == "pods" and sub == "status" and self.command == "GET":
            return self._one("get", resource, namespace, name, body)
        if resource == "pods" and sub == "eviction" and self.command == "POST":
            pods.evict(self.cluster, namespace, name, _json(body).get("deleteOptions") or {})
            return self._say(success(), 201)
        raise not_found(resource, f"{name}/{sub}")

    # --- streams

    def _log(self, namespace: str, name: str) -> None:
        pod = self.cluster.store.get("pods", namespace, name).object
        asked = wanted(self.query)
        container = _container_name(pod, self.query.get("container"))
        if not pod["spec"].get("nodeName"):
            return self._send(200, b"", {"Content-Type": "text/plain"})
        slot, worker = self.cluster.slot(pod, container)
        if slot is None or worker is None:
            return self._send(200, b"", {"Content-Type": "text/plain"})
        restart = slot.restarts
        if self.query.get("previous") in ("true", "True", "1"):
            if not slot.last:
                raise Refused(400, f'previous terminated container "{container}" in pod "{name}" not found')
            restart -= 1
        elif slot.container is None and slot.last:
            restart -= 1
        elif slot.container is None or not slot.container.started.is_set():
            why = slot.waiting["reason"]
            said = f"is waiting to start: {UNPULLED.get(why, why)}"
            raise Refused(400, f'container "{container}" in pod "{name}" {said}')
        path = worker.log_of(slot, restart)
        ended = slot.container.ended if slot.container and restart == slot.restarts else None
        self._begin_stream("text/plain")
        for piece in read(path, asked, lambda: ended is None or ended.is_set()):
            if not piece and (self._is_closed() or self.cluster.store.closed):
                return None
            self._chunk(piece)
        return self._end_stream()

    def _exec(self, namespace: str, name: str) -> None:
        asked = [word.strip() for word in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if self.headers.get("Upgrade", "").lower() != "websocket":
            raise Refused(400, "Upgrade request required")
        if self.cluster.version >= (1, 35) and not self.cluster.allows("create", "pods/exec", namespace):
            raise forbidden(self._user(), "create", "pods/exec", namespace, name)
        pod = self.cluster.store.get("pods", namespace, name).object
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        container = _container_name(pod, self.query.get("container"))
        if not query.get("command"):
            raise Refused(400, "you must specify at least 1 command for the container")
        if not any(self.query.get(stream, "").lower() in ("true", "1") for stream in ("stdin", "stdout", "stderr")):
            raise Refused(400, "you must specify at least one of stdin, stdout, stderr")
        slot, _ = self.cluster.slot(pod, container)
        protocol = next((word for word in (V5, V4) if word in asked), None)
        if protocol is None:
            raise Refused(400, f"unable to negotiate protocol: client supports {asked}, server accepts [{V5} {V4}]")
        running = slot.container if slot and slot.container and slot.container.is_running else None
        if protocol == V4 and running is None:
            raise Refused(500, f'container not found ("{container}")')
        self.close_connection = True
        execution = Execution(self.connection, running, container, query, protocol == V5)
        headers = [(key.lower().encode(), value.encode()) for key, value in self.headers.items()]
        with self.cluster.executing(execution):
            execution.run(headers, self.path)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise Refused(400, f"couldn't get version/kind; json parse error: {error}") from None


def _version(text: str) -> int:
    if not text.isdigit():
        raise Refused(400, f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _place(stored: Stored) -> str:
    metadata = stored.object["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _continue(version: int, position: str) -> str:
    said = {"v": "meta.k8s.io/v1", "rv": version, "start": position}
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


def _continued(text: str) -> tuple[int, str]:
    try:
        said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(said["rv"]), said["start"]
    except (ValueError, KeyError):
        raise Refused(400, f"continue key is not valid: {text}") from None


def _event(kind: str, item: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), item)


def _bookmark(resource: str, version: int) -> bytes:
    said = {
        "kind": KINDS[resource],
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
    }
    if resource == "pods":
        said |= {"spec": {"containers": None}, "status": {}}
    return json.dumps(said).encode()


def _container_name(pod: Object, name: str | None) -> str:
    """The container that is meant. Raises Refused where there is none of that name, or no name and several of them."""
    mains = [container["name"] for container in pod["spec"]["containers"]]
    inits = [container["name"] for container in pod["spec"].get("initContainers") or []]
    if name:
        if name not in [*mains, *inits]:
            raise Refused(400, f"container {name} is not valid for pod {pod['metadata']['name']}")
        return name
    if len(mains) == 1 and not inits:
        return str(mains[0])
    text = f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(mains)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise Refused(400, text)
