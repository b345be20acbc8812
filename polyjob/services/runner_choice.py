"""Choose the runner of a job or build, by the `backend` that a request names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyjob.db.models import Job
from polyjob.errors import Invalid, Problem
from polyjob.settings import Settings
from runners.registry import runner_names


def choose_runner(settings: Settings, attributes: Mapping[str, Any], *, default: str | None = None) -> str:
    """Return the runner for a request with these attributes. Its `backend` wins over that of its `config`.

    A name that no installed runner has, such as `native` of old clients, chooses nothing, and neither does null. Then
    the result is `default`, or else the server's default runner. Raises Invalid for a runner that this server does not
    list.
    """
    for pointer, names in (("/backend", attributes), ("/config/backend", attributes.get("config") or {})):
        name = names.get("backend")
        if name in settings.runner_names:
            return str(name)
        if name is not None and name in runner_names():
            detail = f"This server does not use the {name} runner; it has: {', '.join(settings.runner_names)}."
            raise Invalid([Problem(pointer, detail)])
    return default or settings.runner


def runner_of_clone(settings: Settings, source: Job, config: Mapping[str, Any], *, is_changed: bool) -> str:
    """Return the runner of a clone of `source` with this config. `is_changed` means that the request sets `backend`.

    Otherwise the clone stays on the runner of its source, as long as this server lists it. Raises Invalid like
    `choose_runner`.
    """
    if not is_changed and source.runner in settings.runner_names:
        return str(source.runner)
    return choose_runner(settings, {"config": config})
