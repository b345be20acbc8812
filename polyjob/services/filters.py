"""The filters of lists: translate `?query=` to peewee expressions. Pure: does not read the database.

A query is a list of conditions, separated by commas, which must all hold. A condition is `field:operation`:

=====================  =============================================  =====================
`field:a`              equal; for a date without a time, on that day     every field
`field:a|b`            one of                                         values, tags, texts
`field:~…`             not                                            every field
`field:>=a`            compare by `<`, `<=`, `>`, `>=`                dates, numbers
`field:a..b`           between, both included                         dates
`field:%a%`, `a%`      contains, begins with, ends with               texts
=====================  =============================================  =====================

Only the fields of `JOB_FIELDS`, `BUILD_FIELDS` and `PROJECT_FIELDS` can be used. Null does not match a date or a
comparison, negated or not. It matches the negation of every other condition.

The grammar is Polyaxon's, because its clients and its users' scripts send such queries. It is flat and small, so a
split at the separators reads it and no parser library is needed.
"""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peewee import SQL, Expression, Field, NodeList, Value, fn

from polyjob.db.models import Build, Job, Project, Upload, User
from polyjob.errors import Invalid, Problem
from polyjob.services.sorting import shorten

MAX_QUERY_LENGTH = 2_000
"""Characters of a query."""
MAX_QUERY_CONDITIONS = 50
"""Conditions of a query."""
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
    """The field does not accept the operand; the text gives the reason."""


Condition = Callable[[str], Any]
"""Translates an operand without its `~` to a peewee expression. Raises _InvalidOperand."""


@dataclass(frozen=True)
class QueryField:
    condition: Condition
    nullable: bool = False
    """True if a negated condition also matches rows that have null there."""
    column: Any = None


@dataclass(frozen=True)
class QueryCondition:
    """A condition of a query, such as `status:~running`."""

    name: str
    """The name of its field."""
    operand: str
    """The text after the colon, without the `~`."""
    is_negated: bool
    expression: Any


def parse_query(text: str | None, fields: Mapping[str, QueryField], subject: str) -> list[Any]:
    """Return the expressions of a query, to be joined by AND. Raises Invalid as `parse_conditions` does."""
    return [condition.expression for condition in parse_conditions(text, fields, subject)]


def parse_conditions(text: str | None, fields: Mapping[str, QueryField], subject: str) -> list[QueryCondition]:
    """Return the conditions of a query, all of which must hold.

    `subject` names the items in error messages, such as `job`. Raises Invalid with a problem at `/query` for every
    condition that is not valid.
    """
    if not text or not text.strip():
        return []
    if len(text) > MAX_QUERY_LENGTH:
        raise Invalid(
            [Problem("/query", f"A query has at most {MAX_QUERY_LENGTH} characters; this one has {len(text)}.")]
        )
    parts = text.split(",")
    if len(parts) > MAX_QUERY_CONDITIONS:
        raise Invalid(
            [Problem("/query", f"A query has at most {MAX_QUERY_CONDITIONS} conditions; this one has {len(parts)}.")]
        )
    conditions, problems = [], []
    for part in parts:
        try:
            conditions.append(_condition(part, fields, subject))
        except _InvalidOperand as error:
            problems.append(Problem("/query", str(error)))
    if problems:
        raise Invalid(problems)
    return conditions


def _condition(text: str, fields: Mapping[str, QueryField], subject: str) -> QueryCondition:
    name, colon, operand = (part.strip() for part in text.partition(":"))
    is_negated = operand.startswith("~")
    operand = operand.removeprefix("~").strip()
    if not (name and colon and operand):
        raise _InvalidOperand(
            f"`{shorten(text.strip())}` is not a condition; write `field:value`, such as `status:running`."
        )
    field = fields.get(name)
    if field is None:
        raise _InvalidOperand(_unknown_field(name, fields, subject))
    try:
        expression = field.condition(operand)
    except _InvalidOperand as error:
        raise _InvalidOperand(f"`{name}:{shorten(operand)}`: {error}.") from None
    if is_negated:
        expression = (~expression) | field.column.is_null() if field.nullable else ~expression
    return QueryCondition(name, operand, is_negated, expression)


