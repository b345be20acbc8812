"""The query language of lists: `?query=` and `?sort=` to peewee expressions. Pure: touches no database.

A query is conditions joined by commas, all of which must hold; a condition is `field:operation`:

=====================  =============================================  =====================
`field:a`              equal; for a date without a time, that day     every field
`field:a|b`            one of                                         values, tags, texts
`field:~…`             not                                            every field
`field:>=a`            compare by `<`, `<=`, `>`, `>=`                dates, numbers
`field:a..b`           between, both included                         dates
`field:%a%`, `a%`      contains, begins with, ends with               texts
=====================  =============================================  =====================

Only the fields of `JOB_FIELDS` and `BUILD_FIELDS` can be asked for. Null matches no date and no comparison, and
matches a «not» of everything else.
"""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import SQL, Expression, Field, NodeList, Ordering, Value, fn

from polyjob.db.models import Build, Job, Project, Upload, User
from polyjob.errors import Invalid, Problem

MAX_QUERY_LENGTH = 2_000
"""Characters of a query."""
MAX_QUERY_CONDITIONS = 50
"""Conditions of a query, and fields of a sort."""
MAX_QUERY_VALUES = 100
"""Values of one condition."""

_COMPARISONS: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("<=", operator.le),
    ("=<", operator.le),
    (">=", operator.ge),
    ("=>", operator.ge),
    ("<", operator.lt),
    (">", operator.gt),
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAY = datetime.timedelta(days=1)
_MICROSECOND = datetime.timedelta(microseconds=1)


class _InvalidOperand(ValueError):
    """An operand that the field does not take; the text says why."""


Condition = Callable[[str], Any]
"""An operand without its `~` to a peewee expression. Raises _Wrong."""


@dataclass(frozen=True)
class QueryField:
    condition: Condition
    nullable: bool = False
    """Whether a «not» also matches rows that have nothing there."""
    column: Any = None


def parse_query(text: str | None, fields: Mapping[str, QueryField], subject: str) -> list[Any]:
    """The expressions of a query, to be joined by AND. `subject` names what is asked for in errors: `job`, `build`.

    Raises Invalid that points at `/query` with every condition that is wrong.
    """
    if not text or not text.strip():
        return []
    if len(text) > MAX_QUERY_LENGTH:
        raise Invalid([Problem("/query", f"A query has at most {MAX_QUERY_LENGTH} characters.")])
    parts = text.split(",")
    if len(parts) > MAX_QUERY_CONDITIONS:
        raise Invalid([Problem("/query", f"A query has at most {MAX_QUERY_CONDITIONS} conditions.")])
    found, problems = [], []
    for part in parts:
        try:
            found.append(_condition(part, fields, subject))
        except _InvalidOperand as wrong:
            problems.append(Problem("/query", str(wrong)))
    if problems:
        raise Invalid(problems)
    return found


def has_condition_on(text: str | None, name: str) -> bool:
    """Return whether a query has a condition on this field."""
    return any(part.partition(":")[0].strip() == name for part in (text or "").split(","))


def parse_sort(text: str | None, columns: Mapping[str, Field], default: str = "-updated_at") -> list[Ordering]:
    """Return the ORDER BY of `?sort=`: names of columns, `-` for descending; nulls come last, and the id makes pages
    stable. Raises Invalid that points to `sort` for names that no list is sorted by."""
    names = sort_names(text, columns, default)
    orders = [_order(columns[name.removeprefix("-")], name.startswith("-")) for name in names]
    return [*orders, _order(columns["id"], names[0].startswith("-"))]


