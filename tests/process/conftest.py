from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import ProcessHarness


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[Callable[..., ProcessHarness]]:
    """The process runner with settings of the test's own."""
    made: list[ProcessHarness] = []

    def make(folder: Path | None = None, **settings: Any) -> ProcessHarness:
        made.append(ProcessHarness(folder or tmp_path / f"data{len(made)}", **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def process(make_process: Callable[..., ProcessHarness]) -> ProcessHarness:
    return make_process()
