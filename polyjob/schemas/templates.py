"""`{{ name }}` in the texts of a config. Pure, and nothing is ever evaluated: a name is looked up, filters are a table.

    {{ lr }}   {{ model.layers[0] }}   {{ name | upper }}   {{ path | default("data") | quote }}   {{ '{{' }}

A text that is one expression and nothing else keeps the type of its value; in any other the value becomes text: `true`
and `false`, numbers as in JSON, lists and objects as JSON, null as nothing. Everything else that template languages
have (`{% … %}`, `{# … #}`) is plain text here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LONGEST = 200_000
"""Characters of a text once it is rendered."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<end>\}\})|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>-?\d+(?:\.\d+)?)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<sign>[.|()\[\],]))""",
    re.VERBOSE,
)


class TemplateError(ValueError):
    """What stands between the braces is no expression, or names what is not there."""


def render(text: str, values: Mapping[str, Any]) -> Any:
    """The text with its expressions replaced. Raises TemplateError."""
    parts = list(_parts(text, values))
    if len(parts) == 1:
        return parts[0]
    whole = "".join(part if isinstance(part, str) else as_text(part) for part in parts)
    if len(whole) > LONGEST:
        raise TemplateError(f"The text has more than {LONGEST} characters once it is rendered.")
    return whole


def _parts(text: str, values: Mapping[str, Any]) -> Iterator[Any]:
    """Plain texts, and the values of the expressions between them; no empty texts, but one where there is nothing."""
    at = 0
    while (begin := text.find("{{", at)) >= 0:
        if begin > at:
            yield text[at:begin]
        value, at = _Expression(text, begin, values).read()
        yield value
    if at < len(text) or not text:
        yield text[at:]


def as_text(value: Any) -> str:
    """A value within a text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Missing:
    """What a name stands for that nobody has."""

    def __init__(self, why: str) -> None:
        self.why = why


class _Expression:
    """One expression, from its opening braces on."""

    def __init__(self, text: str, begin: int, values: Mapping[str, Any]) -> None:
        self._text, self._begin, self._at = text, begin, begin + 2
        self._values = values
        self._kind, self._word = "", ""
        self._advance()

    def read(self) -> tuple[Any, int]:
        """(value, where the text goes on)."""
        value = self._value()
        while self._take("|"):
            name = self._expect("name", "the name of a filter")
            value = _filtered(name, value, self._arguments() if self._take("(") else [])
        if self._kind != "end":
            raise self._wrong()
        if isinstance(value, _Missing):
            raise TemplateError(value.why)
        return value, self._at

    def _value(self) -> Any:
        if self._kind in ("text", "number"):
            return self._literal()
        name = self._expect("name", "a name")
        value: Any = self._values.get(name, _Missing(_no_such(name, self._values)))
        path = name
        while self._word in (".", "[") and self._kind == "sign":
            key: Any
            if self._take("."):
                key = int(self._literal()) if self._kind == "number" else self._expect("name", "a name")
            else:
                self._take("[")
                key = self._literal()
                self._expect_sign("]")
            path = f"{path}.{key}"
            value = value if isinstance(value, _Missing) else _member(value, key, path)
        return value

    def _literal(self) -> Any:
        kind, word = self._kind, self._word
        if kind not in ("text", "number"):
            raise self._wrong()
        self._advance()
        if kind == "number":
            return float(word) if "." in word else int(word)
        return re.sub(r"\\(.)", r"\1", word[1:-1])

    def _arguments(self) -> list[Any]:
        found: list[Any] = []
        while not self._take(")"):
            if found:
                self._expect_sign(",")
            found.append(self._literal())
        return found

    # Tokens.

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :].split()
            raise TemplateError(
                f"`{_short(self._text[self._begin :])}` is no expression: "
                + (f"`{_short(rest[0])}` was not expected." if rest else "the closing `}}` is missing.")
                + " A plain `{{` is written as {{ '{{' }}."
            )
        self._at = match.end()
        self._kind = str(match.lastgroup)
        self._word = match.group(self._kind)

    def _take(self, sign: str) -> bool:
        if self._kind != "sign" or self._word != sign:
            return False
        self._advance()
        return True

    def _expect_sign(self, sign: str) -> None:
        if not self._take(sign):
            raise self._wrong(f"`{sign}`")

    def _expect(self, kind: str, what: str) -> str:
        if self._kind != kind:
            raise self._wrong(what)
        word = self._word
        self._advance()
        return word

    def _wrong(self, wanted: str = "") -> TemplateError:
        instead = f" where {wanted} should be" if wanted else ""
        return TemplateError(
            f"`{_short(self._text[self._begin :])}` is no expression: `{self._word}` stands{instead or ' astray'}."
            " A plain `{{` is written as {{ '{{' }}."
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _no_such(name: str, values: Mapping[str, Any]) -> str:
    known = ", ".join(sorted(values)) or "none at all"
    return f"There is no parameter `{name}`; there are: {known}."


def _member(value: Any, key: Any, path: str) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
        return value[key]
    return _Missing(f"There is no `{path}`.")


# Filters.


def _filtered(name: str, value: Any, arguments: list[Any]) -> Any:
    if name == "default":
        if len(arguments) != 1:
            raise TemplateError("The filter `default` takes one argument.")
        return arguments[0] if isinstance(value, _Missing) or value is None else value
    if isinstance(value, _Missing):
        return value
    if name not in FILTERS:
        raise TemplateError(f"There is no filter `{name}`; there are: default, {', '.join(sorted(FILTERS))}.")
    act, count = FILTERS[name]
    if len(arguments) != count:
        raise TemplateError(f"The filter `{name}` takes {count or 'no'} argument{'s' * (count != 1)}.")
    try:
        return act(value, *arguments)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise TemplateError(f"The filter `{name}` cannot work on {_short(as_text(value))!r}.") from None


def _whole(value: Any) -> int:
    return int(float(value)) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else int(value)


def _join(value: Any, between: Any) -> str:
    if not isinstance(value, list):
        raise TypeError
    return str(between).join(map(as_text, value))


FILTERS: dict[str, tuple[Callable[..., Any], int]] = {
    "float": (float, 0),
    "int": (_whole, 0),
    "join": (_join, 1),
    "length": (len, 0),
    "lower": (lambda value: as_text(value).lower(), 0),
    "quote": (lambda value: shlex.quote(as_text(value)), 0),
    "replace": (lambda value, old, new: as_text(value).replace(str(old), str(new)), 2),
    "round": (lambda value, digits: round(value, int(digits)), 1),
    "tojson": (lambda value: json.dumps(value, ensure_ascii=False), 0),
    "trim": (lambda value: as_text(value).strip(), 0),
    "upper": (lambda value: as_text(value).upper(), 0),
}
"""Filter → (what it does, how many arguments it takes). `default` is beside them: it takes what is missing."""
