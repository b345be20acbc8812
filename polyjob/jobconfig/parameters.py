"""Params: match them with the declared inputs and outputs, and render the config with their values.

Only a config with params, declarations or inputs is rendered. Any other config is not changed, so a `{{` in it is plain
text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import MAX_PROBLEMS, check_values, pointer_to
from polyjob.jobconfig.template_filters import (
    MAX_LISTED_NAMES,
    RenderBudget,
    RenderBudgetExceeded,
    TemplateError,
    as_text,
)
from polyjob.jobconfig.templates import has_template, render

SECTIONS = ("params", "declarations", "inputs")
NOT_RENDERED = frozenset({*SECTIONS, "outputs", "version", "kind"})
"""Keys of a config in which expressions are not replaced."""
MAX_PARAMS = 1000
"""Params, inputs or outputs of a config."""
MAX_PARAMS_BYTES = 100_000
"""Bytes of all params as JSON. They are one variable of the job, and Linux limits a variable to 128 KiB."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_NAME_RULE = "use letters, digits, `_` and `-`, and do not begin with a digit or `-`"
_REFERENCE = re.compile(r"\{\{\s*(?:jobs|experiments|ops|runs|dag)\s*\.")


def has_params(document: Any) -> bool:
    return isinstance(document, Mapping) and any(document.get(section) for section in SECTIONS)


