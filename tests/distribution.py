"""Distribution of the tests over the workers of pytest-xdist.

One worker runs all tests of a unit, so what the unit shares, such as a server or a browser, is made once. The slow
units come first: one that came last would run alone.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

MAX_WORKERS = 12
SLOW = (
    "tests/browser/",
    "tests/e2e/test_image.py",
    "tests/runners/docker/test_builds.py",
    "tests/cli/",
    "tests/crash/",
    "tests/e2e/",
    "tests/docs/",
    "tests/runners/",
    "tests/api/test_schemathesis.py",
    "tests/server/",
    "tests/simulators/",
)
"""Folders and files with slow tests, those first that take longest on one worker."""
UNDIVIDED = ("tests/browser/", "tests/cli/", "tests/e2e/test_image.py")
"""Folders and files whose tests share a server or an image. Each is one unit."""
DIVIDED = (
    "tests/api/test_schemathesis.py",
    "tests/crash/test_crash_points.py",
    "tests/crash/test_soak.py",
    "tests/e2e/test_published_clients.py",
)
"""Files whose tests share nothing and take long. Each test is a unit."""
RUNNER = re.compile(r"\[(docker|fake|kubernetes|podman|process)\b")


def unit_of(nodeid: str) -> str:
    """Return the name of a test's unit: its file, and its runner if the file runs its tests with each runner."""
    for folder in UNDIVIDED:
        if nodeid.startswith(folder):
            return folder
    if nodeid.startswith(DIVIDED):
        return nodeid
    path, runner = nodeid.partition("::")[0], RUNNER.search(nodeid)
    return f"{path}[{runner[1]}]" if runner else path


def rank_of(nodeid: str) -> int:
    """Return the place of a test's unit in `SLOW`. Tests are sorted by this."""
    return next((rank for rank, prefix in enumerate(SLOW) if nodeid.startswith(prefix)), len(SLOW))


def worker_count() -> int:
    """Return the number of workers: more than cores, because many tests wait. Each one collects all tests."""
    return min(2 * len(os.sched_getaffinity(0)), MAX_WORKERS)


class UnitScheduling(LoadScopeScheduling):
    """Gives the next unit to a worker that has nearly finished its last one."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # xdist would begin with the units that have most tests

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def import_own_share(config: pytest.Config) -> None:
    """Import the modules of tests that this worker has to compile.

    All workers begin at the same time and import all modules. In the first run after a change, each would compile each
    module: rewriting the assertions takes longer than the collection. So each worker first compiles its share for all.
    """
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    tests = Path(__file__).parent
    paths = sorted(tests.glob("*/**/test_*.py"))
    for path in paths[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        name = ".".join(path.relative_to(tests.parent).with_suffix("").parts)
        with contextlib.suppress(Exception):  # the collection reports it
            importlib.import_module(name)
