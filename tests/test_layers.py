"""Imports go down only, and every module is listed in docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BASE = {
    "polyjob",
    "polyjob.addresses",
    "polyjob.atomic_files",
    "polyjob.clock",
    "polyjob.crash_points",
    "polyjob.engine_link",
    "polyjob.errors",
    "polyjob.formatting",
    "polyjob.setting_values",
    "polyjob.settings",
    "polyjob.statuses",
    "polyjob.webhook_urls",
    "runners.base",
    "runners.capabilities",
    "runners.kubernetes.options",
    "runners.registry",
    "runners.volumes",
}
"""Modules that every package of polyjob may import. They import only each other."""

MAY_IMPORT = {
    "wsgi": {"polyjob.server"},
    "polyjob.__main__": {"polyjob.cli"},
    "polyjob.cli": {
        *("polyjob.server", "polyjob.engine", "polyjob.services", "polyjob.jobconfig", "polyjob.storage", "polyjob.db"),
        *("runners", "runners.process.isolation", "runners.process.protocols"),
    },
    "polyjob.server": {
        *("polyjob.app", "polyjob.auth", "polyjob.logs", "polyjob.storage", "polyjob.db", "polyjob.connections"),
        *("runners", "runners.process.isolation"),
    },
    "polyjob.app": {
        *("polyjob.pages", "polyjob.api", "polyjob.auth", "polyjob.services", "polyjob.logs", "polyjob.db"),
        *("polyjob.connections", "polyjob.routing"),
    },
    "polyjob.pages": {
        *("polyjob.api", "polyjob.auth", "polyjob.services", "polyjob.logs", "polyjob.jobconfig"),
        *("polyjob.storage", "polyjob.db"),
    },
    "polyjob.api": {
        *("polyjob.auth", "polyjob.services", "polyjob.logs", "polyjob.jobconfig", "polyjob.db", "polyjob.storage"),
        "polyjob.connections",
    },
    "polyjob.engine": {
        *("polyjob.services", "polyjob.storage", "polyjob.db", "polyjob.auth.roles", "polyjob.auth.tokens"),
        *("runners", "runners.common.log_times", "runners.common.masking", "runners.machine_faults"),
    },
    "polyjob.auth": {"polyjob.services", "polyjob.db"},
    "polyjob.services": {
        *("polyjob.jobconfig", "polyjob.storage", "polyjob.db", "runners.common.dockerfile", "runners.common.masking"),
    },
    "polyjob.logs": {"polyjob.db", "runners.common.log_times"},
    "polyjob.jobconfig": set(),
    "polyjob.db": {"polyjob.storage.durable", "polyjob.storage.reserve"},
    "polyjob.storage": {"runners.common.log_times", "runners.common.trees"},
    "polyjob.connections": set(),
    "polyjob.routing": set(),
    "runners": {"runners.registry"},
    "runners.process": {"runners.common", "runners.machine_faults"},
    "runners.docker": {"runners.common", "runners.machine_faults"},
    "runners.kubernetes": {"runners.common", "runners.machine_faults", "runners.kubernetes.options"},
    "runners.fake": {"runners.common"},
    "runners.testing": {"runners.capabilities", "runners.common.masking"},
    "runners.common": set(),
    "runners.machine_faults": set(),
}
"""From the top down: each package or module, and what it may import besides `BASE`."""

LIBRARIES = {
    "click": {"polyjob.cli"},
    "cryptography": {"polyjob.storage"},
    "docker": {"runners.docker", "runners.kubernetes"},
    "flask": {"polyjob.api", "polyjob.app", "polyjob.auth", "polyjob.pages", "polyjob.server"},
    "gunicorn": {"polyjob.app", "polyjob.connections", "polyjob.server"},
    "kubernetes": {"runners.kubernetes"},
    "markdown_it": {"polyjob.pages"},
    "marshmallow": {"polyjob.api", "polyjob.jobconfig"},
    "peewee": {
        *("polyjob.api", "polyjob.app", "polyjob.auth", "polyjob.cli", "polyjob.db", "polyjob.engine", "polyjob.pages"),
        *("polyjob.server", "polyjob.services"),
    },
    "pytest": {"runners.testing"},
    "websocket": {"runners.kubernetes"},
    "wsproto": {"polyjob.api"},
}
"""Library -> the only packages that import it. `runners.kubernetes` reads registry credentials by `docker.auth`."""


def _modules() -> dict[str, Path]:
    paths = [*ROOT.glob("polyjob/**/*.py"), *ROOT.glob("runners/**/*.py"), ROOT / "wsgi.py"]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in sorted(names.items())}


MODULES = _modules()
UNITS = {*MAY_IMPORT, *BASE}


@functools.cache
def imports_of(name: str) -> set[str]:
    """Return the modules, ours and others, that a module imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {member for member in members if member in MODULES}
            names |= modules if modules == members else {node.module, *modules}
    return names