def sort_names(text: str | None, known: Iterable[str], default: str) -> list[str]:
    """Return the names of `?sort=`, each with its `-`, or else the default. Raises Invalid that points to `sort` for a
    name that is not known."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name.removeprefix("-") not in known]
    if unknown:
        fields = ", ".join(f"`{name}`" for name in known)
        detail = f"There is no sort field `{_short(unknown[0])}`; there are: {fields}. `-` before a field reverses."
        raise Invalid([Problem("sort", detail)])
    if len(names) > MAX_QUERY_CONDITIONS:
        raise Invalid([Problem("sort", f"A list is sorted by at most {MAX_QUERY_CONDITIONS} fields.")])
    return names or [default]


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


@dataclass(frozen=True)
class CursorOrder:
    """The order of a list that is walked by cursor: by one column, then by id."""

    name: str
    column: Field
    descending: bool


def cursor_order(text: str | None, columns: Mapping[str, Field], default: str = "-updated_at") -> CursorOrder:
    """As `parse_sort`, for a walk by cursor. Raises Invalid where several columns are asked for."""
    names = sort_names(text, columns, default)
    if len(names) > 1:
        raise Invalid([Problem("sort", "A walk by `cursor` goes by one column.")])
    name = names[0].removeprefix("-")
    return CursorOrder(names[0], columns[name], names[0].startswith("-"))


def after_cursor(order: CursorOrder, key: Field, value: Any, number: int) -> Any:
    """The condition on rows that stand behind the row with this value (as stored) and id. Nulls stand last."""
    after = operator.lt if order.descending else operator.gt
    if order.column is key:
        return after(key, number)
    if value is None:
        return order.column.is_null() & after(key, number)
    pair = NodeList((order.column, key), glue=", ", parens=True)
    given = NodeList((Value(value), Value(number)), glue=", ", parens=True)
    rest = NodeList((pair, SQL("<" if order.descending else ">"), given))
    return Expression(rest, "OR", order.column.is_null()) if order.column.null else Expression(rest, "AND", SQL("1"))


def _order(column: Field, descending: bool) -> Ordering:
    return (
        column.desc(nulls="LAST" if column.null else None)
        if descending
        else column.asc(nulls="LAST" if column.null else None)
    )


def _condition(text: str, fields: Mapping[str, QueryField], subject: str) -> Any:
    name, colon, operand = (part.strip() for part in text.partition(":"))
    negated = operand.startswith("~")
    operand = operand.removeprefix("~").strip()
    if not (name and colon and operand):
        raise _InvalidOperand(
            f"Expression is not valid, it must be formatted as name:operation, Expression: {text.strip()}"
        )
    field = fields.get(name)
    if field is None:
        raise _InvalidOperand(f"key `{name}` is not supported by query manager `{subject}`.{_hint(name, subject)}")
    try:
        expression = field.condition(operand)
    except _InvalidOperand as wrong:
        raise _InvalidOperand(f"`{name}:{_short(operand)}`: {wrong}") from None
    if not negated:
        return expression
    return (~expression) | field.column.is_null() if field.nullable else ~expression


def _hint(name: str, subject: str) -> str:
    if name.split(".")[0] in ("metric", "params", "declarations"):
        return f" A {subject} has no metrics and no parameters to ask for."
    return ""


# Kinds of fields.


def _values(operand: str) -> list[str]:
    values = [value.strip() for value in operand.split("|")]
    if not all(values):
        raise _InvalidOperand("a value is missing beside `|`")
    if len(values) > MAX_QUERY_VALUES:
        raise _InvalidOperand(f"it has {len(values)} values; at most {MAX_QUERY_VALUES} are allowed")
    return values


def _whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise _InvalidOperand(f"`{text}` is no whole number") from None
    if abs(number) >= 1 << 63:
        raise _InvalidOperand(f"`{text}` is too large")
    return number


def _yes_no(text: str) -> bool:
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise _InvalidOperand(f"`{text}` is neither true nor false") from None


def _value(column: Field, read: Callable[[str], Any] = str) -> QueryField:
    def condition(operand: str) -> Any:
        return column.in_([Value(read(value), converter=column.db_value) for value in _values(operand)])

    return QueryField(condition, column.null, column)


def _is_set(column: Field) -> QueryField:
    return QueryField(lambda operand: column.is_null(not _yes_no(operand)))


def _number(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        if "|" in operand or ".." in operand:
            raise _InvalidOperand("a number takes neither `|` nor `..`")
        compare, rest = _comparison(operand)
        return compare(column, _whole_number(rest))

    return QueryField(condition, column.null, column)


def _text(column: Field) -> QueryField:
    def one(value: str) -> Any:
        head, tail = value.startswith("%"), value.endswith("%") and len(value) > 1
        middle = value[head : len(value) - tail]
        if not (head or tail):
            return column == value
        if not middle:
            raise _InvalidOperand("there is nothing to look for between the `%`")
        pattern = f"{'%' if head else ''}{_escaped(middle)}{'%' if tail else ''}"
        return NodeList((column, SQL("LIKE"), Value(pattern), SQL("ESCAPE '\\'")), parens=True)

    def condition(operand: str) -> Any:
        alternatives = [Expression(one(value), "AND", SQL("1")) for value in _values(operand)]
        return Expression(NodeList(alternatives, glue=" OR ", parens=True), "AND", SQL("1"))

    return QueryField(condition, column.null, column)


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _tags(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        values = NodeList([Value(value) for value in _values(operand)], glue=", ", parens=True)
        inner = NodeList((SQL("SELECT 1 FROM json_each("), column, SQL(") AS tag WHERE tag.value IN"), values))
        return Expression(fn.EXISTS(inner), "AND", SQL("1"))

    return QueryField(condition)


def _date(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        if "|" in operand:
            raise _InvalidOperand("a date takes no `|`")
        if ".." in operand:
            return _between(column, operand)
        compare, rest = _comparison(operand)
        first, after = _span(rest)
        if compare is operator.eq:
            return (column >= first) & (column < after)
        # «after a day» and «up to a day» mean its end, where no time of day was given.
        return compare(column, after - _MICROSECOND if compare in (operator.gt, operator.le) else first)

    return QueryField(condition)


def _between(column: Field, operand: str) -> Any:
    ends = [end.strip() for end in operand.split("..")]
    if len(ends) != 2 or not all(ends):
        raise _InvalidOperand("a range has two ends, `a..b`")
    return (column >= _span(ends[0])[0]) & (column < _span(ends[1])[1])


def _comparison(operand: str) -> tuple[Callable[[Any, Any], Any], str]:
    for sign, compare in _COMPARISONS:
        if operand.startswith(sign):
            return compare, operand.removeprefix(sign).strip()
    return operator.eq, operand


def _span(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """(first instant, first instant behind it) of a day, or of a date with a time. UTC where no zone is given."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        moment = moment.astimezone(datetime.UTC)
        return moment, moment + (_DAY if _DATE.fullmatch(text) else _MICROSECOND)
    except (ValueError, OverflowError):
        raise _InvalidOperand(
            f"`{text}` is no date: it takes `YYYY-MM-DD`, with a time `HH:MM[:SS]` behind it or not"
        ) from None


