"""Compare two configs line by line, for the page of a cloned job."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Any

from polyjob.jobconfig.parsing import dump_yaml

CONTEXT_LINES = 2
MAX_DIFF_LINES = 400
MAX_COMPARED_LINES = 1000
"""Lines between the first and the last difference. `difflib` takes quadratic time; longer ranges are not compared."""
_KINDS = {"+": "new", "-": "gone", " ": "same", "@": "skip"}
_ELLIPSIS = ("skip", "…")


def diff_configs(before: Any, after: Any) -> list[tuple[str, str]]:
    """Return the differing lines and their context as (kind, line); empty if the configs are equal.

    The kind is `new`, `gone`, `same` or `skip`.
    """
    old, new = dump_yaml(before).splitlines(), dump_yaml(after).splitlines()
    prefix = _count_equal(zip(old, new, strict=False))
    max_suffix = min(len(old), len(new)) - prefix
    suffix = min(max_suffix, _count_equal(zip(reversed(old), reversed(new), strict=False)))
    removed, added = old[prefix : len(old) - suffix], new[prefix : len(new) - suffix]
    if max(len(removed), len(added)) > MAX_COMPARED_LINES:
        return _replacement(removed, added)
    part = slice(max(0, prefix - CONTEXT_LINES), -max(0, suffix - CONTEXT_LINES) or None)
    lines = list(difflib.unified_diff(old[part], new[part], lineterm="", n=CONTEXT_LINES))[2:]
    diff = [_ELLIPSIS if line[0] == "@" else (_KINDS[line[0]], line[1:]) for line in lines[:MAX_DIFF_LINES]]
    return diff if len(lines) <= MAX_DIFF_LINES else [*diff, _ELLIPSIS]


def _count_equal(pairs: Iterable[tuple[str, str]]) -> int:
    """Count the equal pairs before the first unequal one."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _replacement(removed: list[str], added: list[str]) -> list[tuple[str, str]]:
    """Show the first removed and the first added lines, without comparing them."""
    diff: list[tuple[str, str]] = []
    for kind, lines in (("gone", removed), ("new", added)):
        diff += [(kind, line) for line in lines[: MAX_DIFF_LINES // 2]]
        diff += [_ELLIPSIS] if len(lines) > MAX_DIFF_LINES // 2 else []
    return diff
