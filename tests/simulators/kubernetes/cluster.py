"""The simulated cluster: its state, its settings, and the methods that tests call."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.simulators.kubernetes.admission import Admission
from tests.simulators.kubernetes.connections import Listener
from tests.simulators.kubernetes.execution import Execution
from tests.simulators.kubernetes.fault_injection import FaultInjection
from tests.simulators.kubernetes.faults import Faults
from tests.simulators.kubernetes.images import Image, usual
from tests.simulators.kubernetes.kubelet import PodWorker
from tests.simulators.kubernetes.node import Node, Settings, node_object
from tests.simulators.kubernetes.pod_status import Slot
from tests.simulators.kubernetes.pretended import Pretended
from tests.simulators.kubernetes.recording import Recorder
from tests.simulators.kubernetes.scheduler import Scheduler
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.server import Handler
from tests.simulators.kubernetes.store import CLUSTERED, Store

CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "2000"}

Right = tuple[str, str, str]
"""(verb, resource, subresource or "")."""


class Cluster(FaultInjection, Pretended):
    """A cluster of one or more namespaces. All its files are below `state`, and `close` ends it.

    Methods may be called from any thread, and take and return plain values only, so that they can be called from
    another process as well.
    """

    def __init__(
        self, state: Path, port: int = 0, namespace: str = "default", version: tuple[int, int] = (1, 36)
    ) -> None:
        self.state = state
        self.state.mkdir(parents=True, exist_ok=True)
        self.version = version
        self.namespace = namespace
        self.store = Store()
        self.images: dict[str, Image] = usual()
        self.settings = Settings()
        self.recorder = Recorder(self.store)
        self.nodes: dict[str, Node] = {}
        self.scheduler = Scheduler(self.store, self.nodes, self.recorder)
        self.faults = Faults()
        self.token = secrets.token_hex(16)
        self.tokens = {self.token: "system:serviceaccount:default:polyjob"}
        self.rights: set[Right] | None = None
        """The permissions of the client; None = all."""
        self.admission = Admission()
        self.pretended = self.scheduler.pretended
        self.labels: dict[str, dict[str, str]] = {}
        """Name → labels, of every pod that a client ever created."""
        self.warnings: list[str] = []
        """The warnings that clients received, about unknown fields of pods."""
        self.defects: list[BaseException | None] = []
        """Errors in the simulator itself."""
        self.requests: Counter[tuple[str, str]] = Counter()
        self.paths: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._executions: set[Execution] = set()
        self._cut_after: int | None = None
        self._cut_after_input: int | None = None
        self._listener: Listener | None = None
        self._background_threads: list[threading.Thread] = []
        self.add_namespace(namespace)
        self.add_node("node-1")
        self._listen(port)
        self.kubeconfig = self._write_kubeconfig()

    # --- start and end

    def _listen(self, port: int) -> None:
        self._listener = Listener(port, self, Handler)
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _write_kubeconfig(self) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "simulator",
            "clusters": [{"name": "simulator", "cluster": {"server": self.url}}],
            "users": [{"name": "polyjob", "user": {"token": self.token}}],
            "contexts": [
                {
                    "name": "simulator",
                    "context": {"cluster": "simulator", "user": "polyjob", "namespace": self.namespace},
                }
            ],
        }
        path = self.state / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def close(self) -> None:
        """End every pod and every connection. Idempotent."""
        self.store.close()
        self.scheduler.close()
        self.go_away()
        for node in self.nodes.values():
            node.close()
        for thread in self._background_threads:
            thread.join(5)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def go_away(self) -> None:
        """Refuse connections, and cut those that exist."""
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown()
            listener.server_close()
            listener.cut()

    def come_back(self) -> None:
        if self._listener is None:
            self._listen(self.port)

    # --- contents and behaviour

    def add_namespace(self, name: str) -> None:
        self.store.create("namespaces", {"metadata": {"name": name}, "spec": {}, "status": {"phase": "Active"}})
        self.add("serviceaccounts", "default", name)

    def add_node(self, name: str, labels: dict[str, str] | None = None, **capacity: str) -> None:
        """Add a node. `capacity` replaces the usual capacity of a resource, such as `memory="1Gi"`."""
        node = Node(name, self.store, self.state, self.images, self.recorder, self.settings)
        self.store.create("nodes", node_object(name, {**CAPACITY, **capacity}, labels or {}, node.ip))
        node.defects = self.defects
        self.nodes[name] = node
        self.scheduler.wake()

    def change_node(self, name: str, labels: dict[str, str] | None = None, **allocatable: str) -> None:
        """Add labels to a node, and change the amounts that pods can use."""

        def change(item: Object) -> None:
            item["metadata"]["labels"] |= labels or {}
            item["status"]["allocatable"] |= allocatable

        self.store.update("nodes", "", name, change)
        self.scheduler.wake()

    def taint(self, name: str, key: str, value: str = "", effect: str = "NoSchedule") -> None:
        def change(item: Object) -> None:
            item["spec"].setdefault("taints", []).append({"key": key, "value": value, "effect": effect})

        self.store.update("nodes", "", name, change)

    def add(self, resource: str, name: str, namespace: str | None = None, **fields: Any) -> None:
        """Add a secret, a config map, a claim or a service account: `add("secrets", "key", data={…})`."""
        metadata = {"name": name, "namespace": namespace or self.namespace}
        self.store.create(resource, {"metadata": metadata, **fields})
        self.scheduler.wake()

    def remove(self, resource: str, name: str) -> None:
        self.store.remove(resource, self.namespace, name)

    def add_image(self, name: str, root: str = "busybox", **fields: Any) -> None:
        """Add an image that nodes can pull. The fields are those of `Image`."""
        self.images[name] = Image(root=root, **fields)

    def remove_image(self, name: str) -> None:
        self.images.pop(name, None)
        for node in self.nodes.values():
            node.pulled.discard(name)

    def configure(self, **settings: Any) -> None:
        """Change how nodes behave. The names are those of `Settings`."""
        for name, value in settings.items():
            if not hasattr(self.settings, name):
                raise TypeError(f"no setting {name}")
            setattr(self.settings, name, value)

    def schedule_nothing(self, message: str | None) -> None:
        """Leave new pods unscheduled, with this message; None: schedule again."""
        self.scheduler.refusal = message
        self.scheduler.wake()

    def restrict(self, **rules: Any) -> None:
        """Set the rules of admission. The names are those of `Admission`; all other rules are removed."""
        self.admission = Admission(**rules)

    def permit(self, rights: list[Right] | None) -> None:
        """Set the permissions of the client; None = all."""
        self.rights = None if rights is None else {tuple(right) for right in rights}  # type: ignore[misc]

    def allows(self, verb: str, resource: str, namespace: str | None) -> bool:
        """Return whether the client has a permission. Permissions are for the cluster's default namespace only."""
        base, _, sub = resource.partition("/")
        if self.rights is None:
            return True
        return (verb, base, sub) in self.rights and (namespace == self.namespace or base in CLUSTERED)

    # --- inspection

    def pods(self) -> list[Object]:
        return [stored.object for stored in self.store.list("pods", None, lambda item: True)[1]]

    def pod(self, name: str) -> Object | None:
        return self.store.find("pods", self.namespace, name)

    def events(self, name: str | None = None) -> list[Object]:
        """Return the events of all pods, or of one, in order of time."""
        events = self.store.list("events", None, lambda item: name in (None, item["involvedObject"]["name"]))[1]
        return [stored.object for stored in sorted(events, key=lambda stored: stored.version)]

    def processes(self, name: str) -> dict[str, int]:
        """Return the process ids of a pod's running containers on this machine, by container; none before it runs."""
        worker = self._find_worker(self.pod(name))
        return {
            slot.name: slot.container.pid
            for slot in (worker.slots if worker else ())
            if slot.container and slot.container.is_running and slot.container.pid
        }

    def count(self, verb: str, resource: str, path: str) -> None:
        with self._lock:
            self.requests[verb, resource] += 1
            self.paths[verb, path] += 1

    def counted(self) -> dict[str, int]:
        """Return the number of requests by verb and resource: `{"list pods": 3}`."""
        with self._lock:
            return {f"{verb} {resource}": number for (verb, resource), number in self.requests.items()}

    def counted_paths(self) -> dict[str, int]:
        """Return the number of requests by verb and path."""
        with self._lock:
            return {f"{verb} {path}": number for (verb, path), number in self.paths.items()}

    def forget_counts(self) -> None:
        with self._lock:
            self.requests.clear()
            self.paths.clear()

    def slot(self, pod: Object, container: str) -> tuple[Slot | None, PodWorker | None]:
        worker = self._find_worker(pod)
        return (worker.slot(container), worker) if worker else (None, None)

    def _find_worker(self, pod: Object | None) -> PodWorker | None:
        node = self.nodes.get(pod["spec"].get("nodeName", "")) if pod else None
        return node.worker(pod["metadata"]["uid"]) if node else None

    def _worker(self, name: str) -> PodWorker:
        worker = self._find_worker(self.pod(name))
        assert worker, f"no node runs {name}"
        return worker

    def _slots(self, name: str, container: str | None) -> list[Slot]:
        return [slot for slot in self._worker(name).slots if container in (None, slot.name)]

    def run_in_background(self, action: Callable[[], None]) -> None:
        """Run `action` in another thread than the request's. `close` waits for it."""
        thread = threading.Thread(target=action, daemon=True)
        with self._lock:
            self._background_threads = [other for other in self._background_threads if other.is_alive()] + [thread]
        thread.start()

    @contextlib.contextmanager
    def executing(self, execution: Execution) -> Iterator[None]:
        execution.cut_after, execution.cut_after_input = self._cut_after, self._cut_after_input
        with self._lock:
            self._executions.add(execution)
        try:
            yield
        finally:
            with self._lock:
                self._executions.discard(execution)
