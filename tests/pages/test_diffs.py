"""Differences of two configs, line by line."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from polyjob.pages import diffs
from polyjob.pages.diffs import diff_configs

LINES = st.lists(st.sampled_from("abcd"), max_size=12)


@given(LINES, LINES)
def test_diff_accounts_for_every_changed_line(old: list[str], new: list[str]) -> None:
    diff = diff_configs(old, new)
    assert (diff == []) == (old == new)
    removed = [line.removeprefix("- ") for kind, line in diff if kind == "gone"]
    added = [line.removeprefix("- ") for kind, line in diff if kind == "new"]
    for letter in "abcd":
        assert new.count(letter) - old.count(letter) == added.count(letter) - removed.count(letter)


def test_diff_shows_only_the_context_of_a_change() -> None:
    before = {"run": {"cmd": "\n".join(map(str, range(100_000)))}}
    after = {"run": {"cmd": "\n".join("here" if number == 50_000 else str(number) for number in range(100_000))}}
    assert diff_configs(before, after) == [
        ("skip", "…"),
        ("same", "    49998"),
        ("same", "    49999"),
        ("gone", "    50000"),
        ("new", "    here"),
        ("same", "    50001"),
        ("same", "    50002"),
    ]


def test_diff_of_unlike_configs_takes_bounded_time() -> None:
    chance = random.Random(1)
    one, other = ({"cmd": "\n".join(str(chance.randrange(500)) for _ in range(20_000))} for _ in range(2))
    begin = time.process_time()
    diff = diff_configs(one, other)
    assert time.process_time() - begin < 20
    assert [len([line for kind, line in diff if kind == word]) for word in ("gone", "new", "skip")] == [200, 200, 2]
    one, other = (
        {"cmd": "\n".join(str(chance.randrange(99)) for _ in range(diffs.MAX_COMPARED_LINES - 1))} for _ in range(2)
    )
    begin = time.process_time()
    assert len(diff_configs(one, other)) == diffs.MAX_DIFF_LINES + 1
    assert time.process_time() - begin < 20
