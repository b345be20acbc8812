"""The Docker Engine's own account of the containers of jobs."""

from __future__ import annotations

import threading
from collections import Counter


class Starts:
    """How often each container of a job is started, as the Engine tells it while this is used as a context."""

    def __enter__(self) -> Starts:
        import docker

        self._events = docker.APIClient().events(
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
    import docker

    found = docker.APIClient().containers(all=True, filters={"label": f"polyjob.installation={installation}"})
    return [name for item in found for name in item["Names"]]
