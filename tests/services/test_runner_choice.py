"""The runner of a job or build, chosen by `backend`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from polyjob.db.models import Build, Job, Project, User
from polyjob.errors import Invalid
from polyjob.services import builds, cloning, jobs, submission
from polyjob.services.runner_choice import choose_runner
from polyjob.settings import Settings

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
Create = Callable[..., Job]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return dataclasses.replace(settings, runner="fake", runners=("fake", "process"))


@pytest.fixture
def create(project: Project, user: User, settings: Settings) -> Create:
    def create(attributes: dict[str, Any] | None = None, **config: Any) -> Job:
        return submission.create(project, user, {"config": CONFIG | config, **(attributes or {})}, settings)

    return create


@pytest.mark.parametrize(
    ("beside", "inside", "runner"),
    [
        (None, None, "fake"),
        (None, "process", "process"),
        ("process", None, "process"),
        ("fake", "process", "fake"),
        ("native", "process", "process"),
        ("native", "kaniko", "fake"),
    ],
)
def test_backend_chooses_the_runner(settings: Settings, beside: str, inside: str, runner: str) -> None:
    assert choose_runner(settings, {"backend": beside, "config": {"backend": inside}}) == runner


@pytest.mark.parametrize(
    ("attributes", "pointer"),
    [({"backend": "docker"}, "/backend"), ({"config": {"backend": "docker"}}, "/config/backend")],
)
def test_runner_that_is_not_listed_is_refused(settings: Settings, attributes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as failure:
        choose_runner(settings, attributes)
    (problem,) = failure.value.problems
    assert problem.pointer == pointer
    assert problem.detail == "This server does not use the docker runner; it has: fake, process."


def test_unknown_backend_is_noted(create: Create) -> None:
    job = create(backend="native")
    assert job.runner == "fake"
    (note,) = job.notes
    assert note["text"].startswith("`backend` was not used: no runner of this server has that name")


def test_chosen_runner_is_not_noted(create: Create) -> None:
    job = create(backend="process")
    assert (job.runner, job.notes) == ("process", None)


def test_config_is_checked_for_the_chosen_runner(create: Create) -> None:
    with pytest.raises(Invalid, match="The process runner cannot honour"):
        create(backend="process", build={"dockerfile": "x"})
    assert create(build={"dockerfile": "x"}).runner == "fake"


def test_build_belongs_to_the_runner_of_its_job(
    create: Create, project: Project, user: User, settings: Settings
) -> None:
    config = {"kind": "build", "build": {"image": "a"}, "backend": "process"}
    build = builds.create(project, user, {"config": config}, settings)
    assert (build.runner, build.key_parts["runner"]) == ("process", "process")
    with pytest.raises(Invalid, match="Set `backend` to `process`"):
        create({"build_job": build.id})
    with pytest.raises(Invalid, match=r"runs on the fake runner\. Omit `build_job`"):
        only = dataclasses.replace(settings, runners=())
        submission.create(project, user, {"config": CONFIG, "build_job": build.id}, only)
    assert create({"build_job": build.id}, backend="process").build == Build.get_by_id(build.id)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("strategy", ["restart", "resume", "copy"])
def test_clone_keeps_the_runner(
    create: Create, user: User, settings: Settings, strategy: str, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = create({"backend": "process"}) if beside else create(backend="process")
    monkeypatch.setattr(cloning, "_check_outputs", lambda *arguments: None)
    monkeypatch.setattr("polyjob.storage.store.Store.link_inputs", lambda *arguments: None)
    assert cloning.clone(source, user, strategy, {}, settings).runner == "process"


def test_patch_changes_the_runner_of_a_clone(create: Create, user: User, settings: Settings) -> None:
    source = create(backend="process")
    for backend, runner in (("fake", "fake"), (None, "fake"), ("native", "fake"), ("process", "process")):
        clone = cloning.clone(source, user, "restart", {"config": {"backend": backend}}, settings)
        assert clone.runner == runner
    complete = {"config": CONFIG, "is_complete": True}
    assert cloning.clone(source, user, "restart", complete, settings).runner == "fake"


def test_clone_leaves_a_runner_that_is_not_listed_any_more(create: Create, user: User, settings: Settings) -> None:
    chosen, default = create(backend="process"), create()
    only = dataclasses.replace(settings, runners=(), runner="docker")
    image = {"config": {"build": {"image": "a"}}}
    with pytest.raises(Invalid, match="does not use the process runner; it has: docker"):
        cloning.clone(chosen, user, "restart", image, only)
    assert cloning.clone(default, user, "restart", image, only).runner == "docker"


def test_new_config_of_a_queued_job_changes_its_runner(create: Create, settings: Settings) -> None:
    job = create()
    assert jobs.update(job, {"config": CONFIG | {"backend": "process"}}, settings).runner == "process"
    assert jobs.update(job, {"config": CONFIG}, settings).runner == "process"
    with pytest.raises(Invalid, match="does not use the docker runner"):
        jobs.update(job, {"config": CONFIG | {"backend": "docker"}}, settings)


def test_unmanaged_job_has_any_backend(project: Project, user: User, settings: Settings) -> None:
    job = submission.create(project, user, {"is_managed": False, "backend": "docker"}, settings)
    assert job.runner == "fake"
