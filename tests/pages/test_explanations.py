"""Explanations of a job's status."""

from __future__ import annotations

from typing import Any

import pytest

from polyjob.pages.explanations import explain_status
from polyjob.statuses import Status
from runners.base import Reason


@pytest.mark.parametrize(
    ("status", "exit_record", "message", "details", "explanation"),
    [
        (Status.SUCCEEDED, {"reason": "exited", "code": 0}, "Completed", {}, "The command ended with exit code 0."),
        (Status.SUCCEEDED, None, "Completed", {}, "Completed."),
        (Status.FAILED, {"reason": "exited", "code": 7}, None, {}, "The command ended with exit code 7."),
        (Status.FAILED, {"reason": "lost"}, None, {}, "Lost: its exit status could not be determined."),
        (
            Status.FAILED,
            {"reason": "oom", "code": 137},
            None,
            {},
            "The command ran out of memory and was killed by the kernel, exit code 137.",
        ),
        (Status.FAILED, {"reason": "evicted", "message": "low"}, None, {}, "The job was evicted by its cluster. Low."),
        (Status.FAILED, {"reason": "start", "message": "No sh"}, None, {}, "The command could not be started. No sh."),
        (
            Status.FAILED,
            {"reason": "signalled", "code": 143, "signal": 15},
            None,
            {"reason": "timeout"},
            "Exceeded its time limit. The command was ended by signal 15 (SIGTERM), exit code 143.",
        ),
        (Status.STOPPED, None, "Job was stopped", {"by": "ana"}, "Stopped by ana."),
        (Status.STOPPED, None, "Build x was stopped", {}, "Build x was stopped."),
        (
            Status.FAILED,
            {"reason": "exited", "code": 1, "stragglers": ["sleep", "cat"]},
            None,
            {},
            "The command ended with exit code 1. Still running at the end, and killed: sleep, cat.",
        ),
    ],
)
def test_explanation_names_the_cause(
    status: Status, exit_record: dict[str, Any] | None, message: str | None, details: dict[str, Any], explanation: str
) -> None:
    assert explain_status(status, exit_record, message, details, None) == explanation


def test_every_exit_reason_has_its_own_text() -> None:
    records = [{"reason": str(reason), "code": 1} for reason in Reason]
    assert len({explain_status(Status.FAILED, record, None, {}, None) for record in records}) == len(Reason)
