"""One expression of a template, from its opening braces on: read by its grammar, then worked out. Pure.

No code is ever run: names are looked up in the given values, and operators and filters are tables. Grammar, from the
loosest binding to the tightest, as Jinja has it:

    a if b else c    or    and    not    == != < <= > >= in    + -    ~    * / // %    -a    .name [index] | filter(x)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from polyjob.jobconfig.template_filters import (
    MAX_LISTED_NAMES,
    RenderBudget,
    TemplateError,
    Undefined,
    apply_filter,
    as_text,
    check_result,
    shorten,
)

MAX_EXPRESSION_OPERATIONS = 100
"""Operators, filters, members and parentheses of one expression."""
MAX_EXPRESSION_DEPTH = 20
"""Levels of parentheses, arguments and signs of one expression."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<end>\}\})|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>\d{1,15}(?:\.\d{1,15})?)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<sign>//|[=!<>]=|[.|()\[\],+*/~%<>-]))""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"""\\([\\'"nrt])""")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "none": None, "None": None}

Thunk = Callable[[], Any]
"""Works a part of an expression out, only if its value is needed."""


def evaluate(text: str, begin: int, values: Mapping[str, Any], work: RenderBudget) -> tuple[Any, int]:
    """Return (the value of the expression whose braces open at `begin`, where the text goes on). Raises TemplateError,
    and TooMuch where `work` is used up."""
    expression = _Expression(text, begin, values, work)
    value = expression.read()()
    if isinstance(value, Undefined):
        raise TemplateError(value.explain())
    work.spend(value)
    return value, expression.end


class _Expression:
    def __init__(self, text: str, begin: int, values: Mapping[str, Any], work: RenderBudget) -> None:
        self._text, self._begin, self.end = text, begin, begin + 2
        self._values, self._work = values, work
        self._kind, self._word = "", ""
        self._operations = self._nesting = 0
        if text.startswith("-", self.end):  # Jinja removes the blanks around such braces
            raise TemplateError("`{{-` and `-}}` are not supported; a negative number is written as {{ -n }}.")
        self._advance()

    def read(self) -> Thunk:
        """What works the expression out."""
        value = self._conditional()
        if self._kind != "end":
            raise self._wrong()
        return value

    # Grammar.

    def _conditional(self) -> Thunk:
        self._nest(1)
        value = self._any_of()
        if self._take_word("if"):
            condition = self._any_of()
            if not self._take_word("else"):
                raise self._wrong("`else`")
            first, other = value, self._conditional()
            value = self._made(lambda: first() if _needed(condition()) else other())
        self._nest(-1)
        return value

    def _any_of(self) -> Thunk:
        value = self._all_of()
        while self._take_word("or"):
            value = self._made(_either(value, self._all_of()))
        return value

    def _all_of(self) -> Thunk:
        value = self._negated()
        while self._take_word("and"):
            value = self._made(_both(value, self._negated()))
        return value

    def _negated(self) -> Thunk:
        count = 0
        while self._take_word("not"):
            count += 1
        value = self._compared()
        return self._made(lambda: bool(_needed(value())) is (count % 2 == 0)) if count else value

    def _compared(self) -> Thunk:
        value = self._joined(_SUMS, self._concatenated)
        sign = self._take_any(_COMPARISONS)
        if sign is None and self._take_word("in"):
            sign = "in"
        if sign is None:
            return value
        return self._operation(sign, value, self._joined(_SUMS, self._concatenated))

    def _concatenated(self) -> Thunk:
        return self._joined(("~",), lambda: self._joined(_PRODUCTS, self._signed))

    def _joined(self, signs: tuple[str, ...], part: Callable[[], Thunk]) -> Thunk:
        """Parts with these operators between them, worked out from the left."""
        value = part()
        while (sign := self._take_any(signs)) is not None:
            value = self._operation(sign, value, part())
        return value

    def _signed(self) -> Thunk:
        if not self._take("-"):
            return self._filtered()
        self._nest(1)
        value = self._signed()
        self._nest(-1)
        return self._operation("-", _constant(0), value)

    def _filtered(self) -> Thunk:
        value = self._primary()
        while True:
            if self._take("|"):
                value = self._filter(value)
            elif self._take("."):
                key = int(self._number()) if self._kind == "number" else self._expect("name", "a name")
                value = self._made(_member_of(value, _constant(key)))
            elif self._take("["):
                value = self._made(_member_of(value, self._conditional()))
                self._expect_sign("]")
            else:
                return value

    def _filter(self, value: Thunk) -> Thunk:
        name = self._expect("name", "the name of a filter")
        arguments: list[Thunk] = []
        if self._take("("):
            while not self._take(")"):
                if arguments:
                    self._expect_sign(",")
                arguments.append(self._conditional())

        def apply() -> Any:
            given = value()
            self._work.spend(given)
            return apply_filter(name, given, [_needed(argument()) for argument in arguments])

        return self._made(apply)

    def _primary(self) -> Thunk:
        if self._take("("):
            value = self._made(self._conditional())
            self._expect_sign(")")
            return value
        if self._kind == "number":
            return _constant(self._number())
        if self._kind == "text":
            text = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), self._word[1:-1])
            self._advance()
            return _constant(text)
        return self._name()

    def _name(self) -> Thunk:
        """A parameter or a constant. Names of parameters may have dashes; where none is named so, it is a minus."""
        name = self._word
        head = name.partition("-")[0]
        if self._kind == "name" and name not in self._values and head != name and head in self._values:
            self.end -= len(name) - len(head)
            self._word = name = head
        self._expect("name", "a name")
        if name in self._values:
            value = self._values[name]
        elif name in _CONSTANTS:
            value = _CONSTANTS[name]
        else:
            value = Undefined(lambda: _no_such(name, self._values))
        return _constant(value)

    def _number(self) -> int | float:
        word = self._expect("number", "a number")
        return float(word) if "." in word else int(word)

    def _operation(self, sign: str, left: Thunk, right: Thunk) -> Thunk:
        def act() -> Any:
            operands = _needed(left()), _needed(right())
            for operand in operands:
                self._work.spend(operand)
            try:
                result = _OPERATORS[sign](*operands)
            except ZeroDivisionError:
                raise TemplateError("A division by zero.") from None
            except (TypeError, ValueError, OverflowError):
                named = " and ".join(repr(shorten(as_text(operand))) for operand in operands)
                raise TemplateError(f"`{sign}` cannot work on {named}.") from None
            return check_result(result, f"`{sign}`")

        return self._made(act)

    # Bounds.

    def _made(self, thunk: Thunk) -> Thunk:
        self._operations += 1
        if self._operations > MAX_EXPRESSION_OPERATIONS:
            raise TemplateError(f"An expression has at most {MAX_EXPRESSION_OPERATIONS} operators and filters.")
        return thunk

    def _nest(self, levels: int) -> None:
        self._nesting += levels
        if self._nesting > MAX_EXPRESSION_DEPTH:
            raise TemplateError(f"An expression is nested at most {MAX_EXPRESSION_DEPTH} levels deep.")

    # Tokens.

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self.end)
        if match is None:
            rest = self._text[self.end : self.end + 200].split()
            raise TemplateError(
                f"`{shorten(self._text[self._begin :])}` is no expression: "
                + (f"`{shorten(rest[0])}` was not expected." if rest else "the closing `}}` is missing.")
                + " A plain `{{` is written as {{ '{{' }}."
            )
        self.end = match.end()
        self._kind = str(match.lastgroup)
        self._word = match.group(self._kind)

    def _take(self, sign: str) -> bool:
        return self._take_any((sign,)) is not None

    def _take_any(self, signs: tuple[str, ...]) -> str | None:
        if self._kind != "sign" or self._word not in signs:
            return None
        sign = self._word
        self._advance()
        return sign

    def _take_word(self, word: str) -> bool:
        if self._kind != "name" or self._word != word:
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
        instead = f"where {wanted} should be" if wanted else "astray"
        return TemplateError(
            f"`{shorten(self._text[self._begin :])}` is no expression: `{shorten(self._word)}` stands {instead}."
            " A plain `{{` is written as {{ '{{' }}."
        )


