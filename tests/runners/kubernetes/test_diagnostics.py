"""The problems of pods that only the cluster's events tell, and the patience with them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runners.base import Reason, RunnerUnavailable
from runners.kubernetes import diagnostics
from runners.kubernetes.api import ApiRefused
from runners.kubernetes.diagnostics import EVENT_LIFETIME_SECONDS, PodEvents, ProblemTimer, final_message
from runners.kubernetes.pod_status import StartProblem

OLD = "2026-01-01T00:00:00Z"


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeApi:
    """An API server with these events, which records each query for them."""

    namespace = "jobs"

    def __init__(self, *events: Any, error: Exception | None = None) -> None:
        self.events = events
        self.error = error
        self.queries: list[dict[str, str]] = []

    def ask(self, method: str, path: str, query: Any) -> bytes:
        self.queries.append(dict(query))
        if self.error:
            raise self.error
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": self.events}).encode()


def event(uid: str, reason: str, message: str, at: str | None = None, **fields: Any) -> dict[str, Any]:
    values = {"reason": reason, "message": message, "lastTimestamp": at, "eventTime": None, **fields}
    return {"metadata": {"creationTimestamp": OLD}, "involvedObject": {"uid": uid}, **values}


def pod(uid: str = "1", created: str = OLD, scheduled: str | None = None) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled}
    return {
        "metadata": {"uid": uid, "creationTimestamp": created},
        "status": {"conditions": [condition] if scheduled else []},
    }


def events_of(*events: Any, error: Exception | None = None) -> PodEvents:
    return PodEvents(FakeApi(*events, error=error))  # type: ignore[arg-type]


class TestPodEvents:
    def test_last_event_of_a_pod_is_its_problem(self) -> None:
        api: Any = FakeApi(
            event("1", "FailedMount", "last", eventTime=ago(5)),
            event("1", "FailedMount", "first", ago(20)),
            event("2", "FailedCreatePodSandBox", "other", series={"count": 2, "lastObservedTime": ago(1)}),
        )
        events = PodEvents(api)
        assert events.problem_of(pod()) is None
        events.refresh([pod()])
        assert events.problem_of(pod()) == StartProblem(Reason.START, "FailedMount: last", kind="volume")
        assert events.problem_of(pod("2")) == StartProblem(
            Reason.START, "FailedCreatePodSandBox: other", kind="sandbox"
        )
        assert events.problem_of(pod("3")) is None
        assert api.queries == [{"fieldSelector": "involvedObject.kind=Pod,type=Warning", "limit": "500"}]

    @pytest.mark.parametrize(
        "reason", ["FailedScheduling", "MissingClusterDNS", "DNSConfigForming", "Unhealthy", "BackOff", "Failed"]
    )
    def test_event_that_cannot_prevent_a_start_is_ignored(self, reason: str) -> None:
        events = events_of(event("1", reason, "words", ago(1)))
        events.refresh([pod()])
        assert events.problem_of(pod()) is None

    @pytest.mark.parametrize(("age", "scheduled"), [(30, 10), (EVENT_LIFETIME_SECONDS + 60, 3000)])
    def test_old_event_or_event_of_another_machine_is_ignored(self, age: float, scheduled: float) -> None:
        events = events_of(event("1", "FailedMount", "words", ago(age)))
        events.refresh([pod()])
        assert events.problem_of(pod(scheduled=ago(scheduled))) is None

    def test_one_list_serves_all_pods_for_some_time(self) -> None:
        api: Any = FakeApi()
        events = PodEvents(api)
        for _ in range(5):
            events.refresh([pod("1"), pod("2")])
        assert len(api.queries) == 1

    def test_new_pods_cause_no_list_of_events(self) -> None:
        api: Any = FakeApi()
        PodEvents(api).refresh([pod(created="2999-01-01T00:00:00Z")])
        assert api.queries == []

    @pytest.mark.parametrize("error", [ApiRefused(403, "Forbidden", "no"), RunnerUnavailable("away")])
    def test_events_that_cannot_be_listed_are_no_error(self, error: Exception) -> None:
        events = events_of(error=error)
        events.refresh([pod()])
        assert events.problem_of(pod()) is None


class TestProblemTimer:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [100.0]
        monkeypatch.setattr(diagnostics.time, "monotonic", lambda: clock[0])
        return clock

    def test_problem_of_another_kind_starts_it_again(self, clock: list[float]) -> None:
        timer = ProblemTimer()
        node = StartProblem(Reason.START, "Unschedulable", kind="node")
        image = StartProblem(Reason.IMAGE, "Pull", kind="image of job")
        same_kind = StartProblem(Reason.IMAGE, "ImagePullBackOff", kind="image of job")
        assert not timer.is_final(node, 60)
        clock[0] += 50
        assert not timer.is_final(image, 60)
        clock[0] += 50
        assert not timer.is_final(same_kind, 60)
        clock[0] += 11
        assert timer.is_final(image, 60)

    def test_problem_is_final_after_the_patience_until_a_reset(self, clock: list[float]) -> None:
        timer, problem = ProblemTimer(), StartProblem(Reason.IMAGE, "ErrImagePull: no")
        assert not timer.is_final(problem, 60)
        clock[0] += 61
        assert timer.is_final(problem, 60)
        assert final_message(problem, 60.0) == "For 60 seconds: ErrImagePull: no"
        timer.reset()
        assert not timer.is_final(problem, 60)

    def test_hopeless_problem_is_final_at_once(self) -> None:
        problem = StartProblem(Reason.IMAGE, "InvalidImageName: no", is_permanent=True)
        assert ProblemTimer().is_final(problem, 60)
        assert final_message(problem, 60.0) == "InvalidImageName: no"

    def test_helper_is_late_after_the_patience(self, clock: list[float]) -> None:
        timer = ProblemTimer()
        assert not timer.is_late("files", 60)
        clock[0] += 61
        assert timer.is_late("files", 60)
