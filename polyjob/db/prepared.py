"""Prepared SQL statements, for what runs in every request or in every pass of the engine.

peewee takes many times longer to compile a statement than SQLite takes to execute it. So these statements are compiled
once. All other code uses peewee directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from peewee import Model, ModelSelect

from polyjob.db.database import database

Row = TypeVar("Row", bound=Model)


class Prepared(Generic[Row]):
    """A SELECT from one table. Call it with the parameters in their order in the statement.

    `query` returns the statement with any values; every value in it is a parameter. It is called once.
    """

    def __init__(self, query: Callable[[], ModelSelect[Row]]) -> None:
        self._query = query

    def __call__(self, *parameters: Any) -> list[Row]:
        table, sql, count = self._statement
        assert len(parameters) == count, f"expected {count} parameters: {sql}"
        return list(table.raw(sql, *parameters))

    def first(self, *parameters: Any) -> Row | None:
        """Return the first row, or None."""
        return next(iter(self(*parameters)), None)

    @cached_property
    def _statement(self) -> tuple[type[Row], str, int]:
        query = self._query()
        sql, parameters = query.sql()
        return query.model, sql, len(parameters)


def insert(table: type[Row], values: Mapping[str, Any]) -> Row:
    """Insert a row and return it with its id. Columns that are not in `values` get the default of their field."""
    row = table(**values)
    fields = {name: value for name, value in row.__data__.items() if value is not None}
    names = ", ".join(f'"{_column(table, name)}"' for name in fields)
    placeholders = ", ".join("?" * len(fields))
    sql = f'INSERT INTO "{table._meta.table_name}" ({names}) VALUES ({placeholders})'
    cursor = database.execute_sql(sql, [_value(table, name, value) for name, value in fields.items()])
    row.__data__["id"] = cursor.lastrowid
    return row


def update(table: type[Model], row_id: int, values: Mapping[str, Any], increment: str = "", **expected: Any) -> bool:
    """Update the row with this id if its columns have the `expected` values. Return whether the row was updated.

    `increment` names a column to be incremented by one.
    """
    changes = [f'"{_column(table, name)}" = ?' for name in values]
    changes += [f'"{increment}" = "{increment}" + 1'] if increment else []
    conditions = ['"id" = ?', *(f'"{_column(table, name)}" = ?' for name in expected)]
    sql = f'UPDATE "{table._meta.table_name}" SET {", ".join(changes)} WHERE {" AND ".join(conditions)}'
    parameters = [_value(table, name, value) for name, value in values.items()]
    parameters += [row_id, *(_value(table, name, value) for name, value in expected.items())]
    return bool(database.execute_sql(sql, parameters).rowcount == 1)


def _column(table: type[Model], name: str) -> str:
    return str(table._meta.fields[name].column_name)


def _value(table: type[Model], name: str, value: Any) -> Any:
    return table._meta.fields[name].db_value(value)
