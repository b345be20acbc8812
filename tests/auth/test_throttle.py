"""Delays after failed attempts."""

from __future__ import annotations

import pytest

from polyjob.auth.throttle import Attempt, FailureLimit, Throttled


def test_delay_doubles_with_each_failure(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("polyjob.auth.throttle.clock", lambda: clock[0])
    limit = FailureLimit(max_failures=2)
    delays = []
    for _ in range(6):
        try:
            Attempt((limit, "a"))
        except Throttled as error:
            delays.append(error.retry_after)
            clock[0] += error.retry_after
            Attempt((limit, "a"))
    assert delays == [2, 3, 5, 9]


def test_delay_has_a_maximum(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("polyjob.auth.throttle.clock", lambda: clock[0])
    limit = FailureLimit(max_failures=1, max_delay_seconds=4)
    for _ in range(10):
        Attempt((limit, "a"))
        clock[0] += 4


def test_keys_are_counted_separately_and_reset(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("polyjob.auth.throttle.clock", lambda: clock[0])
    limit = FailureLimit(max_failures=1)
    Attempt((limit, "a"), (limit, "b"))
    Attempt((limit, "c")).cancel()
    with pytest.raises(Throttled):
        Attempt((limit, "c"), (limit, "a"))
    limit.forget("a")
    Attempt((limit, "c"), (limit, "a"))
    clock[0] += 301
    Attempt((limit, "b"))


def test_number_of_keys_is_bounded(monkeypatch):
    monkeypatch.setattr("polyjob.auth.throttle.MAX_COUNTED_KEYS", 3)
    limit = FailureLimit()
    for number in range(10):
        Attempt((limit, str(number)))
    assert len(limit._failures) == 3