def rename_declarations(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document with `declarations` renamed to `params`, unless it has `params` already."""
    if document.get("declarations") is None or document.get("params") is not None:
        return document
    others = {key: value for key, value in document.items() if key not in ("declarations", "params")}
    return others | {"params": document["declarations"]}


def add_params(document: Any, params: Mapping[str, Any]) -> Any:
    """Return the document with `params` added; they override its own.

    A document that is not an object, or whose `params` are not an object, is not changed; it is refused later.
    """
    if not params or not isinstance(document, Mapping):
        return document
    document = rename_declarations(document)
    own = {} if document.get("params") is None else document["params"]
    return {**document, "params": {**own, **params}} if isinstance(own, Mapping) else document


def render_config(document: Mapping[str, Any], pointer: str) -> Mapping[str, Any]:
    """Return the document with its params resolved and every expression in its other parts replaced.

    The result has all values under `params`, defaults included. A document without params and inputs is not changed.
    Raises Invalid with every problem and its pointer.
    """
    problems: list[Problem] = []
    outputs = list(_declarations(document, "outputs", pointer, problems))
    if not has_params(document):
        if problems:
            raise Invalid(problems[:MAX_PROBLEMS])
        return rename_declarations(document)
    values = _resolve(document, pointer, outputs, problems)
    result = {key: value for key, value in document.items() if key in NOT_RENDERED and key != "declarations"}
    if not problems:
        renderer = _Renderer(values, problems)
        for key, value in document.items():
            if key not in NOT_RENDERED:
                result[key] = renderer.render({key: value}, pointer)[key]
    if problems:
        raise Invalid(problems[:MAX_PROBLEMS])
    result["params"] = values
    check_values(result, pointer)
    return result


class _Renderer:
    """Renders the parts of one document, and adds each error to `problems`.

    Once there are too many problems, or the document becomes too large, the remaining parts are not rendered.
    """

    def __init__(self, values: Mapping[str, Any], problems: list[Problem]) -> None:
        self._values, self._problems = values, problems
        self._budget = RenderBudget()
        self._is_over = False

    def render(self, value: Any, pointer: str, *, is_variable: bool = False) -> Any:
        """Return a part of the document, rendered. The values of variables become texts, whatever type a param has."""
        if self._is_over:
            return value
        if isinstance(value, str):
            result = self._render_text(value, pointer) if has_template(value) else value
            return result if not is_variable or isinstance(result, list | Mapping) else as_text(result)
        if isinstance(value, Mapping):
            return {
                key: self.render(
                    item,
                    pointer_to(pointer, key),
                    is_variable=is_variable or (key == "env_vars" and not isinstance(item, str)),
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [
                self.render(item, pointer_to(pointer, index), is_variable=is_variable)
                for index, item in enumerate(value)
            ]
        return value

    def _render_text(self, text: str, pointer: str) -> Any:
        try:
            return render(text, self._values, self._budget)
        except TemplateError as error:
            self._problems.append(Problem(pointer, str(error)))
            self._is_over = isinstance(error, RenderBudgetExceeded) or len(self._problems) >= MAX_PROBLEMS
        return text


# Params.


_Declaration = tuple[Mapping[str, Any], str]
"""An input or output, and its pointer."""


def _resolve(
    document: Mapping[str, Any], pointer: str, outputs: list[_Declaration], problems: list[Problem]
) -> dict[str, Any]:
    """Return the value of each param by name. Adds each error to `problems`."""
    params, params_pointer = _read_params(document, pointer, problems)
    inputs = list(_declarations(document, "inputs", pointer, problems))
    if problems:
        return {}
    values = _match_params(params, params_pointer, inputs, outputs, problems) if inputs else dict(params)
    if not problems and len(json.dumps(values)) > MAX_PARAMS_BYTES:
        problems.append(Problem(params_pointer, f"Longer than {MAX_PARAMS_BYTES} bytes as JSON, including defaults."))
    return values


def _match_params(
    params: Mapping[str, Any],
    params_pointer: str,
    inputs: list[_Declaration],
    outputs: list[_Declaration],
    problems: list[Problem],
) -> dict[str, Any]:
    """Return the value of each input and output, from the params or the defaults."""
    values: dict[str, Any] = {}
    for index, (item, pointer) in enumerate([*inputs, *outputs]):
        name = item["name"]
        if params.get(name) is not None:
            values[name] = _convert(item, params[name], pointer_to(params_pointer, name), problems)
        elif item.get("default") is not None:
            values[name] = _convert(item, item["default"], f"{pointer}/default", problems)
        elif item.get("is_optional") or index >= len(inputs):
            values[name] = "" if item.get("is_flag") else None
        else:
            problems.append(Problem(params_pointer, f"The input `{name}` is required; set it in `params`."))
    declared = {item["name"] for item, _ in [*inputs, *outputs]}
    for name in params:
        if name not in declared:
            problems.append(Problem(pointer_to(params_pointer, name), f"`{name}` is neither an input nor an output."))
    return values


def _read_params(document: Mapping[str, Any], pointer: str, problems: list[Problem]) -> tuple[Mapping[str, Any], str]:
    """Return the params and their pointer."""
    names = [name for name in ("params", "declarations") if document.get(name) is not None]
    if len(names) == 2:
        problems.append(Problem(f"{pointer}/declarations", "`declarations` means the same as `params`; use one."))
    name = names[0] if names else "params"
    params_pointer, params = f"{pointer}/{name}", document.get(name)
    params = {} if params is None else params
    if not isinstance(params, Mapping) or len(params) > MAX_PARAMS:
        problems.append(Problem(params_pointer, f"Not an object with at most {MAX_PARAMS} params."))
        return {}, params_pointer
    for key, value in params.items():
        key_pointer = pointer_to(params_pointer, key)
        if not _NAME.match(key):
            problems.append(Problem(key_pointer, f"`{key[:100]}` is not a valid name: {_NAME_RULE}."))
        elif isinstance(value, str) and _REFERENCE.search(value):
            problems.append(Problem(key_pointer, "References to other runs are not supported; write the value itself."))
    return params, params_pointer


def _declarations(
    document: Mapping[str, Any], section: str, pointer: str, problems: list[Problem]
) -> Iterator[_Declaration]:
    """Yield each valid input or output, and add the others to `problems`."""
    section_pointer, items = f"{pointer}/{section}", document.get(section)
    if items is None:
        return
    if not isinstance(items, list) or len(items) > MAX_PARAMS:
        problems.append(Problem(section_pointer, f"Not a list of at most {MAX_PARAMS} {section}."))
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        item_pointer = pointer_to(section_pointer, index)
        fault = _declaration_fault(item)
        if fault is None and item["name"] in seen:
            fault = ("/name", f"The name `{item['name']}` comes twice.")
        if fault is not None:
            problems.append(Problem(item_pointer + fault[0], fault[1]))
            continue
        seen.add(item["name"])
        yield item, item_pointer


_DECLARATION_KEYS = {"name", "description", "type", "default", "is_optional", "is_list", "is_flag", "options"}


def _declaration_fault(item: Any) -> tuple[str, str] | None:
    """Return the fault of an input or output as (pointer within it, message), or None."""
    if not isinstance(item, Mapping):
        return "", "Not an object with a `name`."
    for key in item:
        if key not in _DECLARATION_KEYS:
            return pointer_to(
                "", key
            ), f"Unknown key `{key[:100]}`; use one of: {', '.join(sorted(_DECLARATION_KEYS))}."
    name = item.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        return "/name", f"Not a valid name: {_NAME_RULE}."
    kind = item.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in TYPES):
        return "/type", f"`{as_text(kind)[:100]}` is not a type; use one of: {', '.join(TYPES)}."
    for key in ("is_optional", "is_list", "is_flag"):
        if not isinstance(item.get(key), bool | None):
            return f"/{key}", "Neither true nor false."
    if item.get("is_flag") and item.get("type") != "bool":
        return "/is_flag", "Only an input of the type bool can be a flag."
    if item.get("default") is not None and not item.get("is_optional"):
        return "/default", "Only an input with `is_optional: true` can have a default."
    if item.get("options") is not None and not isinstance(item["options"], list):
        return "/options", "Not a list."
    return None


def _convert(item: Mapping[str, Any], value: Any, pointer: str, problems: list[Problem]) -> Any:
    """Return the value converted to the type of its input or output. Adds each error to `problems`."""
    convert = TYPES[item.get("type") or "any"]
    try:
        if item.get("is_list"):
            value = _load_json(list, value)
            converted: Any = [convert(part) for part in value]
        else:
            converted = convert(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        kind = item.get("type") or "any"
        text = f"The value `{as_text(value)[:100]}` does not have the type {kind}: {str(error)[:200]}."
        problems.append(Problem(pointer, text))
        return None
    options = item.get("options")
    allowed_values = {_identity(option) for option in options or ()}
    for part in converted if item.get("is_list") else [converted]:
        if options is not None and _identity(part) not in allowed_values:
            allowed = ", ".join(as_text(option)[:100] for option in options[:MAX_LISTED_NAMES])
            problems.append(Problem(pointer, f"`{as_text(part)[:100]}` is not one of the options: {allowed}."))
            break
    if item.get("is_flag"):
        return f"--{item['name']}" if converted else ""
    return converted


def _identity(value: Any) -> Any:
    """Return a key that is the same for equal values. Python alone takes true for 1."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | Mapping) else (isinstance(value, bool), value)


# Types.


def _load_json(kind: type, value: Any) -> Any:
    """Return the list or object. Text with its JSON is accepted as well. Raises ValueError."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, kind):
        raise ValueError(f"it is not {'a list' if kind is list else 'an object'}")
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("it is not a whole number")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("it is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("it is not a finite number")
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if value not in (True, False):
        raise ValueError("it is neither true nor false")
    return bool(value)


def _str(value: Any) -> str:
    if isinstance(value, list | Mapping):
        raise ValueError("it is not text")
    return as_text(value)


def _dict_of_dicts(value: Any) -> Any:
    loaded = _load_json(dict, value)
    if not all(isinstance(part, dict) for part in loaded.values()):
        raise ValueError("it is not an object of objects")
    return loaded


TYPES: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _str,
    "dict": lambda value: _load_json(dict, value),
    "dict_of_dicts": _dict_of_dicts,
    "list": lambda value: _load_json(list, value),
    "uri": _str,
    "auth": _str,
    "path": _str,
    "gcs_path": _str,
    "s3_path": _str,
    "azure_path": _str,
    "metric": _float,
    "metadata": lambda value: value,
    "any": lambda value: value,
}
"""Conversion by the type of an input; raises ValueError. `any` is for inputs that name no type."""
