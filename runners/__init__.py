"""The runners: one for each backend that can run jobs. Nothing here imports polyjob's database, API or engine.

`load` imports the module of a runner, and with it the SDK of its backend, only when that runner is requested by name.
So a server that uses neither Docker nor Kubernetes needs neither package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runners.base import Runner, RunnerSettings

RUNNERS = {
    "process": "runners.process.runner:ProcessRunner",
    "docker": "runners.docker.runner:DockerRunner",
    "kubernetes": "runners.kubernetes.runner:KubernetesRunner",
    "fake": "runners.fake:FakeRunner",
}
"""Name of each runner, as in settings and on job rows → its class, as `module:class`."""


def load(name: str, settings: RunnerSettings, wake: Callable[[], None]) -> Runner:
    """Create the runner called `name`; `settings` and `wake` are passed to it.

    Raises KeyError for a name that is not in RUNNERS, and ImportError if the SDK of its backend is not installed.
    """
    module_name, _, class_name = RUNNERS[name].partition(":")
    runner_class: type[Runner] = getattr(importlib.import_module(module_name), class_name)
    return runner_class(settings, wake)
