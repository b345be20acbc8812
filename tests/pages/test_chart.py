"""The chart of used slots."""

from __future__ import annotations

import re

import pytest

from polyjob.pages import chart


def heights(drawn: chart.Chart) -> list[tuple[float, float]]:
    """Return (x, height) of each step of the curve."""
    steps = re.findall(r"H([\d.]+)V([\d.]+)", drawn.path)
    return [(float(x), chart.HEIGHT - float(y)) for x, y in steps][:-1]


def test_unused_slots_are_a_flat_line() -> None:
    drawn = chart.draw([], 0, 1800, 4)
    assert heights(drawn) == [(0, 0)]
    assert (drawn.peak, drawn.utilization) == (0, 0)


def test_jobs_have_their_duration_as_width_and_are_stacked() -> None:
    drawn = chart.draw([(900, 1800), (1350, 1500)], 0, 1800, 2)
    curve = [(x, height) for x, height in heights(drawn)]
    assert curve[:2] == [(0, 0), (chart.WIDTH / 2, chart.HEIGHT / 2)]
    assert max(height for _, height in curve) == chart.HEIGHT
    assert drawn.peak == 2
    assert drawn.utilization == pytest.approx((900 + 150) / 3600)


def test_jobs_are_clipped_to_the_time_range() -> None:
    drawn = chart.draw([(-500, 100), (1700, 9999), (-9, -1), (5000, 6000)], 0, 1800, 1)
    assert drawn.utilization == pytest.approx(200 / 1800)


def test_used_slots_are_capped() -> None:
    drawn = chart.draw([(0, 101), (100, 1800)], 0, 1800, 1)
    assert (drawn.peak, drawn.utilization) == (1, 1)


def test_very_short_job_is_visible() -> None:
    assert chart.draw([(1000, 1001)], 0, 1800, 1).peak == 1
