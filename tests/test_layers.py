"""Who imports whom: downward only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
    {"wsgi", "polyjob.cli", "polyjob.__main__"},
    {"polyjob.serve", "polyjob.helper", "polyjob.first_start", "polyjob.gunicorn_settings", "polyjob.web_worker"},
    {"polyjob.app", "polyjob.engine"},
    {"polyjob.api", "polyjob.pages"},
    {"polyjob.auth"},
    {"polyjob.browsers"},
    {"polyjob.users"},
    {"polyjob.submitting", "polyjob.giving_up"},
    {"polyjob.jobs", "polyjob.builds", "polyjob.projects", "polyjob.bookmarks"},
    {
        "polyjob.query",
        "polyjob.schemas",
        "polyjob.specs",
        "polyjob.transitions",
        "polyjob.watch",
        "polyjob.idempotency",
        "polyjob.merging",
        "polyjob.notes",
        "polyjob.audit",
        "polyjob.passwords",
    },
    {"polyjob.models", "polyjob.store", "polyjob.code", "polyjob.migrations", "polyjob.watcher"},
    {
        "polyjob.archives",
        "polyjob.database",
        "polyjob.statements",
        "polyjob.hints",
        "polyjob.lock",
        "polyjob.starts",
        "polyjob.tokens",
    },
    {"polyjob.packing"},
    {"polyjob.tars", "polyjob.sparse"},
    {
        "polyjob.ansi",
        "polyjob.clock",
        "polyjob.connections",
        "polyjob.crashpoints",
        "polyjob.errors",
        "polyjob.first_names",
        "polyjob.reserve",
        "polyjob.scopes",
        "polyjob.settings",
        "polyjob.statuses",
    },
]
"""From the top down. A module's layer is that of its longest listed prefix."""

FORBIDDEN = [
    ("runners", {"polyjob", "flask", "peewee"}),
    ("polyjob.api", {"polyjob.engine", "runners"}),
    ("polyjob.pages", {"polyjob.engine", "runners"}),
    ("polyjob.engine", {"flask", "polyjob.api", "polyjob.pages", "polyjob.auth"}),
    ("polyjob.statuses", {"polyjob", "peewee", "flask"}),
    ("polyjob.store", {"peewee", "flask", "polyjob.models"}),
    ("polyjob.jobs", {"flask", "polyjob.engine"}),
    ("polyjob.submitting", {"flask", "polyjob.engine"}),
]
"""(part, what none of its modules may import)."""


def modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("polyjob/**/*.py"), *ROOT.glob("runners/**/*.py"), ROOT / "wsgi.py"]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES} or {node.module}
    return found


def is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def layer(name: str) -> int | None:
    matches = [(len(prefix), number) for number, row in enumerate(LAYERS) for prefix in row if is_below(name, prefix)]
    return max(matches)[1] if matches else None


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(("polyjob.", "wsgi"))])
def test_imports_go_downward(name):
    mine = layer(name)
    assert mine is not None, f"{name} is in no layer"
    package = name.split(".")[:2]
    for other in imports(MODULES[name]):
        theirs = layer(other)
        if theirs is not None and other.split(".")[:2] != package:
            assert theirs >= mine, f"{name} imports {other}, which stands above it"


@pytest.mark.parametrize(("part", "banned"), FORBIDDEN)
def test_parts_stay_apart(part, banned):
    for name in [name for name in MODULES if is_below(name, part)]:
        for other in imports(MODULES[name]):
            assert not any(is_below(other, prefix) for prefix in banned), f"{name} imports {other}"