def _unknown_field(name: str, fields: Iterable[str], subject: str) -> str:
    if name.split(".")[0] in ("metric", "params", "declarations"):
        return f"`{shorten(name)}`: a {subject} cannot be filtered by metrics or params."
    names = ", ".join(f"`{field}`" for field in fields)
    return f"Unknown {subject} field `{shorten(name)}`; use one of: {names}."


# Kinds of fields.


def read_values(operand: str) -> list[str]:
    """Return the values of `a|b|c`."""
    values = [value.strip() for value in operand.split("|")]
    if not all(values):
        raise _InvalidOperand("a value is missing before or after `|`")
    if len(values) > MAX_QUERY_VALUES:
        raise _InvalidOperand(f"{len(values)} values are given, but at most {MAX_QUERY_VALUES} are allowed")
    return values


def whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise _InvalidOperand(f"`{text}` is not a whole number") from None
    if abs(number) >= 1 << 63:
        raise _InvalidOperand(f"`{text}` is too large; the limit is {(1 << 63) - 1}")
    return number


def true_or_false(text: str) -> bool:
    """Return the meaning of `true`, `no` and similar words."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise _InvalidOperand(f"`{text}` is neither true nor false") from None


def _equal(column: Field, read: Callable[[str], Any] = str) -> QueryField:
    def condition(operand: str) -> Any:
        return column.in_([Value(read(value), converter=column.db_value) for value in read_values(operand)])

    return QueryField(condition, column.null, column)


def _is_set(column: Field) -> QueryField:
    return QueryField(lambda operand: column.is_null(not true_or_false(operand)))


def _number(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        if "|" in operand or ".." in operand:
            raise _InvalidOperand("a number takes neither `|` nor `..`; write one number, such as `0` or `>0`")
        compare, rest = comparison(operand)
        return compare(column, whole_number(rest))

    return QueryField(condition, column.null, column)


def _text(column: Field) -> QueryField:
    def match(value: str) -> Any:
        is_open_start, is_open_end = value.startswith("%"), value.endswith("%") and len(value) > 1
        text = value[is_open_start : len(value) - is_open_end]
        if not (is_open_start or is_open_end):
            return column == value
        if not text:
            raise _InvalidOperand("there is no text beside the `%`")
        pattern = f"{'%' if is_open_start else ''}{_escaped(text)}{'%' if is_open_end else ''}"
        return NodeList((column, SQL("LIKE"), Value(pattern), SQL("ESCAPE '\\'")), parens=True)

    def condition(operand: str) -> Any:
        values = read_values(operand)
        if not has_pattern(operand):
            return column.in_(values)
        alternatives = [Expression(match(value), "AND", SQL("1")) for value in values]
        return Expression(NodeList(alternatives, glue=" OR ", parens=True), "AND", SQL("1"))

    return QueryField(condition, column.null, column)


def has_pattern(operand: str) -> bool:
    """Return whether a value of a text begins or ends with `%`."""
    return any(value.startswith("%") or value.endswith("%") for value in read_values(operand))


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _tags(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        values = NodeList([Value(value) for value in read_values(operand)], glue=", ", parens=True)
        inner = NodeList((SQL("SELECT 1 FROM json_each("), column, SQL(") AS tag WHERE tag.value IN"), values))
        return Expression(fn.EXISTS(inner), "AND", SQL("1"))

    return QueryField(condition)


def _date(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        if "|" in operand:
            raise _InvalidOperand("a date does not take `|`; write a range, `a..b`")
        if ".." in operand:
            return _between(column, operand)
        compare, rest = comparison(operand)
        start, end = _interval(rest)
        if compare is operator.eq:
            return (column >= start) & (column < end)
        # Without a time of day, `>` and `<=` compare with the end of the day.
        return compare(column, end - _MICROSECOND if compare in (operator.gt, operator.le) else start)

    return QueryField(condition)


def _between(column: Field, operand: str) -> Any:
    ends = [end.strip() for end in operand.split("..")]
    if len(ends) != 2 or not all(ends):
        raise _InvalidOperand("a range has two ends; write `a..b`")
    return (column >= _interval(ends[0])[0]) & (column < _interval(ends[1])[1])


def comparison(operand: str) -> tuple[Callable[[Any, Any], Any], str]:
    """Return the comparison of an operand such as `>=3`, and the rest of the operand."""
    for sign, compare in _COMPARISONS:
        if operand.startswith(sign):
            return compare, operand.removeprefix(sign).strip()
    return operator.eq, operand


def _interval(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """Return (start, end) of a day, or of a date with a time. The end is exclusive. UTC, unless the text has a zone."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        moment = moment.astimezone(datetime.UTC)
        return moment, moment + (_DAY if _DATE.fullmatch(text) else _MICROSECOND)
    except (ValueError, OverflowError):
        raise _InvalidOperand(
            f"`{text}` is not a date; write `YYYY-MM-DD`, or add a time: `YYYY-MM-DD HH:MM`"
        ) from None


