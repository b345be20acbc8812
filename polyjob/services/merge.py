"""Unite what a request adds to a list with what is there, within a bound."""

from __future__ import annotations

from collections.abc import Iterable

from polyjob.errors import Invalid, Problem

MAX_MERGED_ITEMS = 1_000
"""Items of a list of a job, build or project (tags, data_refs), however many requests made it."""


def merge_lists(name: str, before: Iterable[str] | None, added: Iterable[str] | None) -> list[str] | None:
    """Return both lists as one, without repetition, in the order first seen; None where nothing is in it.

    Raises Invalid that points to the field `name` where the result has more than `MAX_MERGED_ITEMS` items.
    """
    merged = list(dict.fromkeys([*(before or ()), *(added or ())]))
    if len(merged) > MAX_MERGED_ITEMS:
        detail = f"Merged with what is there, it has {len(merged)} items; at most {MAX_MERGED_ITEMS} are allowed."
        raise Invalid([Problem(f"/{name}", detail)])
    return merged or None
