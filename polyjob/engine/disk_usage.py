"""What builds hold on the disk, as the engine measures it now and then, for the page of the server's status."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyjob.clock import now
from polyjob.db.models import Build
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")

REPORT = "held.json"


def measure(runners: Mapping[str, Runner]) -> dict[str, Any]:
    """`at`, `total` and `builds`: id → bytes, of what several builds share the newest one's. Asks every runner, and
    may take long. One that cannot be asked is left out."""
    total, sizes = 0, {}
    for name, runner in runners.items():
        try:
            held = runner.cached_artifacts()
        except RunnerError as error:
            log.warning("what builds hold on the %s runner cannot be told: %s", name, error)
            continue
        total += sum(held.values())
        made = Build.select(Build.id, Build.artifact).where(Build.runner == name, Build.artifact.is_null(False))
        for build in made.order_by(Build.id.desc()):
            size = held.pop(runner.artifact_name(str(build.artifact)) or "", None)
            if size is not None:
                sizes[build.id] = size
    return {"at": now().isoformat(), "total": total, "builds": sizes}


def write_report(data_dir: Path, runners: Mapping[str, Runner]) -> None:
    """`<data>/cached_artifacts.json`. Raises OSError."""
    part = data_dir / f"{REPORT}.part"
    part.write_text(json.dumps(measure(runners)))
    part.rename(data_dir / REPORT)
