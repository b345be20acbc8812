"""Measure the disk space of build artifacts from time to time, for the status page."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from polyjob.clock import now
from polyjob.db.models import Build
from polyjob.engine_link import DiskUsage
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")


def measure(runners: Mapping[str, Runner]) -> DiskUsage:
    """Measure the build artifacts of every runner. An artifact that several builds share counts for the newest one.

    May take long. Leaves out a runner that does not answer.
    """
    total, build_sizes = 0, {}
    for runner_name, runner in runners.items():
        try:
            artifact_sizes = runner.cached_artifacts()
        except RunnerError as error:
            log.warning("the artifacts on the %s runner could not be measured: %s", runner_name, error)
            continue
        total += sum(artifact_sizes.values())
        with_artifact = Build.select(Build.id, Build.artifact).where(
            Build.runner == runner_name, Build.artifact.is_null(False)
        )
        for build in with_artifact.order_by(Build.id.desc()):
            size = artifact_sizes.pop(runner.artifact_name(str(build.artifact)) or "", None)
            if size is not None:
                build_sizes[build.id] = size
    return DiskUsage(now(), total, build_sizes)
