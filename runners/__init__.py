"""The back ends that run jobs. Nothing here knows of polyjob's database, API or engine.

`load` is the only door: a runner's module, and with it the SDK of its back end, is imported when that runner is asked
for by name and not before, so a server without Docker or Kubernetes needs neither package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from runners.base import Runner, RunnerSettings

RUNNERS = {
    "process": "runners.process.runner:ProcessRunner",
    "docker": "runners.docker.runner:DockerRunner",
    "kubernetes": "runners.kubernetes.runner:KubernetesRunner",
    "fake": "runners.fake:FakeRunner",
}
"""Every built-in runner: the name used in settings and on job rows, and where its class is."""


def load(name: str, settings: RunnerSettings, wake: Callable[[], None]) -> Runner:
    """Make the runner called `name`. `wake` is passed on, see `Runner`.

    Raises KeyError for a name that is not in RUNNERS, ImportError when the SDK of its back end is not installed.
    """
    module, _, attribute = RUNNERS[name].partition(":")
    runner_class: type[Runner] = getattr(importlib.import_module(module), attribute)
    return runner_class(settings, wake)
