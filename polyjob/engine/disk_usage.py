"""What builds hold on the disk, as the engine measures it now and then, for the page of the server's status."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from polyjob.clock import now
from polyjob.db.models import Build
from polyjob.engine_link import DiskUsage
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")


def measure(runners: Mapping[str, Runner]) -> DiskUsage:
    """Measure the disk usage of the builds of every runner. May take long. Leaves out a runner that does not answer."""
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
    return DiskUsage(now(), total, sizes)
