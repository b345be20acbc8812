"""Builds with a registry, and build steps without one."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runners.base import (
    ArtifactMissing,
    BuildFailed,
    Reason,
    RunnerError,
    RunnerRefused,
    RunnerUnavailable,
    StartFailed,
)
from runners.kubernetes.manifests import Artifact
from tests.runners.harness import archive, wait_for
from tests.runners.kubernetes.helpers import MakeHarness, start_running
from tests.runners.kubernetes_harness import IMAGE, KubernetesHarness
from tests.simulators.registry import Registry


@pytest.fixture
def no_registry(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> KubernetesHarness:
    return make_kubernetes(harness.folder / "bare", registry=None)


def artifact_with_steps(no_registry: KubernetesHarness, *steps: str, timeout: float = 60.0) -> str:
    return Artifact(IMAGE, IMAGE, steps, timeout).text()


def test_log_without_a_registry_says_that_nothing_is_kept(
    no_registry: KubernetesHarness, harness: KubernetesHarness
) -> None:
    log = io.BytesIO()
    spec = harness.build_spec("true", "false")
    artifact = no_registry.runner.build(spec, log, lambda: False)
    assert Artifact.parse(str(artifact)) == Artifact(IMAGE, IMAGE, ("true", "false"), spec.timeout)
    assert b"nothing is kept" in log.getvalue()
    assert no_registry.runner.cached_artifacts() == {}


def test_steps_run_before_the_command_in_its_container(no_registry: KubernetesHarness) -> None:
    spec = no_registry.spec("cat /built here; echo $A $#", env={"A": "b"})
    artifact = artifact_with_steps(no_registry, "echo $A > /built", "cat /built; pwd; echo x > here")
    handle = no_registry.runner.start(spec, artifact)
    assert no_registry.end(handle).succeeded
    log = no_registry.log(spec, handle)
    assert log == (b"Step 1/2: echo $A > /built\nStep 2/2: cat /built; pwd; echo x > here\nb\n/code\nb\nx\nb 0\n")


def test_failing_step_is_named(no_registry: KubernetesHarness) -> None:
    spec = no_registry.spec("echo not reached")
    handle = no_registry.runner.start(spec, artifact_with_steps(no_registry, "true", "false; true"))
    end = no_registry.end(handle)
    assert (end.reason, end.step, end.code) == (Reason.BUILD, 2, 1)
    assert b"not reached" not in no_registry.log(spec, handle)


def test_step_exceeding_the_time_limit_is_killed(no_registry: KubernetesHarness) -> None:
    handle = no_registry.runner.start(no_registry.spec(), artifact_with_steps(no_registry, "sleep 1000", timeout=1.0))
    end = no_registry.end(handle)
    assert (end.reason, end.step) == (Reason.BUILD, 1)
    assert end.message == "step 1 exceeded the time limit of 1 s for the build"


def test_artifact_is_stale_once_there_is_a_registry(no_registry: KubernetesHarness, harness: KubernetesHarness) -> None:
    with pytest.raises(ArtifactMissing, match="registry"):
        harness.runner.start(harness.spec(), artifact_with_steps(no_registry, "true"))
    handle = harness.runner.start(harness.spec(is_pinned=True), artifact_with_steps(no_registry, "true"))
    assert harness.end(handle).succeeded


def test_existing_image_is_not_built_again(harness: KubernetesHarness) -> None:
    spec, first, second = harness.build_spec("echo hello"), io.BytesIO(), io.BytesIO()
    artifact = harness.runner.build(spec, first, lambda: False)
    assert harness.runner.build(spec, second, lambda: False) == artifact
    assert b"hello" in first.getvalue()
    assert b"already exists" in second.getvalue()
    assert "polyjob begins" not in first.getvalue().decode()
    assert [pod for pod in harness.cluster.pods() if "polyjob.build" in pod["metadata"]["labels"]] == []


@pytest.mark.parametrize("nocache", [False, True])
def test_each_build_makes_its_own_image(harness: KubernetesHarness, nocache: bool) -> None:
    """The image of a withdrawn build is not used by the next one, although it has the same key."""
    specs = [harness.build_spec("echo hello", nocache=nocache, key="a" * 64) for _ in range(2)]
    log = io.BytesIO()
    first, second = (Artifact.parse(str(harness.runner.build(spec, log, lambda: False))) for spec in specs)
    assert log.getvalue().count(b"hello") == 2
    assert first.image != second.image
    assert first.base_image == second.base_image == IMAGE


def test_jobs_run_on_the_digest_that_was_pushed(harness: KubernetesHarness, registry: Registry) -> None:
    build, log = harness.build_spec("true"), io.BytesIO()
    artifact = harness.runner.build(build, log, lambda: False)
    tag = f"{registry.host}/polyjob:{build.uuid}"
    image = Artifact.parse(str(artifact)).image
    assert image == f"{registry.host}/polyjob@{registry.images[tag]}"
    registry.images[tag] = "sha256:" + "0" * 64
    spec = harness.spec("true")
    handle = harness.runner.start(spec, artifact)
    (main,) = [item for item in harness.cluster.pod(spec.name)["spec"]["containers"] if item["name"] == "job"]
    assert main["image"] == image
    assert harness.end(handle).succeeded


def test_unknown_digest_leaves_the_tag(harness: KubernetesHarness, registry: Registry, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "tells_digests", False)
    build, log = harness.build_spec("true"), io.BytesIO()
    artifact = harness.runner.build(build, log, lambda: False)
    assert Artifact.parse(str(artifact)).image == f"{registry.host}/polyjob:{build.uuid}"
    assert b"its digest is not known" in log.getvalue()


def test_image_of_another_build_is_refused_as_base(harness: KubernetesHarness, registry: Registry) -> None:
    build = harness.build_spec("true")
    image = Artifact.parse(str(harness.runner.build(build, io.BytesIO(), lambda: False))).image
    for name in (image, f"{registry.host}/polyjob:{build.uuid}", f"{registry.host}/polyjob"):
        with pytest.raises(BuildFailed, match="name the image that it is based on"):
            harness.runner.build(harness.build_spec("env", image=name), io.BytesIO(), lambda: False)
        with pytest.raises(StartFailed, match="name the image that it is based on"):
            harness.runner.start(harness.spec("env", image=name), None)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("ERROR: failed to push: dial tcp 10.0.0.1:5000: connect: connection refused", RunnerUnavailable),
        ("write /var/lib/buildkit/x: no space left on device", RunnerUnavailable),
        ("ERROR: pull access denied, repository does not exist", BuildFailed),
    ],
)
def test_builder_failing_because_of_its_machine_is_retried(
    make_kubernetes: MakeHarness, harness: KubernetesHarness, output: str, kind: type[Exception]
) -> None:
    broken = make_kubernetes(harness.folder / "broken", builder_command=f"echo '{output}'; exit 1")
    with pytest.raises(kind) as caught:
        broken.runner.build(broken.build_spec("true"), io.BytesIO(), lambda: False)
    assert type(caught.value) is kind


def test_failing_step_is_blamed_whatever_it_writes(harness: KubernetesHarness) -> None:
    spec = harness.build_spec("echo 'connection refused'; exit 3")
    with pytest.raises(BuildFailed) as caught:
        harness.runner.build(spec, io.BytesIO(), lambda: False)
    assert (caught.value.build_step, caught.value.exit_code) == (1, 3)


@pytest.mark.parametrize(
    ("rules", "kind"),
    [({"policy": "violates PodSecurity"}, RunnerRefused), ({"quota": {"pods": "1"}}, RunnerUnavailable)],
)
def test_builder_that_is_not_admitted_is_retried(harness: KubernetesHarness, rules: Any, kind: type[Exception]) -> None:
    start_running(harness, harness.endless_job())
    harness.cluster.restrict(**rules)
    with pytest.raises(kind, match="forbidden"):
        harness.runner.build(harness.build_spec("true"), io.BytesIO(), lambda: False)


def test_concurrent_builds_share_one_pod(harness: KubernetesHarness) -> None:
    spec = harness.build_spec("sleep 1; echo hello")
    logs, artifacts = [io.BytesIO(), io.BytesIO()], []

    def build(log: io.BytesIO) -> None:
        artifacts.append(harness.another().build(spec, log, lambda: False))

    threads = [threading.Thread(target=build, args=(log,)) for log in logs]
    harness.cluster.forget_counts()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert artifacts[0] == artifacts[1]
    assert any(b"hello" in log.getvalue() for log in logs)


def test_builder_has_the_requirement_files(harness: KubernetesHarness, tmp_path: Path) -> None:
    code = archive(tmp_path / "code.tar.gz", ("requirements.txt", "six\n"), ("other.txt", "x"))
    log = io.BytesIO()
    spec = harness.build_spec("ls; cat requirements.txt", upload=code, requirement_files=("requirements.txt",))
    artifact = harness.runner.build(spec, log, lambda: False)
    assert b"Dockerfile\nrequirements.txt\nsix\n" in log.getvalue()
    handle = harness.runner.start(harness.spec("true"), artifact)
    assert harness.end(handle).succeeded


def test_too_large_requirement_file_fails_the_build(
    harness: KubernetesHarness, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("runners.common.requirement_files.MAX_REQUIREMENT_FILE_BYTES", 3)
    code = archive(tmp_path / "code.tar.gz", ("requirements.txt", "six\n"))
    spec = harness.build_spec("true", upload=code, requirement_files=("requirements.txt",))
    with pytest.raises(BuildFailed, match=r"`requirements.txt` is larger"):
        harness.runner.build(spec, io.BytesIO(), lambda: False)
    assert [pod for pod in harness.pods() if "polyjob.build" in pod["metadata"]["labels"]] == []


def test_removed_image_makes_the_artifact_missing(harness: KubernetesHarness, registry: Registry) -> None:
    artifact = harness.runner.build(harness.build_spec("true"), io.BytesIO(), lambda: False)
    del registry.images[json.loads(str(artifact))["image"]]
    with pytest.raises(ArtifactMissing, match="no longer in the registry"):
        harness.runner.start(harness.spec(), artifact)


def test_build_without_steps_uses_the_base_image(harness: KubernetesHarness) -> None:
    artifact = harness.runner.build(harness.build_spec(), io.BytesIO(), lambda: False)
    assert Artifact.parse(str(artifact)) == Artifact(IMAGE, IMAGE)


def test_missing_builder_image_fails_the_build(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    patient = make_kubernetes(harness.folder / "patient", builder_image="no-such-builder", patience="1")
    log = io.BytesIO()
    with pytest.raises(BuildFailed, match="cannot be started"):
        patient.runner.build(patient.build_spec("true"), log, lambda: False)
    assert b"no-such-builder" in log.getvalue()


def test_patience_begins_again_with_another_problem(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    patient = make_kubernetes(harness.folder / "patient", builder_image="late-builder", patience="3")
    log, errors = io.BytesIO(), []

    def build() -> None:
        try:
            patient.runner.build(patient.build_spec("true"), log, lambda: False)
        except RunnerError as error:
            errors.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    wait_for(lambda: b"0/1 nodes" in log.getvalue())
    time.sleep(1.5)
    harness.cluster.schedule_nothing(None)
    wait_for(lambda: b"late-builder" in log.getvalue())
    time.sleep(2)
    assert errors == []
    thread.join(20)
    assert "late-builder" in str(errors[0])


def test_failing_builder_has_its_exit_code(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    broken = make_kubernetes(harness.folder / "broken", builder_command="echo oops; exit 9")
    with pytest.raises(BuildFailed, match="exit code 9") as caught:
        broken.runner.build(broken.build_spec("true"), io.BytesIO(), lambda: False)
    assert (caught.value.build_step, caught.value.exit_code) == (None, 9)


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [("evict", RunnerRefused, "low on resource"), ("run_out_of_memory", BuildFailed, "memory limit")],
)
def test_ended_builder_has_the_clusters_reason(
    harness: KubernetesHarness, problem: str, kind: type[Exception], words: str
) -> None:
    spec, log = harness.build_spec("echo begun; sleep 1000"), io.BytesIO()
    name, errors = f"polyjob-build-{spec.uuid}", []

    def build() -> None:
        try:
            harness.runner.build(spec, log, lambda: False)
        except RunnerError as error:
            errors.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    wait_for(lambda: b"begun" in log.getvalue())
    getattr(harness.cluster, problem)(name)
    thread.join(20)
    assert words in str(errors[0])
    assert type(errors[0]) is kind


def test_build_exceeding_its_time_limit_fails(harness: KubernetesHarness) -> None:
    with pytest.raises(BuildFailed, match="exceeded its time limit"):
        harness.runner.build(harness.build_spec("sleep 1000", timeout=1.5), io.BytesIO(), lambda: False)
