"""The findings of commands that check something: one line for each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click

from polyjob.cli.output import print_json


class Finding(NamedTuple):
    """The state of one part."""

    part: str
    ok: bool | None
    """None: the part works, and `text` is a remark."""
    text: str


def print_findings(findings: Sequence[Finding], is_json: bool) -> None:
    """Print the findings. Ends the command: with exit code 1 if a part does not work, else with 0."""
    if is_json:
        print_json([{"part": part, "ok": ok is not False, "text": text} for part, ok, text in findings])
    else:
        marks = {
            True: click.style("ok  ", fg="green"),
            None: click.style("note", fg="yellow"),
            False: click.style("FAIL", fg="red"),
        }
        for part, ok, text in findings:
            click.echo(f"{marks[ok]}  {part:<12}  {text}")
    raise SystemExit(any(finding.ok is False for finding in findings))
