"""Measure several subjects in turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

Figures = Mapping[str, float]
"""Measurement → figure."""


def take_turns(rounds: int, subjects: Mapping[str, Callable[[], Figures]]) -> dict[str, dict[str, float]]:
    """Call each subject once in each round. Return measurement → subject → median of its figures."""
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for name in sorted(subjects, reverse=number % 2 == 1):  # so that none is always the first
            for measurement, figure in subjects[name]().items():
                found[measurement][name].append(figure)
    return {
        measurement: {name: statistics.median(figures) for name, figures in by_name.items()}
        for measurement, by_name in found.items()
    }


def median_ms(act: Callable[[], object], count: int) -> float:
    """Return the median time of a call, in milliseconds."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def per_second(act: Callable[[], object], seconds: float) -> float:
    """Call `act` again and again for that long, and return the calls per second."""
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        act()
        count += 1
    return count / elapsed
