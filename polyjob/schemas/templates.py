"""`{{ name }}` in the texts of a config. Pure, and nothing is ever evaluated: a name is looked up, filters are a table.

    {{ lr }}   {{ model.layers[0] }}   {{ name | upper }}   {{ path | default("data") | quote }}   {{ '{{' }}

A text that is one expression and nothing else keeps the type of its value; in any other the value becomes text: `true`
and `false`, numbers as in JSON, lists and objects as JSON, null as nothing. Everything else that template languages
have (`{% … %}`, `{# … #}`) is plain text here.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LONGEST = 200_000
"""Characters of a text once it is rendered, and of whatever a filter makes."""
MOST_WORK = 2_000_000
"""Characters that may be put into all texts of a document, and go through filters on the way."""
MOST_DIGITS = 20
MOST_NAMED = 20
"""Names that an error lists."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<end>\}\})|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>-?\d{1,15}(?:\.\d{1,15})?)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<sign>[.|()\[\],]))""",
    re.VERBOSE,
)


class TemplateError(ValueError):
    """What stands between the braces is no expression, or names what is not there."""


class TooMuch(TemplateError):
    """The document's texts would become too long, all together."""


class Work:
    """What may still be put into the texts of one document."""

    def __init__(self, characters: int = MOST_WORK) -> None:
        self._left = characters

    def spend(self, value: Any) -> None:
        """Raises TooMuch."""
        if isinstance(value, _Missing):
            return
        self._left -= 1 + (len(as_text(value)) if isinstance(value, str | list | Mapping) else 0)
        if self._left < 0:
            raise TooMuch(f"The parameters put more than {MOST_WORK} characters into the config, all together.")


def render(text: str, values: Mapping[str, Any], work: Work | None = None) -> Any:
    """The text with its expressions replaced. Raises TemplateError; TooMuch where `work` is used up."""
    work = work or Work()
    parts: list[Any] = []
    length = 0
    for part in _parts(text, values, work):
        parts.append(part)
        length += len(as_text(part))
        if length > LONGEST:
            raise TemplateError(f"The text has more than {LONGEST} characters once it is rendered.")
    return parts[0] if len(parts) == 1 else "".join(map(as_text, parts))


def _parts(text: str, values: Mapping[str, Any], work: Work) -> Iterator[Any]:
    """Plain texts, and the values of the expressions between them; no empty texts, but one where there is nothing."""
    at = 0
    while (begin := text.find("{{", at)) >= 0:
        if begin > at:
            yield text[at:begin]
        value, at = _Expression(text, begin, values, work).read()
        work.spend(value)
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

    def __init__(self, text: str, begin: int, values: Mapping[str, Any], work: Work) -> None:
        self._text, self._begin, self._at = text, begin, begin + 2
        self._values, self._work = values, work
        self._kind, self._word = "", ""
        self._advance()

    def read(self) -> tuple[Any, int]:
        """(value, where the text goes on)."""
        value = self._value()
        while self._take("|"):
            name = self._expect("name", "the name of a filter")
            self._work.spend(value)
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
        value: Any = self._values[name] if name in self._values else _Missing(_no_such(name, self._values))
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
    known = ", ".join(sorted(values)[:MOST_NAMED]) or "none at all"
    more = f" and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else ""
    return f"There is no parameter `{_short(name)}`; there are: {known}{more}."


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
        found = act(value, *arguments)
    except TemplateError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise TemplateError(f"The filter `{name}` cannot work on {_short(as_text(value))!r}.") from None
    if isinstance(found, str):
        _refuse_long(len(found), name)
    return found


def _refuse_long(length: int, name: str) -> None:
    if length > LONGEST:
        raise TemplateError(f"The filter `{name}` makes more than {LONGEST} characters.")


def _whole(value: Any) -> int:
    return int(float(value)) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else int(value)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("infinite, or no number")
    return number


def _join(value: Any, between: Any) -> str:
    if not isinstance(value, list):
        raise TypeError
    items, between = [as_text(item) for item in value], as_text(between)
    _refuse_long(sum(map(len, items)) + len(between) * (len(items) - 1), "join")
    return between.join(items)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    if not old:
        raise ValueError("nothing to look for")
    _refuse_long(len(text) + text.count(old) * (len(new) - len(old)), "replace")
    return text.replace(old, new)


def _round(value: Any, digits: Any) -> Any:
    """Python takes any time at all to round a whole number to very many digits before the point."""
    if not isinstance(digits, int) or abs(digits) > MOST_DIGITS:
        raise ValueError("too many digits")
    return round(value, digits)


FILTERS: dict[str, tuple[Callable[..., Any], int]] = {
    "float": (_finite, 0),
    "int": (_whole, 0),
    "join": (_join, 1),
    "length": (len, 0),
    "lower": (lambda value: as_text(value).lower(), 0),
    "quote": (lambda value: shlex.quote(as_text(value)), 0),
    "replace": (_replace, 2),
    "round": (_round, 1),
    "string": (as_text, 0),
    "tojson": (lambda value: json.dumps(value, ensure_ascii=False), 0),
    "trim": (lambda value: as_text(value).strip(), 0),
    "upper": (lambda value: as_text(value).upper(), 0),
}
"""Filter → (what it does, how many arguments it takes). `default` is beside them: it takes what is missing."""
