"""Request bodies with a config: the pipeline parse → render → validate.

A body has attributes (name, tags …) and at most one config, in one of three places:

- `config`: an object,
- `content`: the same as JSON or YAML text,
- the sections of the config (`build`, `run` …) as members of the body itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import fields, post_load

from polyjob.api.schemas.common import Body
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize, pointer_to
from polyjob.jobconfig.parameters import add_params, has_params
from polyjob.jobconfig.parsing import add_line_numbers, parse_content

CONFIG_FIELDS = ("config", "content")


class ConfigBody(Body):
    """A body whose config is loaded separately from its attributes."""

    config = fields.Raw(metadata={"type": "object", "description": "The config."})
    content = fields.Raw(metadata={"type": "string", "description": "The config as JSON or YAML text."})

    @post_load
    def _remove_config(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in data.items() if key not in CONFIG_FIELDS}


@dataclass(frozen=True)
class BodyFormat:
    """The format of the bodies of one operation."""

    schema: Body
    """The schema of the attributes."""
    load_config: Callable[[Any, str], Any]
    """Renders and validates a document that is at a JSON pointer. Raises Invalid."""
    section_names: Container[str]
    """Members of the body that mean that the sections of the config are members of the body."""
    keeps_nulls: bool = False
    """True if null is a value, as in a patch, where it removes a section. Otherwise null counts as not given."""


@dataclass(frozen=True)
class ParsedBody:
    attributes: dict[str, Any]
    """The attributes; with a config also `config` and `content`, its text to store."""
    config_pointer: str
    """JSON pointer to the config: `/config`, `/content`, or empty if its sections are members of the body."""


@dataclass(frozen=True)
class _ConfigSource:
    """The config in a body, before it is loaded."""

    pointer: str
    document: Any
    """The parsed config, or None if the body has none."""
    text: str | None = None
    """The text that the document was parsed from."""


def read_config_body(body: Mapping[str, Any], form: BodyFormat) -> ParsedBody:
    """Load the attributes and the config of a body. Raises Invalid with all problems of both."""
    problems: list[Problem] = []
    attributes: dict[str, Any] = {}
    source = _ConfigSource("/config", None)
    try:
        attributes = _load_attributes(body, form.schema)
    except Invalid as error:
        problems += error.problems
    try:
        source = _parse_config(body, form)
        if source.document is not None:
            attributes.pop("params", None)  # they become a part of the config
            attributes |= _load_config(source, body, form.load_config)
    except Invalid as error:
        problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise Invalid(problems)
    return ParsedBody(attributes, source.pointer)


def _load_attributes(body: Mapping[str, Any], schema: Body) -> dict[str, Any]:
    sent = {key: value for key, value in body.items() if key in schema.fields and key not in CONFIG_FIELDS}
    if not sent:
        return {}  # no attribute is required, and none has a default
    check_values(sent)
    attributes: dict[str, Any] = deserialize(schema, sent, "")
    return attributes


def _parse_config(body: Mapping[str, Any], form: BodyFormat) -> _ConfigSource:
    """Find the config in the body, and parse it if it is text. Raises Invalid."""
    if not form.keeps_nulls:
        body = {key: value for key, value in body.items() if value is not None}
    if body.get("config") is not None:
        return _ConfigSource("/config", body["config"])
    content = body.get("content")
    if content is not None:
        if not isinstance(content, str):
            raise Invalid([Problem("/content", "Not text. Send a config that is an object as `config`.")])
        check_values(content, "/content")
        return _ConfigSource("/content", parse_content(content), content)
    if not any(key in form.section_names for key in body):
        return _ConfigSource("/config", None)
    attribute_names = form.schema.fields.keys() - {"params"}
    return _ConfigSource("", {key: value for key, value in body.items() if key not in attribute_names})


def _load_config(
    source: _ConfigSource, body: Mapping[str, Any], load_config: Callable[[Any, str], Any]
) -> dict[str, Any]:
    """Return the loaded config, and the text of it to store.

    Text is stored unchanged. Of an object, the JSON is stored only if it has params, because in the loaded config they
    are replaced by their values. Raises Invalid, with line numbers if the config was sent as text.
    """
    try:
        params = _params_beside_config(source, body)
        document = add_params(source.document, params)
        config = load_config(document, source.pointer)
    except Invalid as error:
        problems = _point_to_params_beside(error.problems, source, body)
        if source.text is not None:
            problems = add_line_numbers(problems, source.text, source.pointer)
        raise Invalid(problems) from None
    if source.text is not None and not params:
        return {"config": config, "content": source.text}
    is_stored = source.text is not None or has_params(document)
    return {"config": config, "content": json.dumps(document, ensure_ascii=False) if is_stored else None}


def _params_beside_config(source: _ConfigSource, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `params` that are beside the config, not in it. They take precedence. Raises Invalid."""
    params = body.get("params") if source.pointer else None
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise Invalid([Problem("/params", "Not an object.")])
    check_values(params, "/params")
    return params


def _point_to_params_beside(problems: list[Problem], source: _ConfigSource, body: Mapping[str, Any]) -> list[Problem]:
    """Point the problems of params that were sent beside the config to where they were sent."""
    params = body.get("params")
    if not source.pointer or not isinstance(params, Mapping):
        return problems
    inside = f"{source.pointer}/params/"
    keys_beside = {pointer_to("", key) for key in params}

    def move(problem: Problem) -> Problem:
        path = problem.pointer.removeprefix(inside)
        key = "/" + path.partition("/")[0]
        is_beside = problem.pointer.startswith(inside) and key in keys_beside
        return Problem(f"/params/{path}", problem.detail) if is_beside else problem

    return [move(problem) for problem in problems]
