"""Results of calls."""

from __future__ import annotations

import pytest

from polyjob.engine.call_pools import FunctionCall, InlineCalls, Result


class PatientCall(FunctionCall):
    def is_urgent(self, result: Result) -> bool:
        return False


@pytest.mark.parametrize(("kind", "is_urgent"), [(FunctionCall, True), (PatientCall, False)])
def test_only_urgent_results_wake_the_engine(kind: type[FunctionCall], is_urgent: bool) -> None:
    woken: list[bool] = []
    calls = InlineCalls(lambda: woken.append(True), build_slots=1)
    calls.submit(kind("look", ("check", "fake"), "check", lambda: "answer", lambda result: None))
    assert bool(woken) is calls.has_urgent_results() is is_urgent
    assert [result.value for result in calls.take()] == ["answer"]
    assert not calls.is_busy(("check", "fake"))
    calls.close()
