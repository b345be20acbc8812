"""Prepared SQL statements, for what runs in every request or in every pass of the engine.

peewee takes many times longer to compile a statement, and to find out how to convert its columns, than SQLite takes to
execute it. So both are done once for each of these statements. All other code uses peewee directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from peewee import AutoField, Field, ForeignKeyField, IntegerField, Model, ModelSelect, TextField

from polyjob.db.database import database

Row = TypeVar("Row", bound=Model)
Convert = Callable[[Any], Any]

_STORED_UNCHANGED = (AutoField, IntegerField, TextField)
"""Fields whose values SQLite stores and returns as they are. Subclasses convert them."""


class Prepared(Generic[Row]):
    """A SELECT of columns of one table. Call it with the parameters in their order in the statement.

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
    def _columns(self) -> tuple[type[Row], list[str], list[tuple[str, Convert]]]:
        """The table, the names of the selected fields, and how to convert some of them."""
        query = self._query()
        fields: list[Field] = query._returning  # type: ignore[attr-defined]
        to_convert = [
            (field.name, field.python_value)
            for field in fields
            if type(field) not in (*_STORED_UNCHANGED, ForeignKeyField)
        ]
        return query.model, [field.name for field in fields], to_convert

    def _row(self, values: Iterable[Any]) -> Row:
        """Return the row with these values, like one that peewee has loaded."""
        table, names, to_convert = self._columns
        data = dict(zip(names, values, strict=True))
        for name, convert in to_convert:
            data[name] = convert(data[name])
        row = table.__new__(table)
        row.__data__, row.__rel__, row._dirty = data, {}, set()  # type: ignore[attr-defined]
        return row


def insert(table: type[Row], values: Mapping[str, Any]) -> Row:
    """Insert a row and return it with its id. Columns that are not in `values` get the default of their field."""
    row = table(**values)
    fields = {name: value for name, value in row.__data__.items() if value is not None}
    cursor = database.execute_sql(_insert_statement(table, tuple(fields)), _stored_values(table, fields))
    row.__data__["id"] = cursor.lastrowid
    return row


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
