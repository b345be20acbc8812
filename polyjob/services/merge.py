"""Merge lists, such as tags, up to a limit."""

from __future__ import annotations

from collections.abc import Iterable

from polyjob.errors import Invalid, Problem

MAX_MERGED_ITEMS = 1_000
"""Items of one list of a job, build or project after a merge."""


def merge_lists(name: str, existing: Iterable[str] | None, added: Iterable[str] | None) -> list[str] | None:
    """Return both lists as one, without duplicates and in the order first seen, or None if it is empty.

    Raises Invalid for the field `name` if the result has more than `MAX_MERGED_ITEMS` items.
    """
    merged = list(dict.fromkeys([*(existing or ()), *(added or ())]))
    if len(merged) > MAX_MERGED_ITEMS:
        detail = f"Would have {len(merged)} items after the merge; at most {MAX_MERGED_ITEMS} are allowed."
        raise Invalid([Problem(f"/{name}", detail)])
    return merged or None
