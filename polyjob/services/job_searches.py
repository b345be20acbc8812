"""Find jobs by an index: one way for each kind of condition of a query. A test tries all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polyjob.services.filters import QueryCondition, comparison, read_values, stored_status, true_or_false, whole_number
from polyjob.statuses import Status


@dataclass(frozen=True)
class Search:
    """A way to find the jobs that meet a condition, by an index."""

    index: str | None
    """None: the primary key."""
    guard: str = ""
    """A condition of the index that the condition implies. SQLite needs it in the statement to use the index."""
    by: str = ""
    """`status`, `user_id` or `tag`: the jobs with one value of it are in order in the indexes `in_order`."""
    values: tuple[tuple[str, Any], ...] = ()
    """The values of `by` that meet the condition: expressions with one parameter, and the parameters."""
    in_order: Mapping[str, str] = field(default_factory=dict)
    """The index that has the jobs in the order of a column, by the column."""
    has_archived: bool = False
    """True if the index also has archived jobs."""


def search_of(condition: QueryCondition) -> Search | None:
    """Return how to find the jobs that meet a valid condition.

    None means that they can only be found by looking at each job. That is so for negations, because most jobs meet
    them. Only a negated status can be searched.
    """
    if condition.is_negated and condition.name != "status":
        return None
    find = _SEARCHES.get(condition.name)
    return find(condition) if find else None


def _of_index(index: str | None, guard: str = "", has_archived: bool = False) -> Callable[[QueryCondition], Search]:
    return lambda condition: Search(index, guard, has_archived=has_archived)


def _of_order(column: str) -> Callable[[QueryCondition], Search]:
    index = f"job_{column.removesuffix('_at')}"
    return lambda condition: Search(index, in_order={column: index})


def _in_orders(prefix: str) -> dict[str, str]:
    return {"created_at": f"{prefix}_created", "updated_at": f"{prefix}_updated"}


def _status(condition: QueryCondition) -> Search:
    statuses = list(dict.fromkeys(map(stored_status, read_values(condition.operand))))
    if condition.is_negated:
        statuses = [status for status in Status if status not in statuses] or [""]  # a search needs a value
    values = tuple(("?", str(status)) for status in statuses)
    return Search("job_by_status_updated", by="status", values=values, in_order=_in_orders("job_by_status"))


def _user(condition: QueryCondition) -> Search:
    names = dict.fromkeys(read_values(condition.operand))
    are_ids = condition.name == "user.id" or (condition.name == "user" and all(name.isdecimal() for name in names))
    by_name = "(SELECT id FROM user WHERE username = ?)"
    values = dict.fromkeys(("?", whole_number(name)) if are_ids else (by_name, name) for name in names)
    return Search("job_by_user_updated", by="user_id", values=tuple(values), in_order=_in_orders("job_by_user"))


def _tags(condition: QueryCondition) -> Search:
    values = tuple(("?", tag) for tag in dict.fromkeys(read_values(condition.operand)))
    return Search("job_tag_updated", by="tag", values=values, in_order=_in_orders("job_tag"))


def _name(condition: QueryCondition) -> Search:
    return Search("job_name", "name IS NOT NULL", has_archived=True)


def _exit_code(condition: QueryCondition) -> Search | None:
    compare, number = comparison(condition.operand)
    includes_zero = compare(0, whole_number(number))
    return None if includes_zero else Search("job_by_exit_code", "exit_code <> 0")


def _is_managed(condition: QueryCondition) -> Search | None:
    values = {true_or_false(value) for value in read_values(condition.operand)}
    return Search("job_unmanaged", "is_managed = 0") if values == {False} else None


_SEARCHES: Mapping[str, Callable[[QueryCondition], Search | None]] = {
    "id": _of_index(None, has_archived=True),
    "name": _name,
    "description": _of_index("job_described", "description IS NOT NULL"),
    "status": _status,
    "created_at": _of_order("created_at"),
    "updated_at": _of_order("updated_at"),
    "started_at": _of_order("started_at"),
    "finished_at": _of_order("finished_at"),
    "tags": _tags,
    "user": _user,
    "user.id": _user,
    "user.username": _user,
    "commit": _of_index("job_code", "code_id IS NOT NULL", has_archived=True),
    "backend": _of_index("job_by_runner"),
    "is_managed": _is_managed,
    "build": _of_index("job_build", "build_id IS NOT NULL", has_archived=True),
    "build.id": _of_index("job_build", "build_id IS NOT NULL", has_archived=True),
    "original": _of_index("job_original", "original_id IS NOT NULL", has_archived=True),
    "cloning_strategy": _of_index("job_by_cloning_strategy", "cloning_strategy IS NOT NULL"),
    "exit_code": _exit_code,
}

BOOKMARKED = "t1.id IN (SELECT target_id FROM bookmark WHERE user_id = ? AND kind = 'job' AND is_set = 1)"
BY_BOOKMARK = Search(None, has_archived=True)
