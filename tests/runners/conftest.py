"""Fixtures: the harness of each runner. Each leaves no process and no file behind in the backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.require import require, require_root
from tests.runners.docker_engine import PODMAN, engine_answers, make_images
from tests.runners.harness import DockerHarness, FakeHarness, Harness, ProcessHarness
from tests.runners.kubernetes_harness import KUBECONFIG, KubernetesHarness
from tests.simulators.kubernetes.remote import start as start_cluster
from tests.simulators.registry import Registry

HARNESSES = {"fake": FakeHarness, "process": ProcessHarness}


@pytest.fixture(params=sorted([*HARNESSES, "docker", "kubernetes", "podman"]))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param in ("docker", "kubernetes", "podman"):
        yield request.getfixturevalue(request.param)
        return
    harness = HARNESSES[request.param](tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def docker(images: None, tmp_path: Path) -> Iterator[DockerHarness]:
    """The Docker runner on the Engine that the environment names."""
    harness = DockerHarness(tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def podman(podman_images: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DockerHarness]:
    """The Docker runner on Podman's service."""
    monkeypatch.setenv("DOCKER_HOST", PODMAN)
    harness = DockerHarness(tmp_path)
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def podman_images() -> None:
    require("podman", engine_answers(PODMAN), f"Podman's service does not answer at {PODMAN}")
    make_images(PODMAN)


SESSION_SECONDS = 3600
"""Time limit of the simulator: longer than all tests take, also on a busy machine."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The cluster simulator, in a process of its own; None if POLYJOB_TEST_KUBECONFIG names a real cluster."""
    if KUBECONFIG:
        yield None
        return
    require_root()
    with start_cluster(tmp_path_factory.mktemp("cluster"), seconds=SESSION_SECONDS) as started:
        yield started


@pytest.fixture(scope="session")
def registry(cluster: Any) -> Iterator[Registry | None]:
    """A registry whose images the cluster can pull; None on a real one."""
    if cluster is None:
        yield None
        return
    registry = Registry(cluster.add_image)
    yield registry
    registry.close()


@pytest.fixture
def make_kubernetes(
    tmp_path: Path, cluster: Any, registry: Registry | None
) -> Iterator[Callable[..., KubernetesHarness]]:
    """Return a function that creates a harness of the Kubernetes runner with the given options."""
    harnesses: list[KubernetesHarness] = []

    def make(folder: Path | None = None, **options: Any) -> KubernetesHarness:
        harnesses.append(KubernetesHarness(folder or tmp_path, cluster, **{"registry": registry, **options}))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.close()
        assert not harness.pods()


@pytest.fixture
def kubernetes(make_kubernetes: Callable[..., KubernetesHarness]) -> KubernetesHarness:
    return make_kubernetes()


@pytest.fixture(scope="session")
def images() -> None:
    """Create the images of the tests in the Docker Engine. Skips the test if there is no Engine."""
    require("docker", engine_answers(), "no Docker Engine answers")
    make_images()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every account can pass through; pytest's own is private."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[Callable[..., ProcessHarness]]:
    """Return a function that creates a harness of the process runner with the given settings."""
    harnesses: list[ProcessHarness] = []

    def make(folder: Path | None = None, **settings: Any) -> ProcessHarness:
        harnesses.append(ProcessHarness(folder or tmp_path, **settings))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.close()


@pytest.fixture
def process(make_process: Callable[..., ProcessHarness]) -> ProcessHarness:
    return make_process()
