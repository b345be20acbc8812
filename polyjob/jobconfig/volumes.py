"""The volumes that a config names for its job, in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATA_REFS, PERSISTENCE = "environment.data_refs", "environment.persistence.data"


def volume_list(config: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """Return (path, names) of the list of volumes in a valid config. A config has at most one such list."""
    environment = (config or {}).get("environment") or {}
    names = (environment.get("persistence") or {}).get("data")
    return (PERSISTENCE, names) if names else (DATA_REFS, environment.get("data_refs") or [])


def volume_names(config: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the volumes in a valid config."""
    return volume_list(config)[1]
