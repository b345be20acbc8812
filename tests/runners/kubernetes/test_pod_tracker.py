"""The memory of pods."""

from __future__ import annotations

import threading
from typing import Any

from runners.base import Running
from runners.kubernetes.pod_tracker import PodTrackers
from tests.runners.harness import wait_for
from tests.runners.kubernetes_harness import KubernetesHarness


def test_pod_shown_after_clean_is_not_remembered(harness: KubernetesHarness, monkeypatch: Any) -> None:
    note, is_cleaned, is_noted = PodTrackers.note, threading.Event(), threading.Event()

    def note_late(trackers: PodTrackers, pod: Any, is_deleted: bool = False) -> None:
        if is_deleted:
            assert is_cleaned.wait(20)
        note(trackers, pod, is_deleted)
        if is_deleted:
            is_noted.set()

    monkeypatch.setattr(PodTrackers, "note", note_late)
    runner = harness.another()
    handle = runner.start(harness.endless_job(), None)
    wait_for(lambda: isinstance(harness.state(handle, runner), Running))
    runner.clean(handle)
    is_cleaned.set()
    assert is_noted.wait(20)
    assert runner._trackers._trackers == {}  # type: ignore[attr-defined]
