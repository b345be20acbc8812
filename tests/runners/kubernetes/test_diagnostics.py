"""Why pods wait, where only the cluster's events tell."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runners.base import Reason, RunnerUnavailable
from runners.kubernetes import diagnostics
from runners.kubernetes.api import Refused
from runners.kubernetes.diagnostics import Troubles
from runners.kubernetes.pod_status import Trouble

OLD = "2026-01-01T00:00:00Z"


def ago(seconds: float) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Told:
    """An API server that knows these events, and counts how often it is asked for them."""

    namespace = "jobs"

    def __init__(self, *events: Any, error: Exception | None = None) -> None:
        self.events = events
        self.error = error
        self.asked: list[dict[str, str]] = []

    def ask(self, method: str, path: str, query: Any) -> bytes:
        self.asked.append(dict(query))
        if self.error:
            raise self.error
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": self.events}).encode()


def event(uid: str, reason: str, message: str, at: str | None = None, **fields: Any) -> dict[str, Any]:
    told = {"reason": reason, "message": message, "lastTimestamp": at, "eventTime": None, **fields}
    return {"metadata": {"creationTimestamp": OLD}, "involvedObject": {"uid": uid}, **told}


def pod(uid: str = "1", created: str = OLD, scheduled: str | None = None) -> dict[str, Any]:
    told = {"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled}
    return {
        "metadata": {"uid": uid, "creationTimestamp": created},
        "status": {"conditions": [told] if scheduled else []},
    }


def test_the_last_event_of_a_pod_explains_it() -> None:
    api: Any = Told(
        event("1", "FailedMount", "last", eventTime=ago(5)),
        event("1", "FailedMount", "first", ago(20)),
        event("2", "FailedCreatePodSandBox", "other", series={"count": 2, "lastObservedTime": ago(1)}),
    )
    troubles = Troubles(api, 60)
    assert troubles.of(pod()) is None
    troubles.look([pod()])
    assert troubles.of(pod()) == Trouble(Reason.START, "FailedMount: last", kind="volume")
    assert troubles.of(pod("2")) == Trouble(Reason.START, "FailedCreatePodSandBox: other", kind="sandbox")
    assert troubles.of(pod("3")) is None
    assert api.asked == [{"fieldSelector": "involvedObject.kind=Pod,type=Warning", "limit": "500"}]


@pytest.mark.parametrize(
    "reason", ["FailedScheduling", "MissingClusterDNS", "DNSConfigForming", "Unhealthy", "BackOff", "Failed"]
)
def test_event_that_cannot_stop_a_start_is_no_trouble(reason: str) -> None:
    troubles = Troubles(Told(event("1", reason, "words", ago(1))), 60)  # type: ignore[arg-type]
    troubles.look([pod()])
    assert troubles.of(pod()) is None


@pytest.mark.parametrize(("told", "scheduled"), [(30, 10), (diagnostics.RECENT + 60, 3000)])
def test_event_of_an_earlier_machine_or_hour_is_no_trouble(told: float, scheduled: float) -> None:
    troubles = Troubles(Told(event("1", "FailedMount", "words", ago(told))), 60)  # type: ignore[arg-type]
    troubles.look([pod()])
    assert troubles.of(pod(scheduled=ago(scheduled))) is None


def test_patience_begins_again_with_another_trouble(monkeypatch: Any) -> None:
    clock = [100.0]
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: clock[0])
    troubles = Troubles(Told(), 60)  # type: ignore[arg-type]
    node, image = (
        Trouble(Reason.START, "Unschedulable", kind="node"),
        Trouble(Reason.IMAGE, "Pull", kind="image of job"),
    )
    again = Trouble(Reason.IMAGE, "ImagePullBackOff", kind="image of job")
    assert not troubles.is_too_long("1", node)
    clock[0] += 50
    assert not troubles.is_too_long("1", image)
    clock[0] += 50
    assert not troubles.is_too_long("1", again)
    clock[0] += 11
    assert troubles.is_too_long("1", image)


def test_one_list_for_all_and_not_at_each_look() -> None:
    api: Any = Told()
    troubles = Troubles(api, 60)
    for _ in range(5):
        troubles.look([pod("1"), pod("2")])
    assert len(api.asked) == 1


def test_what_has_just_been_made_is_not_asked_after() -> None:
    api: Any = Told()
    Troubles(api, 60).look([pod(created="2999-01-01T00:00:00Z")])
    assert api.asked == []


@pytest.mark.parametrize("error", [Refused(403, "Forbidden", "no"), RunnerUnavailable("away")])
def test_events_only_explain(error: Exception) -> None:
    troubles = Troubles(Told(error=error), 60)  # type: ignore[arg-type]
    troubles.look([pod()])
    assert troubles.of(pod()) is None


def test_patience_is_counted_from_the_first_sight_and_forgotten(monkeypatch: Any) -> None:
    clock = [100.0]
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: clock[0])
    troubles, trouble = Troubles(Told(), 60), Trouble(Reason.IMAGE, "ErrImagePull: no")  # type: ignore[arg-type]
    assert not troubles.is_too_long("1", trouble)
    clock[0] += 61
    assert troubles.is_too_long("1", trouble)
    assert troubles.sentence(trouble) == "For 60 seconds: ErrImagePull: no"
    troubles.forget("1")
    assert not troubles.is_too_long("1", trouble)
    hopeless = Trouble(Reason.IMAGE, "InvalidImageName: no", is_hopeless=True)
    assert troubles.is_too_long("2", hopeless)
    assert troubles.sentence(hopeless) == "InvalidImageName: no"
    assert not troubles.helper_is_late(pod())
    clock[0] += 61
    assert troubles.helper_is_late(pod())