def _constant(value: Any) -> Thunk:
    return lambda: value


def _needed(value: Any) -> Any:
    """The value, which must be there. Raises TemplateError."""
    if isinstance(value, Undefined):
        raise TemplateError(value.explain())
    return value


def _either(left: Thunk, right: Thunk) -> Thunk:
    return lambda: _needed(left()) or _needed(right())


def _both(left: Thunk, right: Thunk) -> Thunk:
    return lambda: _needed(left()) and _needed(right())


def _member_of(value: Thunk, key: Thunk) -> Thunk:
    def member() -> Any:
        whole, part = value(), _needed(key())
        if isinstance(whole, Undefined):
            return whole
        if isinstance(whole, Mapping) and isinstance(part, str) and part in whole:
            return whole[part]
        if isinstance(whole, list) and type(part) is int and -len(whole) <= part < len(whole):
            return whole[part]
        return Undefined(lambda: f"There is no `{shorten(as_text(part))}` in {shorten(as_text(whole))!r}.")

    return member


def _no_such(name: str, values: Mapping[str, Any]) -> str:
    known = ", ".join(sorted(values)[:MAX_LISTED_NAMES]) or "none at all"
    more = f" and {len(values) - MAX_LISTED_NAMES} more" if len(values) > MAX_LISTED_NAMES else ""
    return f"There is no parameter `{shorten(name)}`; there are: {known}{more}."


# Operators.


def _numeric(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The operator for numbers alone: a text times a number, or formatted by `%`, has no end."""

    def operate(left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError
        return act(left, right)

    return operate


def _contains(left: Any, right: Any) -> bool:
    return left in right


_SUMS = ("+", "-")
_PRODUCTS = ("*", "/", "//", "%")
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": _numeric(operator.sub),
    "*": _numeric(operator.mul),
    "/": _numeric(operator.truediv),
    "//": _numeric(operator.floordiv),
    "%": _numeric(operator.mod),
    "~": lambda left, right: as_text(left) + as_text(right),
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": _contains,
}
