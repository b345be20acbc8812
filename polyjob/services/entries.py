"""Limits of the fields `params` and `data_refs` of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from polyjob.errors import Invalid, Problem

MAX_ENTRIES = 1000
"""Keys of one field of a job."""
MAX_ENTRIES_BYTES = 100_000
"""Bytes of one field of a job, as JSON."""


def check_size(name: str, entries: Mapping[str, Any] | None) -> None:
    """Raise Invalid if the entries exceed the limits of the field `name`."""
    size = len(json.dumps(entries, ensure_ascii=False).encode()) if entries else 0
    if entries and len(entries) > MAX_ENTRIES:
        raise Invalid([Problem(f"/{name}", f"Would have {len(entries)} entries; at most {MAX_ENTRIES} are allowed.")])
    if size > MAX_ENTRIES_BYTES:
        raise Invalid([Problem(f"/{name}", f"Would have {size} bytes; at most {MAX_ENTRIES_BYTES} are allowed.")])
