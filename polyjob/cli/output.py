"""What commands print of lists and things: columns for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from polyjob.cli.streams import Styled, printable
from polyjob.formatting import format_age

COLOURS = {
    "succeeded": "green", "failed": "red", "upstream_failed": "red", "stopped": "yellow", "running": "blue",
    "building": "blue", "scheduled": "blue",
}  # fmt: skip
_JSON_CONTROL = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters that `json` does not escape."""


def print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(_JSON_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be. Control characters are escaped in every cell that is not `Styled`."""
    lines = [[*heads], *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(click.unstyle(line[index])) for line in lines) for index in range(len(heads))]
    for number, line in enumerate(lines):
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(line, widths, strict=True)]
        text = "  ".join(cells).rstrip()
        click.echo(click.style(text, dim=True) if number == 0 else text)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Name and value, one a line; what has no value is left out."""
    shown = [
        (name, _cell(value if isinstance(value, str) else str(value)))
        for name, value in facts
        if value not in (None, "", [], {})
    ]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def _cell(text: str) -> str:
    return text if isinstance(text, Styled) else printable(text)


def coloured(status: str) -> Styled:
    return Styled(click.style(printable(status), fg=COLOURS.get(status)))


def ago(moment: str | None) -> str:
    """Return the age of an ISO 8601 timestamp; empty without one."""
    return format_age(datetime.fromisoformat(moment), datetime.now(UTC)) if moment else ""


def local(moment: str | None) -> str:
    """An instant in the zone of this machine, to the second."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
