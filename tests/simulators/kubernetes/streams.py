"""Requests for containers: logs and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.simulators.kubernetes.answers import RequestRefused, forbidden
from tests.simulators.kubernetes.connections import Answering
from tests.simulators.kubernetes.execution import V4, V5, Execution
from tests.simulators.kubernetes.logs import parse_query, read
from tests.simulators.kubernetes.pod_status import Slot
from tests.simulators.kubernetes.selectors import Object

if TYPE_CHECKING:
    from tests.simulators.kubernetes.kubelet import PodWorker

UNPULLED = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


class Streams(Answering):
    def _log(self, namespace: str, name: str) -> None:
        pod = self.cluster.store.get("pods", namespace, name).object
        log_query = parse_query(self.query, self.cluster.settings.zone)
        container = _container_name(pod, self.query.get("container"))
        if not pod["spec"].get("nodeName"):
            return self._send(200, b"", {"Content-Type": "text/plain"})
        slot, worker = self._there(pod, container)
        if slot is None or worker is None:
            if pod["metadata"]["uid"] in self.cluster.pretended:
                return self._send(200, b"", {"Content-Type": "text/plain"})
            text = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            raise RequestRefused(400, text)
        restart = slot.restarts
        if self.query.get("previous") in ("true", "True", "1"):
            if not slot.last:
                raise RequestRefused(400, f'previous terminated container "{container}" in pod "{name}" not found')
            restart -= 1
        elif slot.container is None and slot.last:
            restart -= 1
        elif slot.container is None or not slot.container.started.is_set():
            reason = slot.waiting["reason"]
            state_text = f"is waiting to start: {UNPULLED.get(reason, reason)}"
            raise RequestRefused(400, f'container "{container}" in pod "{name}" {state_text}')
        path = worker.log_of(slot, restart)
        ended = slot.container.ended if slot.container and restart == slot.restarts else None
        self._begin_stream("text/plain")
        for chunk in read(path, log_query, lambda: ended is None or ended.is_set()):
            if not chunk and (self._is_closed() or self.cluster.store.closed):
                return None
            self._chunk(chunk)
        return self._end_stream()

    def _there(self, pod: Object, container: str) -> tuple[Slot | None, PodWorker | None]:
        """Return the container and its pod on their node. Raises RequestRefused if that node is lost."""
        node = self.cluster.nodes.get(pod["spec"].get("nodeName", ""))
        if node and node.is_lost:
            where = f"{node.ip}:10250"
            metadata = pod["metadata"]
            url = f"https://{where}/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
            raise RequestRefused(500, f'Get "{url}": dial tcp {where}: connect: no route to host')
        return self.cluster.slot(pod, container)

    def _exec(self, namespace: str, name: str) -> None:
        protocols = [word.strip() for word in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if self.headers.get("Upgrade", "").lower() != "websocket":
            raise RequestRefused(400, "Upgrade request required")
        if self.cluster.version >= (1, 35) and not self.cluster.allows("create", "pods/exec", namespace):
            raise forbidden(self._user(), "create", "pods/exec", namespace, name)
        pod = self.cluster.store.get("pods", namespace, name).object
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        container = _container_name(pod, self.query.get("container"))
        if not query.get("command"):
            raise RequestRefused(400, "you must specify at least 1 command for the container")
        if not any(self.query.get(stream, "").lower() in ("true", "1") for stream in ("stdin", "stdout", "stderr")):
            raise RequestRefused(400, "you must specify at least one of stdin, stdout, stderr")
        slot, _ = self._there(pod, container)
        protocol = next((word for word in (V5, V4) if word in protocols), None)
        if protocol is None:
            raise RequestRefused(
                400, f"unable to negotiate protocol: client supports {protocols}, server accepts [{V5} {V4}]"
            )
        running = slot.container if slot and slot.container and slot.container.is_running else None
        if protocol == V4 and running is None:
            raise RequestRefused(500, f'container not found ("{container}")')
        self.close_connection = True
        execution = Execution(self.connection, running, container, query, protocol == V5)
        headers = [(key.lower().encode(), value.encode()) for key, value in self.headers.items()]
        with self.cluster.executing(execution):
            execution.run(headers, self.path)


def _container_name(pod: Object, name: str | None) -> str:
    """Return the requested container. Raises RequestRefused for an unknown name, or none if there are several."""
    mains = [container["name"] for container in pod["spec"]["containers"]]
    inits = [container["name"] for container in pod["spec"].get("initContainers") or []]
    if name:
        if name not in [*mains, *inits]:
            raise RequestRefused(400, f"container {name} is not valid for pod {pod['metadata']['name']}")
        return name
    if len(mains) == 1 and not inits:
        return str(mains[0])
    text = f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(mains)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise RequestRefused(400, text)
