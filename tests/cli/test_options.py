"""Options that several commands share."""

from __future__ import annotations

import click
import pytest

from polyjob.cli import COMMANDS, main
from polyjob.cli.errors import UsageError
from polyjob.cli.options import Duration, OptionWithOldLetter, parse_pairs, parse_params
from tests.cli.helpers import invoke


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("45s", 45),
        ("30m", 1800),
        ("1h", 3600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1h 30min", 5400),
    ],
)
def test_duration_takes_seconds_and_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "1m1h", "-5", "1e400", "11000d"])
def test_malformed_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize("seconds", ["1e400", "-1"])
def test_option_of_a_malformed_duration_is_named(seconds: str) -> None:
    result = invoke("run", "--timeout", seconds, "--", "x")
    assert result.exit_code == 125
    assert "--timeout" in result.output


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert parse_pairs(("A=1=2", "B="), "--env") == [("A", "1=2"), ("B", "")]


@pytest.mark.parametrize("text", ["A", "=1", ""])
def test_pair_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--env .*NAME=VALUE"):
        parse_pairs((text,), "--env")


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("true", True), ("[1, 2]", [1, 2]), ("three", "three")])
def test_params_are_parsed_as_yaml(text: str, value: object) -> None:
    assert parse_params((f"p={text}",)) == {"p": value}


@pytest.mark.parametrize("text", ["2026-01-01", "no", "007", "NaN", ".inf", "{a: [", "1:30", "yes: no: x"])
def test_params_that_only_look_like_yaml_stay_text(text: str) -> None:
    assert parse_params((f"p={text}",)) == {"p": text}


def all_options() -> list[tuple[str, click.Option]]:
    options = []
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        subcommands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        options += [
            (name, option) for each in subcommands for option in each.params if isinstance(option, click.Option)
        ]
    return options


def test_letter_means_the_same_in_every_command() -> None:
    meanings: dict[str, set[str]] = {}
    for _, option in all_options():
        for spelling in option.opts:
            if len(spelling) == 2 and not isinstance(option, OptionWithOldLetter):
                long = max(option.opts, key=len)
                meanings.setdefault(spelling, set()).add(long)
    assert meanings.pop("-f") == {"--file", "--follow"}
    assert meanings.pop("-n") == {"--limit", "--tail"}  # a maximum number
    assert all(len(names) == 1 for names in meanings.values()), meanings


def test_old_letters_work_and_are_not_shown() -> None:
    old = [(name, option) for name, option in all_options() if isinstance(option, OptionWithOldLetter)]
    assert old
    for name, option in old:
        assert {len(spelling) for spelling in option.opts} > {2}
        record = option.get_help_record(click.Context(click.Command(name)))
        assert record is not None
        assert record[0].startswith("--")
