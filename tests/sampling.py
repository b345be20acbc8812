"""Samples of large tests: a short run tries some of their values, other ones each day. A long run tries all.

Tests with the mark `sample(every=4)` are counted, and a short run has every fourth of them. A test that loops over many
values takes those that `sample` returns.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import pytest

from tests.require import LONG_VARIABLE, is_long_run

SAMPLE_VARIABLE = "POLYJOB_TEST_SAMPLE"
EVERY_ON_ENGINE = {"docker": 3, "podman": 6}
"""A short run has one of so many tests of the Docker runner. On Podman they run again."""
Value = TypeVar("Value")


def choose_sample() -> str:
    """Choose the sample of this run and of its workers: the given one, else that of the day."""
    return os.environ.setdefault(SAMPLE_VARIABLE, str(datetime.date.today().toordinal()))


def sample(values: Sequence[Value], size: int) -> list[Value]:
    """Return all values in a long run, and in a short one at most `size` of them, at equal distances."""
    stride = 1 if is_long_run() else max(1, -(-len(values) // size))
    return list(values[int(choose_sample()) % stride :: stride])


def examples(count: int) -> int:
    """Return the number of generated examples of a test that has `count` in a long run."""
    return count if is_long_run() else count // 5


def skip_others(items: Sequence[pytest.Item]) -> None:
    """Skip the tests that are not in the sample of a short run."""
    if is_long_run():
        return
    counts: Counter[int] = Counter()
    for item in items:
        if (every := _every(item)) > 1:
            counts[every] += 1
            if (counts[every] + int(choose_sample())) % every:
                reason = f"not in the sample of this run, which has one of {every}: {LONG_VARIABLE}=1 runs all"
                item.add_marker(pytest.mark.skip(reason=reason))


def _every(item: pytest.Item) -> int:
    mark = item.get_closest_marker("sample")
    every = int(mark.kwargs["every"]) if mark else 1
    return max(every, EVERY_ON_ENGINE.get(_engine(item), 1))


def _engine(item: pytest.Item) -> str:
    """Return `docker` or `podman` for a test of the Docker runner that starts containers; else another text."""
    if "harness" not in getattr(item, "fixturenames", ()):
        return ""
    default = "docker" if item.nodeid.startswith("tests/runners/docker/") else ""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("harness", default)) if callspec else default
