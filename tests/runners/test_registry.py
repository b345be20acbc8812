"""Runners of other distributions, found by their entry points."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners import registry
from runners.base import RemoteRunner, RunnerSettings
from runners.capabilities import BASIC, SupportLevel
from runners.fake import FakeRunner
from runners.registry import RUNNERS, UnusableRunner, check_entry_points, runner_class, runner_facts, runner_names
from tests.runners.distributions import write_distribution

MODULE = textwrap.dedent(
    """
    from runners.base import RemoteRunner
    from runners.capabilities import Support, SupportLevel
    from runners.fake import FakeRunner

    class Far(FakeRunner):
        artifact_kind = "image"
        assigns_gpus = True
        required_parts = {"build.image": "a container is made of an image"}
        capabilities = {"build.image": Support(SupportLevel.HONOURED)}

    class Incomplete(RemoteRunner):
        def check(self): ...

    class Mistaken(FakeRunner):
        capabilities = {"build.color": Support(SupportLevel.HONOURED)}

    class Wordy(FakeRunner):
        capabilities = {"build.image": "honoured"}

    text = "not a class"
    """
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs distributions with entry points: name of the runner → its class."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, **runners: str) -> None:
        write_distribution(tmp_path, distribution, runners, {"far_runner.py": MODULE})
        forget()

    def forget() -> None:
        registry._entry_points.cache_clear()
        registry._foreign_facts.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop("far_runner", None)
    forget()


def test_runner_of_another_distribution_is_loaded(install: Callable[..., None], tmp_path: Path) -> None:
    install("acme-far", far="far_runner:Far")
    check_entry_points()
    assert runner_names() == [*RUNNERS, "far"]
    settings = RunnerSettings(str(tmp_path), "a" * 32, options={"x": "1"})
    runner = registry.load("far", settings, lambda: None)
    assert (type(runner).__name__, runner.settings.options) == ("Far", {"x": "1"})
    assert isinstance(runner, RemoteRunner)


def test_declared_capabilities_complete_the_basic_ones(install: Callable[..., None]) -> None:
    install("acme-far", far="far_runner:Far")
    facts = runner_facts("far")
    assert facts.support["build.image"].level is SupportLevel.HONOURED
    assert facts.support["build.build_steps"] == BASIC["build.build_steps"]
    assert (facts.is_local, facts.assigns_gpus, facts.build_result) == (False, True, "an image")
    assert facts.required_parts == {"build.image": "a container is made of an image"}


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("missing_module:Far", "cannot be imported: ModuleNotFoundError"),
        ("far_runner:Missing", "cannot be imported: AttributeError"),
        ("far_runner:text", "is not a subclass of `runners.base.Runner`"),
        ("far_runner:Incomplete", "has no `build`, `clean`, `inventory`"),
        ("far_runner:Wordy", "a value of its `capabilities` is not a `Support`"),
        ("far_runner:Mistaken", "declares parts that no config has: `build.color`"),
    ],
)
def test_unusable_entry_point_names_its_distribution(install: Callable[..., None], target: str, text: str) -> None:
    install("acme-far", far=target)
    with pytest.raises(UnusableRunner) as failure:
        runner_class("far")
    assert str(failure.value).startswith("the runner `far` of acme-far 1.0 ")
    assert text in str(failure.value)
    assert runner_facts("far").support == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docker", "acme-far 1.0 names its runner `docker`, which is a runner of polyjob"),
        ("Far_Away", "acme-far 1.0 names its runner 'Far_Away', which is not valid"),
    ],
)
def test_taken_or_invalid_name_is_refused(install: Callable[..., None], name: str, text: str) -> None:
    install("acme-far", **{name: "far_runner:Far"})
    with pytest.raises(UnusableRunner, match=text):
        check_entry_points()
    assert runner_class("docker").__name__ == "DockerRunner"


def test_name_of_two_distributions_is_refused(install: Callable[..., None]) -> None:
    install("acme-far", far="far_runner:Far")
    install("other-far", far="far_runner:Far")
    with pytest.raises(UnusableRunner, match=r"acme-far 1\.0.*other-far 1\.0|other-far 1\.0.*acme-far 1\.0"):
        check_entry_points()


def test_unknown_runner_has_no_facts() -> None:
    assert runner_facts("abacus").support == {}
    with pytest.raises(UnusableRunner, match="there is no runner `abacus`"):
        runner_class("abacus")
    assert runner_class("fake") is FakeRunner
