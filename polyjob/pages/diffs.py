"""Configs as people read them, and what a clone changed: two configs, line by line. Pure."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Any

import yaml

AROUND = 2
"""Lines that stay, shown around those that changed."""
MOST = 400
"""Lines of a difference."""
COMPARED = 1000
"""Lines that are compared one by one, from the first to the last that differ: it takes the square of their number."""
_KINDS = {"+": "new", "-": "gone", " ": "same", "@": "skip"}


class _Dumper(yaml.SafeDumper):
    """Text of several lines stands on several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def pretty(value: Any) -> str:
    """As YAML for people."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000).rstrip("\n")


def changed(before: Any, after: Any) -> list[tuple[str, str]]:
    """(`new`, `gone`, `same` or `skip`, the line) from one config to the other; empty where nothing differs."""
    old, new = pretty(before).splitlines(), pretty(after).splitlines()
    start = _same(zip(old, new, strict=False))
    shorter = min(len(old), len(new)) - start
    end = min(shorter, _same(zip(reversed(old), reversed(new), strict=False)))
    gone, come = old[start : len(old) - end], new[start : len(new) - end]
    if max(len(gone), len(come)) > COMPARED:
        return _one_for_the_other(gone, come)
    around = slice(max(0, start - AROUND), -max(0, end - AROUND) or None)
    lines = list(difflib.unified_diff(old[around], new[around], lineterm="", n=AROUND))[2:]
    found = [(_KINDS[line[0]], "…" if line[0] == "@" else line[1:]) for line in lines[:MOST]]
    return found if len(lines) <= MOST else [*found, ("skip", "…")]


def _same(pairs: Iterable[tuple[str, str]]) -> int:
    """How many pairs are of the same, up to the first that is not."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _one_for_the_other(gone: list[str], come: list[str]) -> list[tuple[str, str]]:
    """The beginning of what gave way, and of what took its place."""
    found: list[tuple[str, str]] = []
    for kind, lines in (("gone", gone), ("new", come)):
        found += [(kind, line) for line in lines[: MOST // 2]]
        found += [("skip", "…")] if len(lines) > MOST // 2 else []
    return found
