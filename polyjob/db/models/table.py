"""The base of all models, and the type of their statuses."""

from __future__ import annotations

from peewee import Model, TextField

from polyjob.db.database import database
from polyjob.statuses import Status


class StatusField(TextField):
    def python_value(self, value: str | None) -> Status | None:
        return None if value is None else Status(value)


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False
