"""Harnesses as fixtures; each leaves nothing behind, neither processes nor files in the back end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.require import require, require_root
from tests.runners.docker_engine import PODMAN, engine_is_there, make_images
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
    made = HARNESSES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def docker(images: None, tmp_path: Path) -> Iterator[DockerHarness]:
    """The Docker runner on the Engine that the environment names."""
    made = DockerHarness(tmp_path)
    yield made
    made.close()


@pytest.fixture
def podman(podman_images: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DockerHarness]:
    """The Docker runner on Podman's service."""
    monkeypatch.setenv("DOCKER_HOST", PODMAN)
    made = DockerHarness(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def podman_images() -> None:
    require("podman", engine_is_there(PODMAN), f"Podman's service does not answer at {PODMAN}")
    make_images(PODMAN)


WHOLE_RUN = 3600
"""Seconds: what is started once for all tests lives longer than they take, also on a busy machine."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The stand-in for a cluster, in a process of its own; None where a real one is named."""
    if KUBECONFIG:
        yield None
        return
    require_root()
    with start_cluster(tmp_path_factory.mktemp("cluster"), seconds=WHOLE_RUN) as started:
        yield started


@pytest.fixture(scope="session")
def registry(cluster: Any) -> Iterator[Registry | None]:
    """A registry whose images the cluster can pull; None on a real one."""
    if cluster is None:
        yield None
        return
    made = Registry(cluster.add_image)
    yield made
    made.close()


@pytest.fixture
def make_kubernetes(
    tmp_path: Path, cluster: Any, registry: Registry | None
) -> Iterator[Callable[..., KubernetesHarness]]:
    """Makes harnesses of the Kubernetes runner, with options of one's own."""
    made: list[KubernetesHarness] = []

    def make(folder: Path | None = None, **options: Any) -> KubernetesHarness:
        made.append(KubernetesHarness(folder or tmp_path, cluster, **{"registry": registry, **options}))
        return made[-1]

    yield make
    for harness in made:
        harness.close()
        assert not harness.pods()


@pytest.fixture
def kubernetes(make_kubernetes: Callable[..., KubernetesHarness]) -> KubernetesHarness:
    return make_kubernetes()


@pytest.fixture(scope="session")
def images() -> None:
    """The images of the tests, in a Docker Engine; a skip where there is none."""
    require("docker", engine_is_there(), "no Docker Engine answers")
    make_images()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every account can pass through; pytest's own is private."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[Callable[..., ProcessHarness]]:
    """Makes harnesses of the process runner, with settings of one's own."""
    made: list[ProcessHarness] = []

    def make(folder: Path | None = None, **settings: Any) -> ProcessHarness:
        made.append(ProcessHarness(folder or tmp_path, **settings))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def process(make_process: Callable[..., ProcessHarness]) -> ProcessHarness:
    return make_process()