def _user(column: Field, read: str | None) -> QueryField:
    """A user by name or id; without a suffix, a number is an id."""

    def condition(operand: str) -> Any:
        values = _values(operand)
        if read == "id" or (read is None and all(value.isdecimal() for value in values)):
            return column.in_([_whole_number(value) for value in values])
        return column.in_(User.select(User.id).where(User.username.in_(values)))

    return QueryField(condition)


def _project_name(column: Field) -> QueryField:
    return QueryField(lambda operand: column.in_(Project.select(Project.id).where(Project.name.in_(_values(operand)))))


def _commit(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        return column.in_(Upload.select(Upload.id).where(Upload.digest.in_(_values(operand))))

    return QueryField(condition, True, column)


def _run(column: Field, kind: str) -> QueryField:
    """A job or build by its number or unique name, such as `ana.demo.jobs.7`."""
    name = re.compile(rf"(?:[\w-]+\.[\w-]+\.{kind}\.)?([0-9]+)\Z")

    def read(text: str) -> int:
        match = name.match(text)
        return _whole_number(match[1] if match else text)

    return _value(column, read)


def _common(table: type[Job] | type[Build]) -> dict[str, QueryField]:
    return {
        "id": _value(table.id, _whole_number),
        "name": _text(table.name),
        "description": _text(table.description),
        "status": _value(table.status),
        "created_at": _date(table.created_at),
        "updated_at": _date(table.updated_at),
        "started_at": _date(table.started_at),
        "finished_at": _date(table.finished_at),
        "tags": _tags(table.tags),
        "user": _user(table.user, None),
        "user.id": _user(table.user, "id"),
        "user.username": _user(table.user, "username"),
        "project": _value(table.project, _whole_number),
        "project.id": _value(table.project, _whole_number),
        "project.name": _project_name(table.project),
        "commit": _commit(table.code),
        "backend": _value(table.runner),
        "is_managed": _value(table.is_managed, _yes_no),
        "archived": _is_set(table.archived_at),
    }


JOB_FIELDS: Mapping[str, QueryField] = _common(Job) | {
    "build": _run(Job.build, "builds"),
    "build.id": _value(Job.build, _whole_number),
    "original": _run(Job.original, "jobs"),
    "cloning_strategy": _value(Job.cloning_strategy),
    "exit_code": _number(Job.exit_code),
}
BUILD_FIELDS: Mapping[str, QueryField] = _common(Build)
PROJECT_FIELDS: Mapping[str, QueryField] = {
    "id": _value(Project.id, _whole_number),
    "name": _text(Project.name),
    "description": _text(Project.description),
    "created_at": _date(Project.created_at),
    "updated_at": _date(Project.updated_at),
    "tags": _tags(Project.tags),
    "is_public": _value(Project.is_public, _yes_no),
}

_DATES: Sequence[str] = ("id", "created_at", "updated_at", "started_at", "finished_at")
JOB_SORT_COLUMNS: Mapping[str, Field] = {name: getattr(Job, name) for name in _DATES}
BUILD_SORT_COLUMNS: Mapping[str, Field] = {name: getattr(Build, name) for name in _DATES}
PROJECT_SORT_COLUMNS: Mapping[str, Field] = {
    "id": Project.id,
    "name": Project.name,
    "created_at": Project.created_at,
    "updated_at": Project.updated_at,
}
