"""What pages say in words: times, durations, why a job is as it is, and a log that is fit to be shown. Pure."""

from __future__ import annotations

import datetime
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from polyjob.logs import ansi
from polyjob.statuses import Status

_CODE = re.compile(r"`([^`]+)`")


def ago(moment: datetime.datetime, now: datetime.datetime) -> str:
    """How long ago, in the largest unit that says something; the date where that is a week or more."""
    seconds = (now - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for size, unit, limit in ((1, "s", 60), (60, "min", 3600), (3600, "h", 86400), (86400, "d", 7 * 86400)):
        if seconds < limit:
            return f"{int(seconds // size)} {unit} ago"
    return f"{moment:%Y-%m-%d}"


def lasting(span: datetime.timedelta) -> str:
    """A duration in its two largest units."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """A number of bytes."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def with_code(text: str) -> Markup:
    """Escaped, and what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def cores(number: float) -> str:
    return f"{number:g} {'core' if number == 1 else 'cores'}"


def shape_of(status: Status) -> str:
    """The picture beside a status's name."""
    if status is Status.SUCCEEDED:
        return "good"
    if status in (Status.FAILED, Status.UPSTREAM_FAILED):
        return "bad"
    if status.is_done:
        return "stop"
    return "work" if status in (Status.SCHEDULED, Status.BUILDING, Status.RUNNING) else "wait"


def resources(
    environment: Mapping[str, Any] | None, gpus: Sequence[int] | None, end: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """(what, how much was asked for, how much was used) of what a job asked for or is known to have used."""
    wanted, used = (environment or {}).get("resources") or {}, end or {}

    def asked(kind: str, shown: Callable[[Any], str]) -> str:
        bounds = wanted.get(kind) or {}
        limit, request = bounds.get("limits"), bounds.get("requests")
        if limit is not None and request is not None and limit != request:
            return f"{shown(request)}, at most {shown(limit)}"
        if limit is None and request is None:
            return ""
        return shown(request) if limit is None else f"at most {shown(limit)}"

    seconds, memory = used.get("cpu_seconds"), used.get("max_rss")
    held = f"number {', '.join(map(str, gpus))}" if gpus else ""
    rows = [
        ("CPU", asked("cpu", cores), "" if seconds is None else f"{seconds:.2f} s"),
        ("Memory", asked("memory", lambda mib: size(int(mib * (1 << 20)))), "" if memory is None else size(memory)),
        ("GPUs", asked("gpu", lambda number: f"{number:g}").removeprefix("at most "), held),
        ("Processes", asked("pids", lambda number: f"{number:g}"), ""),
    ]
    return [row for row in rows if row[1] or row[2]]


def log_text(data: bytes) -> str:
    """A log's bytes as a page shows them: what is not UTF-8 is replaced, colours are left out, a line that was written
    over again and again is shown as it was last, and other control characters by their pictures."""
    return "\n".join(map(ansi.plain, data.decode(errors="replace").split("\n")))


def why(
    status: Status, end: Mapping[str, Any] | None, message: str | None, details: Mapping[str, Any], waiting: str | None
) -> str:
    """Why a job has its status, in one or two sentences.

    `end` is its recorded exit, `message` and `details` are its latest status's, `waiting` is what it waits for.
    """
    if waiting:
        return waiting
    if status is Status.STOPPED:
        who = f"{details['by']} stopped it." if details.get("by") else sentence(message or "It was stopped")
        return f"{who} {_exit(end)}".strip()
    if status is Status.FAILED and (end or {}).get("reason") != "start" == details.get("reason"):
        return sentence(message or "")  # what its start left behind ended by a signal
    if status is Status.FAILED and details.get("reason") == "timeout" != (end or {}).get("reason"):
        return f"It ran longer than it may. {_exit(end)}".strip()
    if status in (Status.SUCCEEDED, Status.FAILED) and end:
        return _exit(end) or sentence(message or "")
    return sentence(message) if message else _PLAIN.get(status, "")


_PLAIN = {
    Status.SCHEDULED: "It has a slot and is about to start.",
    Status.BUILDING: "Its build is done, and it is about to start.",
    Status.RUNNING: "Its command runs.",
    Status.FAILED: "It failed, and nobody said why.",
    Status.UPSTREAM_FAILED: "What it needed failed.",
    Status.SKIPPED: "It was left out.",
}


def _exit(end: Mapping[str, Any] | None) -> str:
    """How the command ended; empty where nobody recorded that."""
    if not end:
        return ""
    said = sentence(end["message"]) if end.get("message") else ""
    code, number = end.get("code"), end.get("signal")
    if end.get("begun") is False:
        return said
    match end.get("reason"):
        case "exited":
            text = f"The command ended with exit code {code}."
        case "signalled":
            text = f"Signal {_signal(number)} ended the command: exit code {code}."
        case "timeout":
            text = "It did not start within its time limit."
        case "oom":
            text = f"The kernel ended the command for its memory: exit code {code}."
        case "evicted":
            text = "Its cluster ended the job."
        case "lost":
            text = "The job is gone, and nobody saw how it ended."
        case "build":
            return said or "Its build failed."
        case "image":
            text = "Its image cannot be had."
        case _:
            text = "The command could not be started."
    left = end.get("stragglers")
    rest = f"Still running at the end, and killed: {', '.join(left)}." if left else ""
    return " ".join(filter(None, [text, said, rest]))


def _signal(number: int | None) -> str:
    try:
        return f"{number} ({signal.Signals(number or 0).name.removeprefix('SIG')})"
    except ValueError:
        return str(number)


def sentence(text: str) -> str:
    """With a capital, and a full stop where there is none."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) or not text else f"{text}."
