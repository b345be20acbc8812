"""Load a config: validate what a user sent, and translate it to the stored form.

The stored form has `version` 1 and `kind`, and what was sent, without nulls and empty values. Variables are a list of
`[name, value]` texts, tags a list, resources in the form of `polyjob.jobconfig.resources`. Params are resolved and put
into the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema

from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.jobconfig.commands import normalize_commands
from polyjob.jobconfig.parameters import render_config
from polyjob.jobconfig.schema import BUILD_CONFIG_SCHEMA, BUILD_KIND, CONFIG_SCHEMA, CONFIG_VERSION, JOB_KIND

UNSUPPORTED_KINDS = {
    "experiment": "experiments",
    "group": "groups of experiments",
    "notebook": "notebooks",
    "tensorboard": "TensorBoards",
    "pipeline": "pipelines",
    "project": "projects as configs",
}
"""Kinds of configs that Polyaxon supports and polyjob does not."""


def load_config(document: Any, pointer: str = "/config") -> dict[str, Any]:
    """Return the stored form of a job's config.

    Raises Invalid with every problem; their pointers begin with `pointer`.
    """
    if not isinstance(document, Mapping):
        raise Invalid([Problem(pointer, "A config is an object with a section `run`, and optionally `build`.")])
    return _load(CONFIG_SCHEMA, JOB_KIND, document, pointer)


def load_build_config(document: Any, pointer: str = "/config") -> dict[str, Any]:
    """Return the stored form of a build's config. Raises what `load_config` raises."""
    if not isinstance(document, Mapping):
        raise Invalid([Problem(pointer, "The config of a build is an object with a section `build`.")])
    return _load(BUILD_CONFIG_SCHEMA, BUILD_KIND, document, pointer)


def _load(schema: Schema, kind: str, document: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """Check the document, render its params, and validate the result.

    Params come before the schema, because a field of any type may be an expression.
    """
    _check_kind(kind, document.get("kind"), pointer)
    check_values(document, pointer)
    normalized = normalize_commands(document)
    rendered = render_config(normalized, pointer)
    loaded: dict[str, Any] = deserialize(schema, rendered, pointer)
    return {"version": CONFIG_VERSION, "kind": kind} | loaded


def _check_kind(expected: str, kind: Any, pointer: str) -> None:
    """Raise Invalid for a kind that another route takes, or none at all. The schema refuses any other value."""
    if isinstance(kind, str) and kind in UNSUPPORTED_KINDS:
        detail = f"polyjob runs jobs, not {UNSUPPORTED_KINDS[kind]}. Use `kind: job`."
        raise Invalid([Problem(f"{pointer}/kind", detail)])
    other = BUILD_KIND if expected == JOB_KIND else JOB_KIND
    if kind == other:
        detail = f"A config of kind `{other}` creates a {other}, not a {expected}: send it to the project's `{other}s`."
        raise Invalid([Problem(f"{pointer}/kind", detail)])
