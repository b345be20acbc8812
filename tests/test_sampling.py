"""Samples of large tests in a short run."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest

from tests.require import LONG_VARIABLE
from tests.sampling import SAMPLE_VARIABLE, examples, sample, skip_others


@pytest.fixture(autouse=True)
def short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LONG_VARIABLE, raising=False)


def sample_of_day(monkeypatch: pytest.MonkeyPatch, day: int, count: int, size: int) -> list[int]:
    monkeypatch.setenv(SAMPLE_VARIABLE, str(day))
    return sample(range(count), size)


@pytest.mark.parametrize("count", [1, 3, 4, 25, 100])
def test_all_values_are_tried_within_some_days(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    samples = [sample_of_day(monkeypatch, day, count, 3) for day in range(700_000, 700_000 + count)]
    assert {value for values in samples for value in values} == set(range(count))
    assert all(1 <= len(values) <= 3 for values in samples)


def test_long_run_tries_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LONG_VARIABLE, "1")
    assert sample_of_day(monkeypatch, 7, 100, 3) == list(range(100))
    assert examples(100) == 100


class Item:
    """A collected test: marked as one of so many, or of the Docker runner on an Engine."""

    def __init__(self, every: int = 1, engine: str = "") -> None:
        self.every = every
        self.nodeid = "tests/runners/test_contract.py::test_a"
        self.fixturenames = ["harness"] if engine else []
        self.callspec = types.SimpleNamespace(params={"harness": engine})
        self.is_skipped = False

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return pytest.mark.sample(every=self.every).mark if self.every > 1 else None

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.is_skipped = True


@pytest.mark.parametrize(
    ("item", "share"), [(Item(), 12), (Item(every=3), 4), (Item(engine="podman"), 2), (Item(engine="process"), 12)]
)
def test_short_run_has_a_share_of_the_tests(item: Item, share: int) -> None:
    items: list[Any] = [copy.copy(item) for _ in range(12)]
    skip_others(items)
    assert sum(not item.is_skipped for item in items) == share
