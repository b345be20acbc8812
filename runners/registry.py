"""The runners that are installed: those of polyjob, and those that other packages provide as entry points.

Nothing is imported and no package is read until a runner is requested by name. So a server that uses neither
Docker nor Kubernetes needs neither package, and commands start fast.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runners.capabilities import (
    BASIC,
    BUILD_RESULTS,
    CAPABILITIES,
    CLAIM_RUNNERS,
    GPU_ASSIGNING_RUNNERS,
    LOCAL_RUNNERS,
    REQUIRED_PARTS,
    Support,
    SupportLevel,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from runners.base import Runner, RunnerSettings

RUNNERS = {
    "process": "runners.process.runner:ProcessRunner",
    "docker": "runners.docker.runner:DockerRunner",
    "kubernetes": "runners.kubernetes.runner:KubernetesRunner",
    "fake": "runners.fake:FakeRunner",
}
"""Name of each runner of polyjob, as in settings and on job rows → its class, as `module:class`."""

ENTRY_POINT_GROUP = "polyjob.runners"
"""Group of the entry points of other packages: the name is that of the runner, the value its class."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


class UnusableRunner(Exception):
    """A runner of another package cannot be used. The text names both, without a full stop."""


@dataclass(frozen=True)
class RunnerFacts:
    """Facts about a runner that hold without its backend."""

    support: Mapping[str, Support]
    """Path of a part of a config → support. polyjob itself honours every part that is not listed."""
    required_parts: Mapping[str, str]
    """Path of a part that every config for it must have → the reason."""
    is_local: bool
    """Whether its jobs are processes of this machine that write into their folder."""
    assigns_gpus: bool
    """Whether the backend itself assigns GPUs to the jobs that ask for them."""
    uses_claims: bool
    """Whether its volumes are persistent volume claims, and not folders."""
    build_result: str | None
    """Product of its builds, for messages; None if that depends on the settings."""

    @functools.cached_property
    def unsupported(self) -> Sequence[tuple[str, str, Support]]:
        """The parts that the runner does not honour: the first key of the path, the path and the support of each."""
        parts = ((path.partition(".")[0], path, support) for path, support in self.support.items())
        return [part for part in parts if part[2].level is not SupportLevel.HONOURED]


_EMPTY_FACTS = RunnerFacts(
    support={}, required_parts={}, is_local=False, assigns_gpus=False, uses_claims=False, build_result=None
)


def runner_names() -> list[str]:
    """Return the names of all installed runners. Imports none of them."""
    return [*RUNNERS, *(name for name in _entry_points() if name not in RUNNERS)]


def check_entry_points() -> None:
    """Raise UnusableRunner if a runner of another package has an invalid name, or one that is taken.

    Imports no runner.
    """
    for name, entry_points in _entry_points().items():
        provider = _provider(entry_points[0])
        if not _NAME.fullmatch(name):
            raise UnusableRunner(
                f"{provider} names its runner {name!r}, which is not valid: use small letters, digits and hyphens"
            )
        if name in RUNNERS:
            raise UnusableRunner(f"{provider} names its runner `{name}`, which is a runner of polyjob; uninstall it")
        if len(entry_points) > 1:
            others = " and ".join(_provider(entry_point) for entry_point in entry_points)
            raise UnusableRunner(f"{others} both provide a runner named `{name}`; uninstall one of them")


def runner_class(name: str) -> type[Runner]:
    """Import the class of a runner.

    Raises ImportError if the SDK of a runner of polyjob is not installed, and UnusableRunner if no installed runner has
    this name, or if the entry point of another package is not a runner.
    """
    if name in RUNNERS:
        module_name, _, class_name = RUNNERS[name].partition(":")
        loaded: type[Runner] = getattr(importlib.import_module(module_name), class_name)
        return loaded
    if name not in _entry_points():
        raise UnusableRunner(f"there is no runner `{name}`: the package that provides it is not installed")
    return _foreign_class(_entry_points()[name][0])


def load(name: str, settings: RunnerSettings, wake: Callable[[], None]) -> Runner:
    """Create the runner called `name`; `settings` and `wake` are passed to it. Raises what `runner_class` raises."""
    return runner_class(name)(settings, wake)


def runner_facts(name: str) -> RunnerFacts:
    """Return the facts about a runner. Those of a runner that is not installed or cannot be imported are empty."""
    return _own_facts(name) if name in RUNNERS else _foreign_facts(name)


@functools.cache
def _own_facts(name: str) -> RunnerFacts:
    return RunnerFacts(
        support=CAPABILITIES[name],
        required_parts=REQUIRED_PARTS.get(name, {}),
        is_local=name in LOCAL_RUNNERS,
        assigns_gpus=name in GPU_ASSIGNING_RUNNERS,
        uses_claims=name in CLAIM_RUNNERS,
        build_result=BUILD_RESULTS.get(name),
    )


@functools.cache
def _foreign_facts(name: str) -> RunnerFacts:
    try:
        declared = runner_class(name)
    except UnusableRunner:
        return _EMPTY_FACTS
    article = "an" if declared.artifact_kind[0] in "aeiou" else "a"
    return RunnerFacts(
        support={**BASIC, **declared.capabilities},
        required_parts=declared.required_parts,
        is_local=declared.is_local,
        assigns_gpus=declared.assigns_gpus,
        uses_claims=False,
        build_result=f"{article} {declared.artifact_kind}",
    )


@functools.cache
def _entry_points() -> dict[str, list[EntryPoint]]:
    """Return the entry points of other packages by their names. Only by mistake, a name has more than one."""
    from importlib.metadata import entry_points  # it imports the email package, which few processes need

    by_name: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        by_name.setdefault(entry_point.name, []).append(entry_point)
    return dict(sorted(by_name.items()))


def _provider(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "an unknown package"


def _foreign_class(entry_point: EntryPoint) -> type[Runner]:
    from runners.base import RemoteRunner, Runner

    place = f"the runner `{entry_point.name}` of {_provider(entry_point)}"
    try:
        loaded = entry_point.load()
    except Exception as error:  # whatever its module raises
        text = " ".join(str(error).split())
        raise UnusableRunner(f"{place} cannot be imported: {type(error).__name__}: {text}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Runner)):
        raise UnusableRunner(
            f"{place} is not a runner: `{entry_point.value}` is not a subclass of `runners.base.Runner`"
        )
    missing = sorted(loaded.__abstractmethods__)
    if missing:
        raise UnusableRunner(f"{place} is not complete: `{entry_point.value}` has no `{'`, `'.join(missing)}`")
    if not loaded.is_local and not issubclass(loaded, RemoteRunner):
        raise UnusableRunner(f"{place} is not a runner: `{entry_point.value}` is neither local nor a `RemoteRunner`")
    if not (isinstance(loaded.capabilities, Mapping) and isinstance(loaded.required_parts, Mapping)):
        raise UnusableRunner(f"{place} is not a runner: its `capabilities` and `required_parts` must be mappings")
    if not all(isinstance(support, Support) for support in loaded.capabilities.values()):
        raise UnusableRunner(f"{place} is not a runner: a value of its `capabilities` is not a `Support`")
    unknown = sorted({*loaded.capabilities, *loaded.required_parts} - BASIC.keys())
    if unknown:
        raise UnusableRunner(f"{place} declares parts that no config has: `{'`, `'.join(unknown)}`")
    return loaded
