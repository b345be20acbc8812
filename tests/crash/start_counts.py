"""Counts of container starts, as the backends report them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.runners.docker_engine import connect
from tests.simulators.registry import BUILDER, Registry


class ContainerStarts:
    """Counts the starts of each job's container, by the Engine's events. A context manager."""

    def __enter__(self) -> ContainerStarts:
        self._events = connect().events(
            filters={"type": "container", "event": "start", "label": "polyjob.job"}, decode=True
        )
        self._counts: Counter[tuple[str, str]] = Counter()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()
        self._thread.join()

    def _listen(self) -> None:
        for event in self._events:
            labels = event["Actor"]["Attributes"]
            self._counts[labels["polyjob.installation"], labels["polyjob.job"]] += 1

    def of(self, installation: str) -> list[int]:
        """Return the counts of one installation's jobs."""
        return sorted(count for (theirs, _), count in list(self._counts.items()) if theirs == installation)

    def of_job(self, identity: str) -> int:
        return sum(count for (_, job), count in list(self._counts.items()) if job == identity)


def container_names(installation: str) -> list[str]:
    """Return the names of an installation's containers, running or not."""
    return [name for container in _containers(installation) for name in container["Names"]]


def remove_containers(installation: str) -> None:
    client = connect()
    for container in _containers(installation):
        client.remove_container(container["Id"], force=True)


def _containers(installation: str) -> list[dict[str, Any]]:
    return list(connect().containers(all=True, filters={"label": f"polyjob.installation={installation}"}))


class PodStarts:
    """Counts the starts of each job's container in a cluster, by the events of its pods."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def of(self, installation: str) -> list[int]:
        """Return the counts of one installation's jobs."""
        labels = self._cluster.labels()
        ours = {name for name, values in labels.items() if values.get("polyjob.installation") == installation}
        counts: Counter[str] = Counter()
        for event in self._cluster.events():
            subject = event["involvedObject"]
            if (
                event["reason"] == "Started"
                and subject.get("fieldPath") == "spec.containers{job}"
                and subject["name"] in ours
            ):
                counts[subject["name"]] += event["count"]
        return sorted(counts.values())


@contextlib.contextmanager
def cluster_settings(cluster: Any) -> Iterator[dict[str, str]]:
    """Yield the settings of a polyjob on a cluster, as variables. Runs a registry meanwhile."""
    registry = Registry(cluster.add_image)
    try:
        yield {
            "POLYJOB_KUBE_CONFIG": str(cluster.kubeconfig),
            "POLYJOB_KUBE_HELPER_IMAGE": "busybox",
            "POLYJOB_REGISTRY": f"http://{registry.host}",
            "POLYJOB_BUILDER_IMAGE": "python",
            "POLYJOB_BUILDER_COMMAND": BUILDER,
        }
    finally:
        registry.close()
