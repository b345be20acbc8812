"""Output of commands: messages on the standard error, and tables, facts and JSON on the standard output."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from polyjob.cli.streams import Styled, printable
from polyjob.formatting import format_age, format_duration, status_word

COLOURS = {
    "succeeded": "green", "failed": "red", "upstream_failed": "red", "stopped": "yellow", "running": "blue",
    "building": "blue", "scheduled": "blue",
}  # fmt: skip
MIN_LAST_COLUMN = 16
"""Least width of the last column of a table that is cut to fit the terminal."""
_JSON_CONTROL = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters that `json` does not escape."""


def say(text: object) -> None:
    """Print to the standard error. An error of writing is ignored, so that it never changes the exit code."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def fail(error: object, exit_code: int = 1) -> NoReturn:
    """Print an error of one or several lines to the standard error, and end the command."""
    lines = str(error).splitlines() or ["it failed"]
    for number, line in enumerate(map(printable, lines)):
        say(click.style("polyjob: ", fg="red") + line if number == 0 else f"         {line}")
    raise SystemExit(exit_code)


def print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(_JSON_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def terminal_width() -> int | None:
    """Return the columns of the terminal that shows the standard output, or None without a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit_columns(
    headings: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], width: int | None
) -> tuple[list[str], list[list[str]]]:
    """Return a table without empty columns that fits into `width`. None stands for any width.

    If the last column has less than `MIN_LAST_COLUMN` characters, columns are left out in the order of `optional`.
    Then the cells of the last column are cut.
    """
    names = [name for index, name in enumerate(headings[:-1]) if any(row[index] for row in rows)] + [headings[-1]]

    def used() -> int:
        indices = [headings.index(name) for name in names[:-1]]
        return sum(2 + max(len(headings[i]), *(len(click.unstyle(row[i])) for row in rows)) for i in indices)

    for name in optional if width is not None else ():
        if name in names and used() + MIN_LAST_COLUMN > (width or 0):
            names.remove(name)
    room = max(MIN_LAST_COLUMN, width - used()) if width is not None else None
    indices = [headings.index(name) for name in names[:-1]]
    return names, [[*(row[i] for i in indices), _cut(printable(row[-1]), room)] for row in rows]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell. Control characters are escaped in every cell that is not `Styled`."""
    lines = [[*headings], *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(click.unstyle(line[index])) for line in lines) for index in range(len(headings))]
    for number, line in enumerate(lines):
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(line, widths, strict=True)]
        text = "  ".join(cells).rstrip()
        click.echo(click.style(text, dim=True) if number == 0 else text)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print one line with name and value for each fact that has a value."""
    rows = [
        (name, _cell(value if isinstance(value, str) else str(value)))
        for name, value in facts
        if value not in (None, "", [], {})
    ]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def _cell(text: str) -> str:
    return text if isinstance(text, Styled) else printable(text)


def coloured(status: str) -> Styled:
    """Return the word for a status, in its colour."""
    word = printable(status_word(status))
    return Styled(click.style(word, fg=COLOURS[status]) if status in COLOURS else word)


def ago(timestamp: str | None) -> str:
    """Return the age of an ISO 8601 timestamp; empty without one."""
    return format_age(datetime.fromisoformat(timestamp), datetime.now(UTC)) if timestamp else ""


def local_time(timestamp: str | None) -> str:
    """Return an ISO 8601 timestamp in the time zone of this machine, to the second; empty without one."""
    return datetime.fromisoformat(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S") if timestamp else ""


def has_started(job: dict[str, Any]) -> bool:
    """Return whether a job or build has started. If it ended before, `started_at` is the time of its creation."""
    return job.get("started_at") not in (None, job.get("created_at"))


def duration_of(job: dict[str, Any]) -> str:
    """Return the time from the start of a job to its end or now; empty for a job that has not started."""
    if not has_started(job):
        return ""
    end = datetime.fromisoformat(job["finished_at"]) if job.get("finished_at") else datetime.now(UTC)
    return format_duration(end - datetime.fromisoformat(job["started_at"]))
