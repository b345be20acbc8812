"""The parameters of a config: what inputs take and params give, and the config with every `{{ name }}` replaced.

Only a config that has params, declarations or inputs is rendered; any other passes untouched.
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
APART = frozenset({*SECTIONS, "outputs", "version", "kind"})
"""Parts of a config in which nothing is replaced."""
MAX_PARAMS = 1000
MAX_PARAMS_BYTES = 100_000
"""Of all params as JSON: they are one variable of the job, and Linux takes none beyond 128 KiB."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_NAME_RULE = "letters, digits, `_` and `-`, not beginning with a digit or `-`"
_REFERENCE = re.compile(r"\{\{\s*(?:jobs|experiments|ops|runs|dag)\s*\.")


def has_params(document: Any) -> bool:
    return isinstance(document, Mapping) and any(document.get(section) for section in SECTIONS)


def rename_declarations(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with its `declarations` called `params`, where it has none of that name."""
    if document.get("declarations") is None or document.get("params") is not None:
        return document
    rest = {key: value for key, value in document.items() if key not in ("declarations", "params")}
    return rest | {"params": document["declarations"]}


def add_params(document: Any, params: Mapping[str, Any]) -> Any:
    """The document with `params` before its own; what is no object, or has no object of params, as it is."""
    if not params or not isinstance(document, Mapping):
        return document
    document = rename_declarations(document)
    own = {} if document.get("params") is None else document["params"]
    return {**document, "params": {**own, **params}} if isinstance(own, Mapping) else document


def render_config(document: Mapping[str, Any], pointer: str) -> Mapping[str, Any]:
    """The document with its params resolved (under `params`, defaults among them) and every expression in its other
    parts replaced; one without params or inputs as it is. Raises Invalid with every problem, each with a pointer."""
    problems: list[Problem] = []
    outputs = list(_items(document, "outputs", pointer, problems))
    if not has_params(document):
        if problems:
            raise Invalid(problems[:MAX_PROBLEMS])
        return rename_declarations(document)
    values = _resolve(document, pointer, outputs, problems)
    found = {key: value for key, value in document.items() if key in APART and key != "declarations"}
    if not problems:
        replacement = _Replacement(values, problems)
        for key, value in document.items():
            if key not in APART:
                found[key] = replacement.of({key: value}, pointer)[key]
    if problems:
        raise Invalid(problems[:MAX_PROBLEMS])
    found["params"] = values
    check_values(found, pointer)
    return found


class _Replacement:
    """Puts params into the parts of one document, and keeps what is wrong in `problems`; ends early once that is much,
    or the document becomes too large."""

    def __init__(self, values: Mapping[str, Any], problems: list[Problem]) -> None:
        self._values, self._problems = values, problems
        self._work = RenderBudget()
        self._is_over = False

    def of(self, value: Any, pointer: str, *, is_variable: bool = False) -> Any:
        """The part with params in it. Variables are texts, of whatever type a param is."""
        if self._is_over:
            return value
        if isinstance(value, str):
            found = self._text(value, pointer) if has_template(value) else value
            return found if not is_variable or isinstance(found, list | Mapping) else as_text(found)
        if isinstance(value, Mapping):
            return {
                key: self.of(
                    item,
                    pointer_to(pointer, key),
                    is_variable=is_variable or (key == "env_vars" and not isinstance(item, str)),
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [
                self.of(item, pointer_to(pointer, index), is_variable=is_variable) for index, item in enumerate(value)
            ]
        return value

    def _text(self, text: str, pointer: str) -> Any:
        try:
            return render(text, self._values, self._work)
        except TemplateError as error:
            self._problems.append(Problem(pointer, str(error)))
            self._is_over = isinstance(error, RenderBudgetExceeded) or len(self._problems) >= MAX_PROBLEMS
        return text


# Params.


_Item = tuple[Mapping[str, Any], str]
"""An input or output, and where it stands."""


def _resolve(
    document: Mapping[str, Any], pointer: str, outputs: list[_Item], problems: list[Problem]
) -> dict[str, Any]:
    """Name → value; what is wrong is added to `problems`."""
    given, at = _given(document, pointer, problems)
    inputs = list(_items(document, "inputs", pointer, problems))
    if problems:
        return {}
    values = _matched(given, at, inputs, outputs, problems) if inputs else dict(given)
    if not problems and len(json.dumps(values)) > MAX_PARAMS_BYTES:
        problems.append(Problem(at, f"Longer than {MAX_PARAMS_BYTES} bytes as JSON, defaults among them."))
    return values


def _matched(
    given: Mapping[str, Any], at: str, inputs: list[_Item], outputs: list[_Item], problems: list[Problem]
) -> dict[str, Any]:
    """The values of inputs and outputs."""
    values: dict[str, Any] = {}
    for index, (item, where) in enumerate([*inputs, *outputs]):
        name = item["name"]
        if given.get(name) is not None:
            values[name] = _converted(item, given[name], pointer_to(at, name), problems)
        elif item.get("default") is not None:
            values[name] = _converted(item, item["default"], f"{where}/default", problems)
        elif item.get("is_optional") or index >= len(inputs):
            values[name] = "" if item.get("is_flag") else None
        else:
            problems.append(Problem(at, f"Input {name} is required, no param was passed."))
    known = {item["name"] for item, _ in [*inputs, *outputs]}
    for name in given:
        if name not in known:
            problems.append(Problem(pointer_to(at, name), f"`{name}` is neither an input nor an output."))
    return values


def _given(document: Mapping[str, Any], pointer: str, problems: list[Problem]) -> tuple[Mapping[str, Any], str]:
    """(the params, where they stand)."""
    names = [name for name in ("params", "declarations") if document.get(name) is not None]
    if len(names) == 2:
        problems.append(Problem(f"{pointer}/declarations", "`declarations` is another name of `params`; give one."))
    name = names[0] if names else "params"
    at, params = f"{pointer}/{name}", document.get(name)
    params = {} if params is None else params
    if not isinstance(params, Mapping) or len(params) > MAX_PARAMS:
        problems.append(Problem(at, f"Not an object of at most {MAX_PARAMS} parameters."))
        return {}, at
    for key, value in params.items():
        if not _NAME.match(key):
            problems.append(Problem(pointer_to(at, key), f"`{key[:100]}` is no name: {_NAME_RULE}."))
        elif isinstance(value, str) and _REFERENCE.search(value):
            problems.append(Problem(pointer_to(at, key), "Values of other runs cannot be taken: give the value."))
    return params, at


def _items(document: Mapping[str, Any], section: str, pointer: str, problems: list[Problem]) -> Iterator[_Item]:
    """Each input or output that is one."""
    at, items = f"{pointer}/{section}", document.get(section)
    if items is None:
        return
    if not isinstance(items, list) or len(items) > MAX_PARAMS:
        problems.append(Problem(at, f"Not a list of at most {MAX_PARAMS} {section}."))
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        where = pointer_to(at, index)
        wrong = _wrong_item(item)
        if wrong is None and item["name"] in seen:
            wrong = ("/name", f"There is another one named `{item['name']}`.")
        if wrong is not None:
            problems.append(Problem(where + wrong[0], wrong[1]))
            continue
        seen.add(item["name"])
        yield item, where


_KNOWN = {"name", "description", "type", "default", "is_optional", "is_list", "is_flag", "options"}


def _wrong_item(item: Any) -> tuple[str, str] | None:
    """(pointer below the item, what is wrong); None for one that is right."""
    if not isinstance(item, Mapping):
        return "", "Not an object with a `name`."
    for key in item:
        if key not in _KNOWN:
            return pointer_to("", key), f"Unknown key `{key[:100]}`."
    name = item.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        return "/name", f"Only {_NAME_RULE}."
    kind = item.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in TYPES):
        return "/type", f"`{as_text(kind)[:100]}` is no type; there are: {', '.join(TYPES)}."
    for key in ("is_optional", "is_list", "is_flag"):
        if not isinstance(item.get(key), bool | None):
            return f"/{key}", "Neither true nor false."
    if item.get("is_flag") and item.get("type") != "bool":
        return "/is_flag", "Only an input of type bool is a flag."
    if item.get("default") is not None and not item.get("is_optional"):
        return "/default", "Only an input that `is_optional` has a default."
    if item.get("options") is not None and not isinstance(item["options"], list):
        return "/options", "Not a list."
    return None


def _converted(item: Mapping[str, Any], value: Any, pointer: str, problems: list[Problem]) -> Any:
    convert = TYPES[item.get("type") or "any"]
    try:
        if item.get("is_list"):
            value = _as(list, value)
            found: Any = [convert(part) for part in value]
        else:
            found = convert(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        text = f"Could not parse value `{as_text(value)[:100]}`, an error was encountered: {str(error)[:200]}."
        problems.append(Problem(pointer, text))
        return None
    options = item.get("options")
    known = {_identity(option) for option in options or ()}
    for part in found if item.get("is_list") else [found]:
        if options is not None and _identity(part) not in known:
            allowed = ", ".join(as_text(option)[:100] for option in options[:MAX_LISTED_NAMES])
            problems.append(Problem(pointer, f"`{as_text(part)[:100]}` is none of the options: {allowed}."))
            break
    if item.get("is_flag"):
        return f"--{item['name']}" if found else ""
    return found


def _identity(value: Any) -> Any:
    """What two values share if they are the same. Python takes true for 1."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | Mapping) else (isinstance(value, bool), value)


# Types.


def _as(kind: type, value: Any) -> Any:
    """Text that is JSON of this kind does as well."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, kind):
        raise ValueError(f"it is no {'list' if kind is list else 'object'}")
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("it is no whole number")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("it is no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("it is no finite number")
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if value not in (True, False):
        raise ValueError("it is neither true nor false")
    return bool(value)


def _str(value: Any) -> str:
    if isinstance(value, list | Mapping):
        raise ValueError("it is no text")
    return as_text(value)


def _dict_of_dicts(value: Any) -> Any:
    found = _as(dict, value)
    if not all(isinstance(part, dict) for part in found.values()):
        raise ValueError("it is no object of objects")
    return found


TYPES: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _str,
    "dict": lambda value: _as(dict, value),
    "dict_of_dicts": _dict_of_dicts,
    "list": lambda value: _as(list, value),
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
"""Type of an input → what makes a value of it; raises ValueError. `any` is for inputs that name none."""
