"""Explain in one or two sentences why a job has its status."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from polyjob.formatting import sentence, status_message
from polyjob.statuses import Status

_DEFAULTS = {
    Status.SCHEDULED: "The job has a slot and is about to start.",
    Status.BUILDING: "The build is done, and the job is about to start.",
    Status.RUNNING: "The command is running.",
    Status.FAILED: "The job failed; no reason was recorded.",
    Status.UPSTREAM_FAILED: "A dependency of the job failed.",
    Status.SKIPPED: "The job was skipped.",
}
"""For a status that came without a message."""


def explain_status(
    status: Status,
    exit_record: Mapping[str, Any] | None,
    message: str | None,
    details: Mapping[str, Any],
    waiting: str | None,
) -> str:
    """Explain a job's status.

    `exit_record` is the job's stored exit, `message` and `details` belong to its latest status, and `waiting` is the
    reason why a queued job waits.
    """
    if waiting:
        return waiting
    reason = (exit_record or {}).get("reason")
    if status is Status.STOPPED:
        cause = f"Stopped by {details['by']}." if details.get("by") else sentence(message or "The job was stopped")
        return f"{cause} {_explain_exit(exit_record)}".strip()
    if status is Status.FAILED and reason != "start" == details.get("reason"):
        return sentence(message or "")  # the start failed; the signal only ended its leftover processes
    if status is Status.FAILED and details.get("reason") == "timeout" != reason:
        return f"Exceeded its time limit. {_explain_exit(exit_record)}".strip()
    if status in (Status.SUCCEEDED, Status.FAILED) and exit_record:
        return _explain_exit(exit_record) or sentence(status_message(message))
    return sentence(message) if message else _DEFAULTS.get(status, "")


def _explain_exit(exit_record: Mapping[str, Any] | None) -> str:
    """Explain how the command ended; empty if that was not recorded."""
    if not exit_record:
        return ""
    message = sentence(exit_record["message"]) if exit_record.get("message") else ""
    code, signal_number = exit_record.get("code"), exit_record.get("signal")
    if exit_record.get("begun") is False:
        return message
    match exit_record.get("reason"):
        case "exited":
            text = f"The command ended with exit code {code}."
        case "signalled":
            text = f"The command was ended by signal {_signal_name(signal_number)}, exit code {code}."
        case "timeout":
            text = "The job did not start within its time limit."
        case "oom":
            text = f"The command ran out of memory and was killed by the kernel, exit code {code}."
        case "evicted":
            text = "The job was evicted by its cluster."
        case "lost":
            text = "Lost: its exit status could not be determined."
        case "build":
            return message or "The build failed."
        case "image":
            text = "Its image could not be pulled."
        case _:
            text = "The command could not be started."
    stragglers = exit_record.get("stragglers")
    killed = f"Still running at the end, and killed: {', '.join(stragglers)}." if stragglers else ""
    return " ".join(filter(None, [text, message, killed]))


def _signal_name(number: int | None) -> str:
    try:
        return f"{number} ({signal.Signals(number or 0).name})"
    except ValueError:
        return str(number)