def unit_of(name: str) -> str:
    """Return the longest line of the table that a module stands under, or its own name."""
    prefix = name
    while prefix not in UNITS and "." in prefix:
        prefix = prefix.rpartition(".")[0]
    return prefix if prefix in UNITS else name


def may_import(unit: str) -> set[str]:
    if unit in BASE:
        return BASE
    return MAY_IMPORT[unit] | ({"runners.base", "runners.volumes"} if unit.startswith("runners") else BASE)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_what_its_package_may_import(name):
    unit = unit_of(name)
    assert unit not in ("polyjob", "runners") or name == unit, f"{name} is a new package: add it to MAY_IMPORT"
    for other in imports_of(name) & MODULES.keys():
        target = unit_of(other)
        assert target == unit or {target, other} & may_import(unit), f"{name} imports {other}"


def test_table_lists_packages_from_the_top_down():
    units = list(MAY_IMPORT)
    for number, unit in enumerate(units):
        above = {unit_of(name) for name in MAY_IMPORT[unit]} & set(units[: number + 1])
        assert not above, f"{unit} is listed below {above}"


def test_packages_import_each_other_without_a_cycle():
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        ours = imports_of(name) & MODULES.keys()
        graph.setdefault(unit_of(name), set()).update(
            unit_of(other) for other in ours if unit_of(other) != unit_of(name)
        )
    graphlib.TopologicalSorter(graph).prepare()


def test_modules_import_each_other_without_a_cycle():
    graphlib.TopologicalSorter({name: (imports_of(name) & MODULES.keys()) - {name} for name in MODULES}).prepare()


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_imported_only_where_it_belongs(library):
    users = {unit_of(name) for name in MODULES if library in {other.split(".")[0] for other in imports_of(name)}}
    assert users == LIBRARIES[library]


def test_runners_import_nothing_of_polyjob():
    for name in MODULES:
        if name.split(".")[0] == "runners":
            assert not {other.split(".")[0] for other in imports_of(name)} & {"polyjob", "flask", "peewee"}, name


def test_statuses_and_store_stand_alone():
    assert not {other.split(".")[0] for other in imports_of("polyjob.statuses")} & {"polyjob", "peewee", "flask"}
    assert not imports_of("polyjob.storage.store") & {"peewee", "flask", "polyjob.db.models"}


def test_every_module_is_listed_in_the_architecture_page():
    page = (ROOT / "docs/architecture.md").read_text()
    listed = re.findall(r"^\| `((?:polyjob|runners)/[\w/]+\.py|wsgi\.py)` \| \S", page, re.MULTILINE)
    there = {path.relative_to(ROOT).as_posix() for path in MODULES.values() if path.stat().st_size}
    packages = {path for path in there if path.endswith("__init__.py")}
    assert sorted(set(listed) | packages) == sorted(there | packages)
    assert len(listed) == len(set(listed))
