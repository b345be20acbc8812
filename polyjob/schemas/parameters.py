"""The parameters of a config: what inputs take and params give, and the config with every `{{ name }}` replaced.

Only a config that has params, declarations or inputs is rendered; any other passes untouched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from polyjob.errors import Invalid, Problem
from polyjob.schemas.checks import MOST_PROBLEMS, SLUG, pointer_to
from polyjob.schemas.templates import TemplateError, as_text, render

SECTIONS = ("params", "declarations", "inputs")
APART = frozenset({*SECTIONS, "outputs", "version", "kind"})
"""Parts of a config in which nothing is replaced."""
MOST = 1000
_REFERENCE = re.compile(r"\{\{\s*(jobs|experiments|ops|runs|dag)\b[^}]*\}\}")


def is_parametrised(document: Any) -> bool:
    return isinstance(document, Mapping) and any(document.get(section) for section in SECTIONS)


def rendered(document: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """The document with its params resolved (under `params`, defaults among them) and every expression in its other
    parts replaced. Raises Invalid with every problem, each with a pointer."""
    values, problems = _resolve(document, pointer)
    found = {key: value for key, value in document.items() if key in APART and key != "declarations"}
    if not problems:
        for key, value in document.items():
            if key not in APART:
                found[key] = _replaced(value, values, pointer_to(pointer, key), problems)
    if problems:
        raise Invalid(problems[:MOST_PROBLEMS])
    return found | {"params": values}


def _replaced(value: Any, values: Mapping[str, Any], pointer: str, problems: list[Problem]) -> Any:
    if isinstance(value, str) and "{{" in value:
        try:
            return render(value, values)
        except TemplateError as error:
            problems.append(Problem(pointer, str(error)))
            return value
    if isinstance(value, Mapping):
        return {key: _replaced(item, values, pointer_to(pointer, key), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, values, pointer_to(pointer, index), problems) for index, item in enumerate(value)]
    return value


# Params.


def _resolve(document: Mapping[str, Any], pointer: str) -> tuple[dict[str, Any], list[Problem]]:
    """(name → value, what is wrong)."""
    problems: list[Problem] = []
    given, at = _given(document, pointer, problems)
    inputs = list(_items(document, "inputs", pointer, problems))
    outputs = list(_items(document, "outputs", pointer, problems))
    if problems:
        return {}, problems
    if not inputs:
        return dict(given), problems
    values: dict[str, Any] = {}
    for item, where in [*inputs, *outputs]:
        name = item["name"]
        if name in given:
            values[name] = _converted(item, given[name], pointer_to(at, name), problems)
        elif item.get("default") is not None:
            values[name] = _converted(item, item["default"], f"{where}/default", problems)
        elif item.get("is_optional") or (item, where) in outputs:
            values[name] = "" if item.get("is_flag") else None
        else:
            problems.append(Problem(at, f"Input {name} is required, no param was passed."))
    known = {item["name"] for item, _ in [*inputs, *outputs]}
    for name in given:
        if name not in known:
            problems.append(Problem(pointer_to(at, name), f"`{name}` is neither an input nor an output."))
    return values, problems


def _given(document: Mapping[str, Any], pointer: str, problems: list[Problem]) -> tuple[Mapping[str, Any], str]:
    """(the params, where they stand)."""
    names = [name for name in ("params", "declarations") if document.get(name) is not None]
    if len(names) == 2:
        problems.append(Problem(f"{pointer}/declarations", "`declarations` is another name of `params`; give one."))
    name = names[0] if names else "params"
    at, params = f"{pointer}/{name}", document.get(name)
    params = {} if params is None else params
    if not isinstance(params, Mapping) or len(params) > MOST:
        problems.append(Problem(at, f"Not an object of at most {MOST} parameters."))
        return {}, at
    for key, value in params.items():
        if not re.match(r"[A-Za-z_][A-Za-z0-9_-]*\Z", key):
            problems.append(Problem(pointer_to(at, key), f"`{key}` is no name: letters, digits, `_` and `-`."))
        elif isinstance(value, str) and _REFERENCE.search(value):
            problems.append(Problem(pointer_to(at, key), "Values of other runs cannot be taken: give the value."))
    return params, at


def _items(
    document: Mapping[str, Any], section: str, pointer: str, problems: list[Problem]
) -> Iterator[tuple[dict[str, Any], str]]:
    """(item, where it stands) of each input or output that is one."""
    at, items = f"{pointer}/{section}", document.get(section)
    if items is None:
        return
    if not isinstance(items, list) or len(items) > MOST:
        problems.append(Problem(at, f"Not a list of at most {MOST} {section}."))
        return
    seen = set()
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
            return pointer_to("", key), f"Unknown key `{key}`."
    name = item.get("name")
    if not isinstance(name, str) or not re.match(SLUG, name):
        return "/name", "Only letters, digits, `-` and `_`."
    if item.get("type") is not None and item["type"] not in TYPES:
        return "/type", f"`{item['type']}` is no type; there are: {', '.join(TYPES)}."
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
    except (ValueError, TypeError, OverflowError) as error:
        text = f"Could not parse value `{as_text(value)[:100]}`, an error was encountered: {error}."
        problems.append(Problem(pointer, text))
        return None
    options = item.get("options")
    if options is not None and found not in options:
        allowed = ", ".join(as_text(option) for option in options)
        problems.append(Problem(pointer, f"`{as_text(found)[:100]}` is none of the options: {allowed}."))
    if item.get("is_flag"):
        return f"--{item['name']}" if found else ""
    return found


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
    return float(value)


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
