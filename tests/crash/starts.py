"""What back ends themselves say of how often jobs were started."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.runners.docker_engine import connect
from tests.simulators.registry import BUILDER, Registry


class Starts:
    """How often each container of a job is started, as the Engine tells it while this is used as a context."""

    def __enter__(self) -> Starts:
        self._events = connect().events(
            filters={"type": "container", "event": "start", "label": "polyjob.job"}, decode=True
        )
        self._seen: Counter[tuple[str, str]] = Counter()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()
        self._thread.join()

    def _listen(self) -> None:
        for event in self._events:
            labels = event["Actor"]["Attributes"]
            self._seen[labels["polyjob.installation"], labels["polyjob.job"]] += 1

    def of(self, installation: str) -> list[int]:
        """The numbers of one installation's jobs."""
        return sorted(count for (theirs, _), count in list(self._seen.items()) if theirs == installation)

    def of_job(self, identity: str) -> int:
        return sum(count for (_, job), count in list(self._seen.items()) if job == identity)


def containers_of(installation: str) -> list[str]:
    """The names of those that are there, running or not."""
    found = connect().containers(all=True, filters={"label": f"polyjob.installation={installation}"})
    return [name for item in found for name in item["Names"]]


class StartsOfPods:
    """How often the container of each job in a cluster was started, by the events of its pods."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def of(self, installation: str) -> list[int]:
        """The numbers of one installation's jobs."""
        labels = self._cluster.labels()
        ours = {name for name, told in labels.items() if told.get("polyjob.installation") == installation}
        seen: Counter[str] = Counter()
        for event in self._cluster.events():
            of = event["involvedObject"]
            if event["reason"] == "Started" and of.get("fieldPath") == "spec.containers{job}" and of["name"] in ours:
                seen[of["name"]] += event["count"]
        return sorted(seen.values())


@contextlib.contextmanager
def settings_of(cluster: Any) -> Iterator[dict[str, str]]:
    """The settings of a polyjob on a cluster, as variables, with a registry that lasts as long as this."""
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
