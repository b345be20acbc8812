"""docs/limits.md: every bound is listed, with the value that the code has."""

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


def value_of(holder):
    if holder.startswith("POLYJOB_"):
        return getattr(read_settings({}), holder.removeprefix("POLYJOB_").lower())
    module, _, name = holder.rpartition(".")
    return getattr(importlib.import_module(module), name)


def constants():
    """The names of all constants `MAX_…` of the code, with their modules."""
    for path in sorted([*ROOT.glob("polyjob/**/*.py"), *ROOT.glob("runners/**/*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.startswith("MAX_"):
                    yield f"{module}.{target.id}"


@pytest.mark.parametrize(("resource", "limit", "holder", "_beyond"), list(rows()))
def test_limit_has_the_documented_value(resource, limit, holder, _beyond):
    assert value_of(holder) == limit_of(limit), resource


def test_every_limit_is_documented():
    assert set(constants()) <= {holder for _, _, holder, _ in rows()}


def test_no_limit_is_documented_twice():
    holders = [holder for _, _, holder, _ in rows()]
    assert sorted(holders) == sorted(set(holders))
