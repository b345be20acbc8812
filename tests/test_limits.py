"""docs/limits.md lists every limit with the value of the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from polyjob.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent
UNITS = {
    "": 1,
    "bytes": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "s": 1,
    "min": 60,
    "h": 3600,
    "days": 86_400,
}


def rows():
    for line in (ROOT / "docs/limits.md").read_text().splitlines():
        if match := re.fullmatch(r"\| (.+?) \| (.+?) \| `(.+?)` \| (.+?) \|", line):
            yield match.groups()


def limit_of(text):
    number, unit = re.fullmatch(r"([\d,.]+) ?(\w*)", text).groups()
    return float(number.replace(",", "")) * UNITS[unit]


def value_of(source):
    if source.startswith("POLYJOB_"):
        return getattr(read_settings({}), source.removeprefix("POLYJOB_").lower())
    module, _, name = source.rpartition(".")
    return getattr(importlib.import_module(module), name)


def constants():
    """Yield the qualified names of all constants `MAX_…` in the code."""
    for path in sorted([*ROOT.glob("polyjob/**/*.py"), *ROOT.glob("runners/**/*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.startswith("MAX_"):
                    yield f"{module}.{target.id}"


@pytest.mark.parametrize(("resource", "limit", "source", "_consequence"), list(rows()))
def test_limit_has_the_documented_value(resource, limit, source, _consequence):
    assert value_of(source) == limit_of(limit), resource


def test_every_limit_is_documented():
    assert set(constants()) <= {source for _, _, source, _ in rows()}


def test_no_limit_is_documented_twice():
    sources = [source for _, _, source, _ in rows()]
    assert sorted(sources) == sorted(set(sources))