def _user(column: Field, read: str | None) -> QueryField:
    """Match a user by name or id. If `read` is None, digits are an id."""

    def condition(operand: str) -> Any:
        values = read_values(operand)
        if read == "id" or (read is None and all(value.isdecimal() for value in values)):
            return column.in_([whole_number(value) for value in values])
        return column.in_(User.select(User.id).where(User.username.in_(values)))

    return QueryField(condition)


def _project_name(column: Field) -> QueryField:
    return QueryField(
        lambda operand: column.in_(Project.select(Project.id).where(Project.name.in_(read_values(operand))))
    )


def _commit(column: Field) -> QueryField:
    def condition(operand: str) -> Any:
        return column.in_(Upload.select(Upload.id).where(Upload.digest.in_(read_values(operand))))

    return QueryField(condition, True, column)


def _run(column: Field, kind: str) -> QueryField:
    """Match a job or build by its id or unique name, such as `ana.demo.jobs.7`."""
    name = re.compile(rf"(?:[\w-]+\.[\w-]+\.{kind}\.)?([0-9]+)\Z")

    def read(text: str) -> int:
        match = name.match(text)
        return whole_number(match[1] if match else text)

    return _equal(column, read)


def stored_status(text: str) -> str:
    """Return the stored status. The pages call `created` queued."""
    return "created" if text == "queued" else text


def _common(table: type[Job] | type[Build]) -> dict[str, QueryField]:
    return {
        "id": _equal(table.id, whole_number),
        "name": _text(table.name),
        "description": _text(table.description),
        "status": _equal(table.status, stored_status),
        "created_at": _date(table.created_at),
        "updated_at": _date(table.updated_at),
        "started_at": _date(table.started_at),
        "finished_at": _date(table.finished_at),
        "tags": _tags(table.tags),
        "user": _user(table.user, None),
        "user.id": _user(table.user, "id"),
        "user.username": _user(table.user, "username"),
        "project": _equal(table.project, whole_number),
        "project.id": _equal(table.project, whole_number),
        "project.name": _project_name(table.project),
        "commit": _commit(table.code),
        "backend": _equal(table.runner),
        "is_managed": _equal(table.is_managed, true_or_false),
        "archived": _is_set(table.archived_at),
    }


JOB_FIELDS: Mapping[str, QueryField] = _common(Job) | {
    "build": _run(Job.build, "builds"),
    "build.id": _equal(Job.build, whole_number),
    "original": _run(Job.original, "jobs"),
    "cloning_strategy": _equal(Job.cloning_strategy),
    "exit_code": _number(Job.exit_code),
}
BUILD_FIELDS: Mapping[str, QueryField] = _common(Build)
PROJECT_FIELD_NAMES = ("project", "project.id", "project.name")
"""The fields of jobs and builds that only depend on their project."""
PROJECT_FIELDS: Mapping[str, QueryField] = {
    "id": _equal(Project.id, whole_number),
    "name": _text(Project.name),
    "description": _text(Project.description),
    "created_at": _date(Project.created_at),
    "updated_at": _date(Project.updated_at),
    "tags": _tags(Project.tags),
    "is_public": _equal(Project.is_public, true_or_false),
}
