"""Configs as people read them, and what a clone changed: two configs, line by line. Pure."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

AROUND = 2
"""Lines that stay, shown around those that changed."""
MOST = 400
"""Lines of a difference."""
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
    lines = list(difflib.unified_diff(old, new, lineterm="", n=AROUND))[2:]
    found = [(_KINDS[line[0]], "…" if line[0] == "@" else line[1:]) for line in lines[:MOST]]
    return found if len(lines) <= MOST else [*found, ("skip", "…")]
