"""Harnesses as fixtures; each leaves nothing behind, neither processes nor files in the back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runners.harness import FakeHarness, Harness, ProcessHarness

HARNESSES = {"fake": FakeHarness, "process": ProcessHarness}


@pytest.fixture(params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made = HARNESSES[request.param](tmp_path)
    yield made
    made.close()


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
