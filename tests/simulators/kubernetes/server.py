"""Requests to the API server: authentication, authorization, and routing."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.simulators.kubernetes import pods
from tests.simulators.kubernetes.answers import RequestRefused, forbidden, not_found, success
from tests.simulators.kubernetes.connections import read_json
from tests.simulators.kubernetes.faults import Fault, HangUp, raise_fault
from tests.simulators.kubernetes.resources import Resources
from tests.simulators.kubernetes.store import KINDS
from tests.simulators.kubernetes.streams import Streams

PATH = re.compile(
    r"/api/v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

LARGEST = 3 << 20
"""Largest request in bytes."""


class Handler(Resources, Streams):
    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    # --- one request

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.is_streaming = False
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            _check_size(len(body))
            self._route(url.path.rstrip("/"), body)
        except RequestRefused as pod_forbidden:
            if self.is_streaming:
                raise AssertionError("too late to refuse") from pod_forbidden
            if pod_forbidden.is_plain:
                headers = {"Content-Type": "text/plain; charset=utf-8", **pod_forbidden.headers}
                self._send(pod_forbidden.code, f"{pod_forbidden}\n".encode(), headers)
            else:
                self._send(pod_forbidden.code, json.dumps(pod_forbidden.status).encode(), pod_forbidden.headers)
        except HangUp:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        self.wfile.flush()

    def _route(self, path: str, body: bytes) -> None:
        match = PATH.fullmatch(path)
        verb, resource = self._verb(match), self._resource(match)
        self.cluster.count(verb if match else self.command.lower(), resource if match else path, path)
        fault = self.cluster.faults.find(verb, path)
        if fault and fault.is_done:
            self._carry_out(fault, path, verb, resource, match, body)
        elif fault:
            raise_fault(fault)
        self._serve(path, verb, resource, match, body)

    def _carry_out(
        self, fault: Fault, path: str, verb: str, resource: str, match: re.Match[str] | None, body: bytes
    ) -> None:
        """Carry out the request, and discard the response."""
        wire, self.wfile = self.wfile, io.BytesIO()
        try:
            self._serve(path, verb, resource, match, body)
        finally:
            self.wfile = wire
        raise_fault(fault)

    def _serve(self, path: str, verb: str, resource: str, match: re.Match[str] | None, body: bytes) -> None:
        if path in ("/version", "/healthz", "/livez", "/readyz"):
            return self._version_or_namespaces(path)
        user = self._user()
        if path in ("/api", "/apis", "/api/v1"):
            return self._version_or_namespaces(path)
        if path == REVIEWS and self.command == "POST":
            return self._review(read_json(body))
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
            raise RequestRefused(401, "Unauthorized")
        return user

    def _allow(self, user: str, verb: str, resource: str, namespace: str | None, name: str | None) -> None:
        if not self.cluster.allows(verb, resource, namespace):
            raise forbidden(user, verb, resource, namespace, name)

    def _version_or_namespaces(self, path: str) -> None:
        if path == "/version":
            major, minor = self.cluster.version
            body = {
                "major": str(major),
                "minor": str(minor),
                "gitVersion": f"v{major}.{minor}.0",
                "gitCommit": "0" * 40,
                "gitTreeState": "clean",
                "buildDate": "2026-01-01T00:00:00Z",
                "goVersion": "go1.25",
                "compiler": "gc",
                "platform": "linux/amd64",
            }
            return self._say(body)
        if path == "/api":
            return self._say({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self._say({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        if path == "/api/v1":
            return self._say({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})
        return self._send(200, b"ok", {"Content-Type": "text/plain"})

    def _review(self, review: dict[str, Any]) -> None:
        attributes = (review.get("spec") or {}).get("resourceAttributes") or {}
        resource = attributes.get("resource", "") + (
            f"/{attributes['subresource']}" if attributes.get("subresource") else ""
        )
        allowed = not attributes.get("group") and self.cluster.allows(
            attributes.get("verb", ""), resource, attributes.get("namespace") or None
        )
        result = {"allowed": allowed, **({} if allowed else {"reason": ""})}
        kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        self._say({**kind, "metadata": {}, "spec": review.get("spec"), "status": result}, 201)

    def _subresource(self, resource: str, sub: str, namespace: str, name: str, body: bytes) -> None:
        if resource == "pods" and sub == "log" and self.command == "GET":
            return self._log(namespace, name)
        if resource == "pods" and sub == "exec" and self.command in ("GET", "POST"):
            return self._exec(namespace, name)
        if resource == "pods" and sub == "status" and self.command == "GET":
            return self._one("get", resource, namespace, name, body)
        if resource == "pods" and sub == "eviction" and self.command == "POST":
            pods.evict(self.cluster, namespace, name, read_json(body).get("deleteOptions") or {})
            return self._say(success(), 201)
        raise not_found(resource, f"{name}/{sub}")


def _check_size(size: int) -> None:
    """Refuse a request that is too large for the server, or for its database."""
    if size > LARGEST:
        raise RequestRefused(413, f"Request entity too large: limit is {LARGEST}", "RequestEntityTooLarge")
    if size > LARGEST // 2:
        raise RequestRefused(500, "etcdserver: request is too large")
