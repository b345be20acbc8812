"""SQL that is made once: peewee takes many times longer to write a statement than SQLite to answer it.

For what runs in every request or every pass of the engine. Everything else uses peewee as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from peewee import Model, ModelSelect

from polyjob.db.database import database

Row = TypeVar("Row", bound=Model)


class Prepared(Generic[Row]):
    """A SELECT of whole rows, or of some columns of one table, called with its parameters in their order.

    `query` is made once, with any values for the parameters; every value in it is a parameter.
    """

    def __init__(self, query: Callable[[], ModelSelect[Row]]) -> None:
        self._query = query

    def __call__(self, *parameters: Any) -> list[Row]:
        table, sql, count = self._made
        assert len(parameters) == count, f"{count} parameters are wanted: {sql}"
        return list(table.raw(sql, *parameters))

    def first(self, *parameters: Any) -> Row | None:
        return next(iter(self(*parameters)), None)

    @cached_property
    def _made(self) -> tuple[type[Row], str, int]:
        query = self._query()
        sql, parameters = query.sql()
        return query.model, sql, len(parameters)


def insert(table: type[Row], values: Mapping[str, Any]) -> Row:
    """Insert a row and return it, its id set. Columns that are not given have the default of their field."""
    row = table(**values)
    fields = {name: value for name, value in row.__data__.items() if value is not None}
    names = ", ".join(f'"{_column(table, name)}"' for name in fields)
    marks = ", ".join("?" * len(fields))
    sql = f'INSERT INTO "{table._meta.table_name}" ({names}) VALUES ({marks})'
    cursor = database.execute_sql(sql, [_value(table, name, value) for name, value in fields.items()])
    row.__data__["id"] = cursor.lastrowid
    return row


def update(table: type[Model], number: int, values: Mapping[str, Any], raised: str = "", **expected: Any) -> bool:
    """Write columns of the row with the id `number`, provided that the `expected` columns hold what is said; whether
    they did. `raised` names a column to be raised by one."""
    changes = [f'"{_column(table, name)}" = ?' for name in values]
    changes += [f'"{raised}" = "{raised}" + 1'] if raised else []
    conditions = ['"id" = ?', *(f'"{_column(table, name)}" = ?' for name in expected)]
    sql = f'UPDATE "{table._meta.table_name}" SET {", ".join(changes)} WHERE {" AND ".join(conditions)}'
    parameters = [_value(table, name, value) for name, value in values.items()]
    parameters += [number, *(_value(table, name, value) for name, value in expected.items())]
    return bool(database.execute_sql(sql, parameters).rowcount == 1)


def _column(table: type[Model], name: str) -> str:
    return str(table._meta.fields[name].column_name)


def _value(table: type[Model], name: str, value: Any) -> Any:
    return table._meta.fields[name].db_value(value)
