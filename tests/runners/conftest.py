"""Harnesses as fixtures; each leaves nothing behind, neither processes nor files in the back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.require import require
from tests.runners.engine import engine_is_there, make_images
from tests.runners.harness import DockerHarness, FakeHarness, Harness, ProcessHarness

HARNESSES = {"docker": DockerHarness, "fake": FakeHarness, "process": ProcessHarness}


@pytest.fixture(params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param == "docker":
        request.getfixturevalue("images")
    made = HARNESSES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def images() -> None:
    """The images of the tests, in a Docker Engine; a skip where there is none."""
    require("docker", engine_is_there(), "no Docker Engine answers")
    make_images()


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
