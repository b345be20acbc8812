"""Tables, facts and JSON, and text that must not control the terminal."""

from __future__ import annotations

import click
import pytest

from polyjob.cli.log_follower import describe_end
from polyjob.cli.output import ago, coloured, duration_of, fail, fit_columns, print_facts, print_json, print_table
from polyjob.cli.streams import printable


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [click.unstyle(line) for line in capsys.readouterr().out.splitlines()]


def test_table_has_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A", "LONG"], [[coloured("x"), "y"], ["xxx", ""]])
    assert lines_of(capsys) == ["A    LONG", "x    y", "xxx"]


def test_facts_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("one", 1), ("longer", None), ("two", "x")])
    assert lines_of(capsys) == ["one  1", "two  x"]


def test_age_of_no_timestamp_is_empty() -> None:
    assert ago(None) == ""
    assert ago("2020-01-01T00:00:00+00:00") == "2020-01-01"


@pytest.mark.parametrize(
    ("finished_at", "duration"),
    [("2026-01-01T01:02:03+00:00", "1 h 02 min"), ("2026-01-01T00:02:03+00:00", "2 min 03 s")],
)
def test_duration_is_from_start_to_end(finished_at: str, duration: str) -> None:
    assert duration_of({"started_at": "2026-01-01T00:00:00+00:00", "finished_at": finished_at}) == duration


def test_job_that_has_not_started_has_no_duration() -> None:
    assert duration_of({"started_at": None}) == ""
    ended_in_the_queue = dict.fromkeys(("created_at", "started_at"), "2026-01-01T00:00:00+00:00")
    assert duration_of(ended_in_the_queue | {"finished_at": "2026-01-01T01:02:03+00:00"}) == ""


CONTROLS = ["a\nb", "a\x1b[31mb", "a\x1b]52;c;x\x07b", "a\x9b31mb", "a\rb", "a\u202eb", "a\u2028b", "a\x7fb"]


@pytest.mark.parametrize("text", CONTROLS)
def test_control_characters_are_escaped_everywhere(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A"], [[text], [coloured(text)]])
    print_facts([("fact", text), ("list", [text])])
    print_json({"a": text})
    job = {"unique_name": "a.b.jobs.1", "last_status": "failed", "started_at": None}
    click.echo(describe_end(job, {"message": text}))
    with pytest.raises(SystemExit):
        fail(text.replace("\n", "").replace("\r", "").replace("\u2028", ""))
    captured = capsys.readouterr()
    shown = click.unstyle(captured.out + captured.err)
    assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"]
    assert shown.count("\n") == 10


def test_ordinary_text_is_not_changed() -> None:
    assert printable("naïve 日本語 €") == "naïve 日本語 €"


def test_columns_are_left_out_until_the_last_one_fits() -> None:
    headings, rows = ["ID", "EMPTY", "NAME", "USER", "COMMAND"], [["1", "", "n" * 10, "ana", "x" * 40]]
    everything = ["ID", "NAME", "USER", "COMMAND"]
    assert fit_columns(headings, rows, ["USER", "NAME"], None) == (everything, [["1", "n" * 10, "ana", "x" * 40]])
    assert fit_columns(headings, rows, ["USER", "NAME"], 40) == (everything, [["1", "n" * 10, "ana", "x" * 17 + "…"]])
    assert fit_columns(headings, rows, ["USER", "NAME"], 34) == (
        ["ID", "NAME", "COMMAND"],
        [["1", "n" * 10, "x" * 17 + "…"]],
    )
    assert fit_columns(headings, rows, ["USER", "NAME"], 10) == (["ID", "COMMAND"], [["1", "x" * 15 + "…"]])
