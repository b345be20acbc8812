"""Small conversions for templates: inline code, status icons, and logs as plain text."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from polyjob.logs import ansi
from polyjob.statuses import Status

_INLINE_CODE = re.compile(r"`([^`]+)`")


def inline_code(text: str) -> Markup:
    """Escape the text, and mark up the parts between backticks as code."""
    return Markup(_INLINE_CODE.sub(r"<code>\1</code>", str(escape(text))))


def status_icon(status: Status) -> str:
    """Return the name of the icon beside a status."""
    if status is Status.SUCCEEDED:
        return "good"
    if status in (Status.FAILED, Status.UPSTREAM_FAILED):
        return "bad"
    if status.is_done:
        return "stop"
    return "work" if status in (Status.SCHEDULED, Status.BUILDING, Status.RUNNING) else "wait"


def plain_log(data: bytes) -> str:
    """Decode a log for display as plain text.

    Invalid UTF-8 is replaced and colours are dropped. Of a line that was overwritten, such as a progress bar, only its
    last state stays. Other control characters become their Unicode symbols.
    """
    return "\n".join(map(ansi.plain_text, data.decode(errors="replace").split("\n")))
