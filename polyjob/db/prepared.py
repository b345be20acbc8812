"""Prepared SQL statements, for what runs in every request or in every pass of the engine.

peewee takes many times longer to compile a statement, and to find out how to convert its columns, than SQLite takes to
execute it. So both are done once for each of these statements. All other code uses peewee directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from peewee import AutoField, Field, ForeignKeyField, IntegerField, Model, ModelSelect, TextField

from polyjob.db.database import database

Row = TypeVar("Row", bound=Model)
Convert = Callable[[Any], Any]

_STORED_UNCHANGED = (AutoField, IntegerField, TextField)
"""Fields whose values SQLite stores and returns as they are. Subclasses convert them."""


class Prepared(Generic[Row]):
    """A SELECT of columns of one table, and of one that it refers to. Call it with the parameters in their order.

    `query` returns the statement with any values; every value in it is a parameter. It is called once.
    """

    def __init__(self, query: Callable[[], ModelSelect[Row]]) -> None:
        self._query = query

    def __call__(self, *parameters: Any) -> list[Row]:
        sql, count = self._statement
        assert len(parameters) == count, f"expected {count} parameters: {sql}"
        return [self._row(values) for values in database.execute_sql(sql, parameters)]

    def first(self, *parameters: Any) -> Row | None:
        """Return the first row, or None."""
        return next(iter(self(*parameters)), None)

    @cached_property
    def _statement(self) -> tuple[str, int]:
        sql, parameters = self._query().sql()
        return sql, len(parameters)

    @cached_property
    def _tables(self) -> tuple[_Columns, _Columns | None, str]:
        """The columns of the table, those of the joined table, and the name of the reference to it."""
        query = self._query()
        table: type[Row] = query.model
        fields: list[Field] = query._returning  # type: ignore[attr-defined]
        joined = [field for field in fields if field.model is not table]
        if not joined:
            return _Columns(table, fields), None, ""
        (reference,) = (field.name for field, model in table._meta.refs.items() if model is joined[0].model)
        own = [field for field in fields if field.model is table]
        return _Columns(table, own), _Columns(joined[0].model, joined), reference

    def _row(self, values: Sequence[Any]) -> Row:
        """Return the row with these values, like one that peewee has loaded."""
        columns, joined, reference = self._tables
        if joined is None:
            return columns.row(values)
        count = len(columns.names)
        row = columns.row(values[:count])
        row.__rel__[reference] = joined.row(values[count:])
        return row


class _Columns:
    """The selected columns of a table, and the conversion of some of them."""

    def __init__(self, table: type[Model], fields: Sequence[Field]) -> None:
        self.table = table
        self.names = [field.name for field in fields]
        self._to_convert = [
            (field.name, field.python_value)
            for field in fields
            if type(field) not in (*_STORED_UNCHANGED, ForeignKeyField)
        ]

    def row(self, values: Iterable[Any]) -> Any:
        data = dict(zip(self.names, values, strict=True))
        for name, convert in self._to_convert:
            data[name] = convert(data[name])
        return _make_row(self.table, data, {})


def _make_row(table: type[Row], data: dict[str, Any], related: dict[str, Model]) -> Row:
    row = table.__new__(table)
    row.__data__, row.__rel__, row._dirty = data, related, set()  # type: ignore[attr-defined]
    return row


def insert(table: type[Row], values: Mapping[str, Any]) -> Row:
    """Insert a row and return it with its id. Columns that are not in `values` get the default of their field."""
    data, related = {**_defaults(table), **values}, {}
    for name in _references(table):
        if name in data and isinstance(data[name], Model):
            related[name] = data[name]
            data[name] = data[name].get_id()
    fields = {name: value for name, value in data.items() if value is not None}
    converters = _converters_without_references(table)
    stored = [converters[name](value) if name in converters else value for name, value in fields.items()]
    cursor = database.execute_sql(_insert_statement(table, tuple(fields)), stored)
    data["id"] = cursor.lastrowid
    return _make_row(table, data, related)


@cache
def _defaults(table: type[Model]) -> dict[str, Any]:
    return {name: field.default for name, field in table._meta.fields.items() if field.default is not None}


@cache
def _references(table: type[Model]) -> tuple[str, ...]:
    """Return the names of the columns that refer to other tables by id."""
    return tuple(field.name for field in table._meta.refs)


def update(table: type[Model], row_id: int, values: Mapping[str, Any], increment: str = "", **expected: Any) -> bool:
    """Update the row with this id if its columns have the `expected` values. Return whether the row was updated.

    `increment` names a column to be incremented by one.
    """
    sql = _update_statement(table, tuple(values), increment, tuple(expected))
    parameters = [*_stored_values(table, values), row_id, *_stored_values(table, expected)]
    return bool(database.execute_sql(sql, parameters).rowcount == 1)


@cache
def _insert_statement(table: type[Model], names: tuple[str, ...]) -> str:
    columns = ", ".join(f'"{_column(table, name)}"' for name in names)
    placeholders = ", ".join("?" * len(names))
    return f'INSERT INTO "{table._meta.table_name}" ({columns}) VALUES ({placeholders})'


@cache
def _update_statement(table: type[Model], names: tuple[str, ...], increment: str, expected: tuple[str, ...]) -> str:
    changes = [f'"{_column(table, name)}" = ?' for name in names]
    changes += [f'"{increment}" = "{increment}" + 1'] if increment else []
    conditions = ['"id" = ?', *(f'"{_column(table, name)}" = ?' for name in expected)]
    return f'UPDATE "{table._meta.table_name}" SET {", ".join(changes)} WHERE {" AND ".join(conditions)}'


def _column(table: type[Model], name: str) -> str:
    return str(table._meta.fields[name].column_name)


def _stored_values(table: type[Model], values: Mapping[str, Any]) -> list[Any]:
    converters = _converters(table)
    return [converters[name](value) if name in converters else value for name, value in values.items()]


@cache
def _converters(table: type[Model]) -> dict[str, Convert]:
    """Return the conversions to stored values, by names of fields."""
    return {
        name: field.db_value
        for name, field in table._meta.fields.items()
        if not isinstance(field, _STORED_UNCHANGED) or type(field).db_value is not Field.db_value
    }


@cache
def _converters_without_references(table: type[Model]) -> dict[str, Convert]:
    return {name: convert for name, convert in _converters(table).items() if name not in _references(table)}
