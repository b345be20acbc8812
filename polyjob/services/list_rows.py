"""The items of lists as JSON, each page by one SELECT: no models, no schemas, and no large columns such as configs.

`JobRowSchema` and `BuildRowSchema` define the members of an item. A test holds both equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polyjob.clock import from_microseconds
from polyjob.db.database import database
from polyjob.formatting import describe_exit

Item = dict[str, Any]
Reader = Callable[[Sequence[int], int], list[Item]]
"""Returns the items with these ids in this order, as the user with this id sees them. Missing ones are left out."""

_PROJECT = "owner.username || '.' || project.name"
_COMMON = {
    "id": "run.id",
    "uuid": "run.uuid",
    "name": "run.name",
    "unique_name": f"{_PROJECT} || '.{{kind}}s.' || run.id",
    "pod_id": "'plx-{kind}-' || run.uuid",
    "user": "user.username",
    "description": "run.description",
    "created_at": "run.created_at",
    "updated_at": "run.updated_at",
    "started_at": "run.started_at",
    "finished_at": "run.finished_at",
    "last_status": "run.status",
    "tags": "run.tags",
    "project": _PROJECT,
    "backend": "run.runner",
    "is_managed": "run.is_managed",
    "bookmarked": "bookmark.id IS NOT NULL",
    "node_scheduled": "run.node",
}
_JOB = _COMMON | {
    "build_job": f"{_PROJECT} || '.builds.' || run.build_id",
    "original": f"{_PROJECT} || '.jobs.' || run.original_id",
    "cloning_strategy": "run.cloning_strategy",
    "is_clone": "run.original_id IS NOT NULL",
    "in_cluster": "run.is_managed",
    "exit_code": "run.exit_code",
    "ttl": "run.ttl",
    "command": "run.command",
    "reason": (
        "CASE WHEN run.status IN ('failed', 'stopped', 'upstream_failed', 'skipped')"
        " THEN json_array(run.status, json(run.exit), run.stop_kind) END"
    ),
}
_BUILD = _COMMON | {"invalidated": "run.invalidated_at IS NOT NULL"}
_FROM = (
    "FROM {kind} run JOIN user ON user.id = run.user_id JOIN project ON project.id = run.project_id"
    " JOIN user owner ON owner.id = project.user_id LEFT JOIN bookmark ON bookmark.user_id = ?"
    " AND bookmark.kind = '{kind}' AND bookmark.target_id = run.id AND bookmark.is_set = 1"
    " WHERE run.id IN (SELECT value FROM json_each(?))"
)


def _instant(microseconds: int) -> str:
    return from_microseconds(microseconds).isoformat(timespec="microseconds")


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "created_at": _instant,
    "updated_at": _instant,
    "started_at": _instant,
    "finished_at": _instant,
    "tags": json.loads,
    "is_managed": bool,
    "bookmarked": bool,
    "is_clone": bool,
    "in_cluster": bool,
    "reason": lambda text: describe_exit(*json.loads(text)),
    "invalidated": bool,
}
"""Conversions of values that are not null; SQLite has neither booleans nor times."""


def _reader(kind: str, columns: Mapping[str, str]) -> Reader:
    members = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    sql = f"SELECT {members} {_FROM}".replace("{kind}", kind)
    names = tuple(columns)
    conversions = [(name, convert) for name, convert in _CONVERSIONS.items() if name in columns]

    def read(ids: Sequence[int], user_id: int) -> list[Item]:
        items = {}
        for row in database.execute_sql(sql, (user_id, json.dumps(ids))) if ids else ():
            item = dict(zip(names, row, strict=True))
            for name, convert in conversions:
                if item[name] is not None:
                    item[name] = convert(item[name])
            items[item["id"]] = item
        return [items[item_id] for item_id in ids if item_id in items]

    return read


job_items: Reader = _reader("job", _JOB)
build_items: Reader = _reader("build", _BUILD)
