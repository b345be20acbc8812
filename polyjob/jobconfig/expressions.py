"""Evaluate one expression of a template: a recursive descent parser. Pure.

No code of the user runs: names are looked up in the given values, and operators and filters come from tables. The
grammar is a subset of Jinja's. From the loosest binding to the tightest:

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
"""Evaluates a part of an expression. It is called only if the value is needed."""


def evaluate(text: str, begin: int, values: Mapping[str, Any], budget: RenderBudget) -> tuple[Any, int]:
    """Return the value of the expression whose braces open at `begin`, and the position after its closing braces.

    Raises TemplateError, and RenderBudgetExceeded when `budget` is used up.
    """
    parser = _Parser(text, begin, values, budget)
    value = parser.parse()()
    if isinstance(value, Undefined):
        raise TemplateError(value.explain())
    budget.spend(value)
    return value, parser.end


class _Parser:
    def __init__(self, text: str, begin: int, values: Mapping[str, Any], budget: RenderBudget) -> None:
        self._text, self._begin, self.end = text, begin, begin + 2
        self._values, self._budget = values, budget
        self._kind, self._word = "", ""
        self._operations = self._nesting = 0
        if text.startswith("-", self.end):  # Jinja removes the blanks around such braces
            raise TemplateError("`{{-` and `-}}` are not supported. Write a negative number as {{ -n }}.")
        self._advance()

    def parse(self) -> Thunk:
        """Return the function that evaluates the expression. Raises TemplateError."""
        value = self._conditional()
        if self._kind != "end":
            raise self._syntax_error()
        return value

    # Grammar.

    def _conditional(self) -> Thunk:
        self._nest(1)
        value = self._or_expression()
        if self._take_word("if"):
            condition = self._or_expression()
            if not self._take_word("else"):
                raise self._syntax_error("`else`")
            first, other = value, self._conditional()
            value = self._count(lambda: first() if _defined(condition()) else other())
        self._nest(-1)
        return value

    def _or_expression(self) -> Thunk:
        value = self._and_expression()
        while self._take_word("or"):
            value = self._count(_lazy_or(value, self._and_expression()))
        return value

    def _and_expression(self) -> Thunk:
        value = self._not_expression()
        while self._take_word("and"):
            value = self._count(_lazy_and(value, self._not_expression()))
        return value

    def _not_expression(self) -> Thunk:
        count = 0
        while self._take_word("not"):
            count += 1
        value = self._comparison()
        return self._count(lambda: bool(_defined(value())) is (count % 2 == 0)) if count else value

    def _comparison(self) -> Thunk:
        value = self._binary_chain(_SUMS, self._concatenation)
        sign = self._take_any(_COMPARISONS)
        if sign is None and self._take_word("in"):
            sign = "in"
        if sign is None:
            return value
        return self._operation(sign, value, self._binary_chain(_SUMS, self._concatenation))

    def _concatenation(self) -> Thunk:
        return self._binary_chain(("~",), lambda: self._binary_chain(_PRODUCTS, self._sign_expression))

    def _binary_chain(self, signs: tuple[str, ...], part: Callable[[], Thunk]) -> Thunk:
        """Parse parts with these operators between them, which are applied from the left."""
        value = part()
        while (sign := self._take_any(signs)) is not None:
            value = self._operation(sign, value, part())
        return value

    def _sign_expression(self) -> Thunk:
        if not self._take("-"):
            return self._postfix()
        self._nest(1)
        value = self._sign_expression()
        self._nest(-1)
        return self._operation("-", _constant(0), value)

    def _postfix(self) -> Thunk:
        value = self._primary()
        while True:
            if self._take("|"):
                value = self._filter(value)
            elif self._take("."):
                key = int(self._number()) if self._kind == "number" else self._expect("name", "a name")
                value = self._count(_member(value, _constant(key)))
            elif self._take("["):
                value = self._count(_member(value, self._conditional()))
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
            self._budget.spend(given)
            return apply_filter(name, given, [_defined(argument()) for argument in arguments])

        return self._count(apply)

    def _primary(self) -> Thunk:
        if self._take("("):
            value = self._count(self._conditional())
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
        """Parse a param or a constant. A dash belongs to the name if there is such a param; otherwise it is a minus."""
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
            value = Undefined(lambda: _undefined_message(name, self._values))
        return _constant(value)

    def _number(self) -> int | float:
        word = self._expect("number", "a number")
        return float(word) if "." in word else int(word)

    def _operation(self, sign: str, left: Thunk, right: Thunk) -> Thunk:
        def evaluate_operation() -> Any:
            operands = _defined(left()), _defined(right())
            for operand in operands:
                self._budget.spend(operand)
            try:
                result = _OPERATORS[sign](*operands)
            except ZeroDivisionError:
                raise TemplateError("Division by zero.") from None
            except (TypeError, ValueError, OverflowError):
                quoted = " and ".join(repr(shorten(as_text(operand))) for operand in operands)
                raise TemplateError(f"`{sign}` cannot be applied to {quoted}.") from None
            return check_result(result, f"`{sign}`")

        return self._count(evaluate_operation)

    # Bounds.

    def _count(self, thunk: Thunk) -> Thunk:
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
                f"`{shorten(self._text[self._begin :])}` is not a valid expression: "
                + (f"`{shorten(rest[0])}` was not expected." if rest else "the closing `}}` is missing.")
                + " Write a plain `{{` as {{ '{{' }}."
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
            raise self._syntax_error(f"`{sign}`")

    def _expect(self, kind: str, description: str) -> str:
        if self._kind != kind:
            raise self._syntax_error(description)
        word = self._word
        self._advance()
        return word

    def _syntax_error(self, expected: str = "") -> TemplateError:
        problem = f"was found instead of {expected}" if expected else "was not expected"
        return TemplateError(
            f"`{shorten(self._text[self._begin :])}` is not a valid expression: `{shorten(self._word)}` {problem}."
            " Write a plain `{{` as {{ '{{' }}."
        )


def _constant(value: Any) -> Thunk:
    return lambda: value


def _defined(value: Any) -> Any:
    """Return the value. Raises TemplateError if it is undefined."""
    if isinstance(value, Undefined):
        raise TemplateError(value.explain())
    return value


def _lazy_or(left: Thunk, right: Thunk) -> Thunk:
    return lambda: _defined(left()) or _defined(right())


def _lazy_and(left: Thunk, right: Thunk) -> Thunk:
    return lambda: _defined(left()) and _defined(right())


def _member(value: Thunk, key: Thunk) -> Thunk:
    def member() -> Any:
        container, index = value(), _defined(key())
        if isinstance(container, Undefined):
            return container
        if isinstance(container, Mapping) and isinstance(index, str) and index in container:
            return container[index]
        if isinstance(container, list) and type(index) is int and -len(container) <= index < len(container):
            return container[index]
        return Undefined(lambda: f"There is no `{shorten(as_text(index))}` in {shorten(as_text(container))!r}.")

    return member


def _undefined_message(name: str, values: Mapping[str, Any]) -> str:
    names = ", ".join(sorted(values)[:MAX_LISTED_NAMES]) or "none"
    more = f" and {len(values) - MAX_LISTED_NAMES} more" if len(values) > MAX_LISTED_NAMES else ""
    return f"Unknown param `{shorten(name)}`; use one of: {names}{more}."


# Operators.


def _numeric(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Restrict an operator to numbers. A text times a number, or `%` on a text, could produce any length."""

    def checked(left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError
        return operate(left, right)

    return checked


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
