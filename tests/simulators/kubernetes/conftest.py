"""Fixtures: a cluster for each test, and its official client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from tests.require import require_root
from tests.simulators.kubernetes.cluster import Cluster


def wait_for(what: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the result of `what` once it is true. Fails if it does not become true."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return value


def manifest(name: str = "pod", command: str = "sleep 60", **spec: Any) -> dict[str, Any]:
    """Return the manifest of a pod with one container `job` that runs a shell command."""
    container = {"name": "job", "image": "busybox", "command": ["sh", "-c", command]}
    return {
        "metadata": {"name": name, "labels": {"app": "test"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
            **spec,
        },
    }


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    require_root()
    with Cluster(tmp_path / "cluster") as started:
        yield started
        assert started.defects == []


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Any]:
    """Return the CoreV1Api of the official client, without retries."""
    with client_of(cluster.kubeconfig) as client:
        yield client


@contextlib.contextmanager
def client_of(kubeconfig: Path) -> Iterator[Any]:
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    client.configuration.retries = False
    client.rest_client = kubernetes.client.rest.RESTClientObject(client.configuration)
    yield kubernetes.client.CoreV1Api(client)
    client.rest_client.pool_manager.clear()
    client.close()
