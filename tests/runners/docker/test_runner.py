"""What only the Docker runner has, on a real Engine."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import socket
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from polyjob.storage.pack import Packer
from runners.base import (
    DOCKER_HOST_ALIAS,
    FENCE_LIFETIME_SECONDS,
    ArtifactMissing,
    BuildFailed,
    Exited,
    HandleNotFound,
    Missing,
    Reason,
    Resources,
    RunnerRefused,
    RunnerUnavailable,
    Running,
    StartFailed,
    Unknown,
)
from runners.common import tarstream
from runners.common.dockerfile import SEPARATE_STEPS
from runners.docker import builds
from runners.docker.containers import MAX_PROCESSES, OOM_SCORE_ADJ, unix_time
from runners.docker.logs import DROPPED_LINE
from runners.docker.runner import DockerRunner
from tests.runners.harness import IMAGE, DockerHarness, archive, wait_for

on_podman_too = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> DockerHarness:
    made: DockerHarness = request.getfixturevalue(getattr(request, "param", "docker"))
    return made


@pytest.fixture
def other(harness: DockerHarness, tmp_path: Path) -> Iterator[DockerHarness]:
    """Another installation on the same Engine."""
    made = DockerHarness(tmp_path / "other")
    yield made
    made.close()


def run(harness: DockerHarness, cmd: str, **fields: Any) -> tuple[Any, bytes]:
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(spec, None)
    end = harness.end(handle)
    return end, harness.log(spec, handle)


@on_podman_too
def test_both_streams_are_one_in_their_order_and_bytes_are_kept(harness: DockerHarness) -> None:
    _, log = run(harness, r"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\377\000\r\n'")
    assert log == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n\xff\x00\r\n"


def test_a_job_finds_its_variables_and_none_of_the_servers(harness: DockerHarness, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    _, log = run(harness, "env; pwd", env={"A": "b c"})
    assert b"A=b c\n" in log
    assert b"/code\n" in log
    assert b"SECRET" not in log


def test_more_processes_than_asked_for_there_are_never(harness: DockerHarness) -> None:
    end, log = run(
        harness, "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo not reached", resources=Resources(pids=5)
    )
    assert not end.succeeded
    assert b"not reached" not in log


@on_podman_too
@pytest.mark.parametrize("instead", ["ln -s /tmp", "echo x >", "mkfifo"])
def test_what_stands_where_the_outputs_folder_was_is_said(harness: DockerHarness, instead: str) -> None:
    folder = "$POLYAXON_RUN_OUTPUTS_PATH"
    spec = harness.spec(f"echo x > {folder}/kept; rm -r {folder}; {instead} {folder}")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    packer = Packer("1")
    assert list(packer.stream(harness.runner.outputs(handle))) == []
    assert packer.notes == ["The outputs folder was not kept: it is not a folder"]


def test_a_folder_of_outputs_that_was_removed_holds_nothing(harness: DockerHarness) -> None:
    spec = harness.spec("rm -r $POLYAXON_RUN_OUTPUTS_PATH")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []
    harness.runner.clean(handle)
    with pytest.raises(HandleNotFound):
        list(harness.runner.outputs(handle))


@on_podman_too
def test_code_and_earlier_outputs_are_there(harness: DockerHarness, tmp_path: Path) -> None:
    code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"), ("d/", ""), ("d/run", {"text": "x", "mode": 0o755}))
    inputs = archive(tmp_path / "in.tar.gz", ("7/", ""), ("7/old.txt", "old"))
    cmd = "cat a.txt d/run $POLYAXON_RUN_OUTPUTS_PATH/old.txt; echo new > $POLYAXON_RUN_OUTPUTS_PATH/new.txt"
    spec = harness.spec(cmd, upload=code, inputs=inputs)
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert harness.log(spec, handle) == b"codexold"
    runner = harness.runner
    assert isinstance(runner, DockerRunner)
    with tarfile.open(fileobj=io.BytesIO(b"".join(runner.outputs(handle)))) as outputs:
        assert sorted(outputs.getnames()) == ["new.txt", "old.txt"]


def test_a_container_is_bounded_and_gets_no_privileges(harness: DockerHarness) -> None:
    spec = harness.spec("sleep 1000", resources=Resources(cpu=0.5, memory=64 << 20, pids=16))
    harness.runner.start(spec, None)
    made = harness.engine.inspect_container(spec.name)["HostConfig"]
    assert (made["Memory"], made["NanoCpus"]) == (64 << 20, 500_000_000)
    assert made["SecurityOpt"] == ["no-new-privileges"]
    assert (made["RestartPolicy"]["Name"], made["AutoRemove"], made["Init"]) == ("no", False, True)


def test_gpus_that_the_engine_does_not_give_fail_the_start(harness: DockerHarness, monkeypatch: Any) -> None:
    original = docker.APIClient.inspect_container

    def inspect(client: Any, identity: str) -> dict[str, Any]:
        container = original(client, identity)
        return container | {"HostConfig": container["HostConfig"] | {"DeviceRequests": None}}

    monkeypatch.setattr(docker.APIClient, "inspect_container", inspect)
    with pytest.raises(StartFailed, match="GPUs"):
        harness.runner.start(harness.spec("true", resources=Resources(gpu=1, gpus=(0,))), None)
    assert harness.runner.inventory() == {}


def test_a_container_is_given_the_gpus_of_its_job(harness: DockerHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr(docker.APIClient, "start", lambda *args: None)  # there are none here
    spec = harness.spec("true", resources=Resources(gpu=2, gpus=(0, 3)))
    harness.runner.start(spec, None)
    (asked,) = harness.engine.inspect_container(spec.name)["HostConfig"]["DeviceRequests"]
    assert (asked["DeviceIDs"], asked["Capabilities"]) == (["0", "3"], [["gpu"]])


@on_podman_too
def test_images_of_builds_are_held_until_they_are_dropped(harness: DockerHarness) -> None:
    assert harness.runner.cached_artifacts() == {}
    artifact = harness.runner.build(harness.build_spec("head -c 2000000 /dev/zero > /f"), io.BytesIO(), lambda: False)
    assert artifact is not None
    name = harness.runner.artifact_name(artifact)
    assert name is not None
    assert harness.runner.cached_artifacts().keys() == {name}
    assert 2_000_000 <= harness.runner.cached_artifacts()[name] < 2_100_000
    handle = harness.runner.start(harness.lasts(), artifact)
    harness.runner.remove_artifact(name)
    harness.runner.clean(handle)
    harness.runner.remove_artifact(name)
    assert harness.runner.cached_artifacts() == {}
    with pytest.raises(ArtifactMissing):
        harness.runner.start(harness.says("x"), artifact)


def test_two_installations_have_images_of_their_own_for_the_same_build(
    harness: DockerHarness, other: DockerHarness
) -> None:
    spec = dataclasses.replace(harness.build_spec("echo hello"), nocache=False)
    identity = {"uuid": "c" * 32, "installation": other.installation, "folder": str(other.folder)}
    theirs = dataclasses.replace(spec, **identity)
    made = [made.runner.build(one, io.BytesIO(), lambda: False) for made, one in ((harness, spec), (other, theirs))]
    names = [harness.runner.artifact_name(str(artifact)) for artifact in made]
    assert [set(harness.runner.cached_artifacts()), set(other.runner.cached_artifacts())] == [{names[0]}, {names[1]}]
    harness.runner.remove_artifact(str(names[0]))
    assert set(other.runner.cached_artifacts()) == {names[1]}
    handle = other.runner.start(other.says("x"), made[1])
    assert other.end(handle).succeeded


def test_memory_that_is_not_there_is_said(harness: DockerHarness) -> None:
    end, _ = run(harness, "head -c 200000000 /dev/zero | tail", resources=Resources(memory=16 << 20))
    assert (end.succeeded, end.reason) == (False, Reason.OOM)


def test_a_job_without_an_image_or_with_one_that_is_not_there(harness: DockerHarness) -> None:
    for image, word in ((None, "needs an image"), ("polyjob-test-none:1", "is not there")):
        with pytest.raises(StartFailed, match=word) as refused:
            harness.runner.start(harness.spec("true", image=image), None)
        assert refused.value.reason is Reason.IMAGE
    assert harness.runner.inventory() == {}


@on_podman_too
def test_an_image_without_a_shell_says_so(harness: DockerHarness) -> None:
    end = harness.end(harness.runner.start(harness.cannot_start(), None))
    assert (end.reason, end.message) == (Reason.START, "The image has no `/bin/sh`, which runs the command.")


@on_podman_too
def test_a_crash_between_create_and_start_starts_it_once(harness: DockerHarness, monkeypatch: Any) -> None:
    spec = harness.says("x")
    with monkeypatch.context() as crash:
        crash.setattr(docker.APIClient, "start", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            harness.runner.start(spec, None)
    assert harness.engine.inspect_container(spec.name)["State"]["Status"] == "created"
    handle = harness.another().start(spec, None)
    assert harness.end(handle).succeeded
    assert harness.runs(spec) == 1


def test_a_container_whose_record_was_lost_is_adopted_and_not_run_again(harness: DockerHarness) -> None:
    spec = harness.says("x")
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    (harness.data / "docker" / spec.uuid).unlink()
    assert harness.another().start(spec, None) == handle
    assert harness.end(handle).succeeded
    assert harness.runs(spec) == 1


def test_what_another_polyjob_made_is_not_ours(harness: DockerHarness, tmp_path: Path) -> None:
    spec = harness.lasts()
    harness.runner.start(spec, None)
    other = DockerHarness(tmp_path / "other")
    other.settings = type(other.settings)(data_dir=str(other.data), installation="d" * 32)
    other.runner = other.another()
    assert other.runner.inventory() == {}
    with pytest.raises(StartFailed, match="not of this polyjob"):
        other.runner.start(spec, None)
    assert isinstance(harness.state(harness.runner.inventory()[spec.uuid]), Running)


def test_another_engine_is_unreachable_and_nothing_is_lost(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.lasts(), None)
    elsewhere = json.dumps(json.loads(handle) | {"engine": "another", "id": "f" * 64})
    state = harness.runner.poll([elsewhere])[elsewhere]
    assert isinstance(state, Unknown)
    assert "another Docker Engine" in state.reason
    with pytest.raises(RunnerUnavailable, match="another Docker Engine"):
        harness.runner.stop(elsewhere, True)


def test_a_job_that_its_machine_went_down_with_is_lost_whatever_the_engine_says(
    harness: DockerHarness, monkeypatch: Any
) -> None:
    handle = harness.runner.start(spec := harness.spec("sleep 1; exit 0"), None)
    harness.end(handle)
    began = unix_time(harness.engine.inspect_container(spec.name)["State"]["StartedAt"])
    monkeypatch.setattr("runners.docker.runner.boot_time", lambda: began + 0.5)
    other_boot = json.dumps(json.loads(handle) | {"boot": "another"})
    for text, reason in ((handle, Reason.EXITED), (other_boot, Reason.LOST)):
        runner = harness.another()
        wait_for(lambda: isinstance(runner.poll([text])[text], Exited))  # noqa: B023
        state = runner.poll([text])[text]
        assert isinstance(state, Exited)
        assert state.exit.reason is reason


def test_no_engine_is_said_with_the_way_to_get_one(harness: DockerHarness, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(RunnerUnavailable, match=rf"no server answers at {tmp_path}/none\.sock.*docker\.io"):
        harness.another().check()


def test_an_engine_that_lets_this_account_not_in_says_what_to_do(harness: DockerHarness, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RunnerUnavailable, match=r"does not let this account in.*usermod -aG docker") as refused:
        harness.another().check()
    assert "apt install" not in str(refused.value)


def test_a_poll_asks_as_much_for_many_as_for_one(harness: DockerHarness, monkeypatch: Any) -> None:
    asked = []
    original = docker.APIClient.request
    handles = [harness.runner.start(harness.lasts(), None) for _ in range(6)]
    wait_for(lambda: all(isinstance(state, Running) for state in harness.runner.poll(handles).values()))
    monkeypatch.setattr(
        docker.APIClient,
        "request",
        lambda self, *args, **options: asked.append(args) or original(self, *args, **options),
    )
    harness.runner.poll(handles[:1])
    one = len(asked)
    harness.runner.poll(handles)
    assert len(asked) - one == one


def test_a_container_that_somebody_removed_is_missing_and_never_runs_again(harness: DockerHarness) -> None:
    spec, handle = harness.vanished()
    wait_for(lambda: isinstance(harness.state(handle), Missing))
    assert harness.another().start(spec, None) == handle
    with pytest.raises(docker.errors.NotFound):
        harness.engine.inspect_container(spec.name)


class TestBuilds:
    def build(self, harness: DockerHarness, *steps: str, **fields: Any) -> tuple[str, bytes]:
        log = io.BytesIO()
        spec = harness.build_spec(*steps, **fields)
        artifact = harness.runner.build(spec, log, lambda: False)
        assert artifact is not None
        return artifact, log.getvalue()

    def test_steps_variables_and_files_are_in_the_image(self, harness: DockerHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "code.tar.gz", ("setup.sh", "echo from setup"), ("main.py", "x"))
        artifact, log = self.build(
            harness,
            "sh setup.sh > /made",
            "ls >> /made",
            env={"A": 'x "$HOME" \\'},
            upload=code,
            requirement_files=("setup.sh",),
        )
        assert b"Step" in log
        handle = harness.runner.start(spec := harness.spec('cat /made; echo "$A"'), artifact)
        harness.end(handle)
        assert harness.log(spec, handle) == b'from setup\nsetup.sh\nx "$HOME" \\\n'

    def test_files_can_be_run_where_they_could_when_they_were_uploaded(
        self, harness: DockerHarness, tmp_path: Path
    ) -> None:
        script = {"text": "#!/bin/sh\necho from setup", "mode": 0o750}
        code = archive(tmp_path / "code.tar.gz", ("setup.sh", script), ("requirements.txt", "x"))
        files = ("setup.sh", "requirements.txt")
        _, log = self.build(harness, "./setup.sh; [ ! -x requirements.txt ]", upload=code, requirement_files=files)
        assert b"from setup\n" in log

    def test_files_that_are_too_large_or_cannot_be_read_fail_it(self, harness: DockerHarness, tmp_path: Path) -> None:
        large = archive(tmp_path / "large.tar.gz", ("setup.sh", "x" * (builds.LARGEST_FILE + 1)))
        (tmp_path / "broken.tar.gz").write_bytes(b"x" * 100)
        for code, why in ((large, "larger than 16 MiB"), (str(tmp_path / "broken.tar.gz"), "cannot be read")):
            with pytest.raises(BuildFailed, match=why):
                self.build(harness, "true", upload=code, requirement_files=("setup.sh",))

    def test_the_image_is_looked_up_before_it_is_built(self, harness: DockerHarness) -> None:
        import dataclasses

        spec = dataclasses.replace(harness.build_spec("echo hello"), nocache=False)
        first, second = io.BytesIO(), io.BytesIO()
        made = harness.runner.build(spec, first, lambda: False)
        assert harness.runner.build(spec, second, lambda: False) == made
        assert b"hello" in first.getvalue()
        assert b"exists already" in second.getvalue()

    def test_nothing_to_add_is_the_image_itself(self, harness: DockerHarness) -> None:
        artifact, _ = self.build(harness)
        assert json.loads(artifact)["image"] == IMAGE
        assert json.loads(artifact)["base"].startswith("sha256:")

    @pytest.mark.parametrize("image", ["polyjob.invalid/none:1", "polyjob-test-none"])
    def test_an_image_that_cannot_be_had_is_said(self, harness: DockerHarness, image: str) -> None:
        import dataclasses

        spec = dataclasses.replace(harness.build_spec(), image=image)
        with pytest.raises(BuildFailed, match=image):
            harness.runner.build(spec, io.BytesIO(), lambda: False)

    def test_that_last_too_long_are_ended(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed, match="longer"):
            harness.runner.build(harness.build_spec("sleep 1000", timeout=1.0), io.BytesIO(), lambda: False)


def test_an_exit_says_where_the_job_ran(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.says("x"), None)
    harness.end(handle)
    state = harness.state(handle)
    assert isinstance(state, Exited)
    assert state.node


def test_a_process_that_was_killed_for_its_memory_is_not_the_commands_end(harness: DockerHarness) -> None:
    hungry = "echo 1000 > /proc/self/oom_score_adj; head -c 200000000 /dev/zero | cat | tail -c 100000000 > /dev/null"
    cmd = f"sh -c '{hungry}'; exit 4"
    end, _ = run(harness, cmd, resources=Resources(memory=16 << 20))
    assert (end.reason, end.code, end.signal) == (Reason.EXITED, 4, None)


def test_a_container_that_never_ran_goes_with_the_fence(harness: DockerHarness, monkeypatch: Any) -> None:
    spec = harness.lasts()
    with monkeypatch.context() as away:
        away.setattr(docker.APIClient, "start", refusing(503))
        with pytest.raises(RunnerUnavailable):
            harness.runner.start(spec, None)
    assert harness.engine.inspect_container(spec.name)["State"]["Status"] == "created"
    assert harness.another().prevent_start(spec.uuid) is None
    with pytest.raises(docker.errors.NotFound):
        harness.engine.inspect_container(spec.name)
    harness.runner.start(spec, None)
    assert harness.runner.inventory() == {}


def refusing(status: int, words: str = "not now") -> Any:
    """A call that the Engine answers with this status."""

    def refuse(*args: Any, **options: Any) -> Any:
        response = requests.Response()
        response.status_code = status
        raise docker.errors.APIError(words, response, words)

    return refuse


@pytest.mark.parametrize("call", ["start", "create_container_from_config", "put"])
@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (500, "oops", RunnerRefused),
        (500, "container-init binary not found on the host", RunnerRefused),
        (500, "could not select device driver", StartFailed),
        (500, "unable to find user app: no matching entries in passwd file", StartFailed),
        (500, "max depth exceeded", StartFailed),
        (400, "invalid argument", StartFailed),
    ],
)
def test_refused_start_leaves_nothing_in_the_engine(
    harness: DockerHarness, monkeypatch: Any, tmp_path: Path, call: str, status: int, words: str, error: type[Exception]
) -> None:
    spec = dataclasses.replace(harness.says("x"), upload=archive(tmp_path / "code.tar.gz", ("a", "x")))
    with monkeypatch.context() as away:
        away.setattr(docker.APIClient, call, refusing(status, words))
        with pytest.raises(error):
            harness.runner.start(spec, None)
    assert harness.runner.inventory() == {}
    assert harness.end(harness.runner.start(spec, None)).succeeded


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "write /x: no space left on device"),
        (500, "failed to create endpoint x on network bridge: could not find bridge docker0"),
        (503, "the Engine is shutting down"),
    ],
)
def test_start_waits_while_the_machine_is_at_fault(
    harness: DockerHarness, monkeypatch: Any, status: int, words: str
) -> None:
    spec = harness.says("x")
    with monkeypatch.context() as away:
        away.setattr(docker.APIClient, "start", refusing(status, words))
        with pytest.raises(RunnerUnavailable):
            harness.runner.start(spec, None)
    assert harness.end(harness.runner.start(spec, None)).succeeded
    assert harness.runs(spec) == 1


def test_short_lines_are_all_kept_below_the_limit(harness: DockerHarness) -> None:
    spec = harness.spec("seq 1 250000", log_limit=2_000_000)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    assert harness.log(spec, handle) == b"".join(b"%d\n" % number for number in range(1, 250_001))


def test_what_the_engine_has_dropped_is_said(harness: DockerHarness) -> None:
    spec = harness.spec("seq 1 600000", log_limit=1)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    log = harness.log(spec, handle)
    assert log.startswith(DROPPED_LINE)
    assert log.endswith(b"\n599999\n600000\n")
    assert log.count(DROPPED_LINE) == 1


class TestHardBuilds:
    def build(self, harness: DockerHarness, spec: Any, cancelled: Any = lambda: False) -> bytes:
        log = io.BytesIO()
        self.artifact = harness.runner.build(spec, log, cancelled)
        return log.getvalue()

    def test_long_steps_and_variables_of_several_lines(self, harness: DockerHarness) -> None:
        several = "one\n\n  #two\n'three'\n"
        steps = ("printf %s " + "x" * 100_000 + " > /long", 'printf %s "$V" > /several; printf %s "$L" > /l')
        self.build(harness, harness.build_spec(*steps, env={"V": several, "L": "v" * 90_000}))
        cmd = 'head -c 3 /long; printf %s "$V"; cat /several; head -c 3 /l'
        handle = harness.runner.start(spec := harness.spec(cmd, env={"V": several}), self.artifact)
        harness.end(handle)
        assert harness.log(spec, handle).decode() == f"xxx{several}{several}vvv"

    def test_a_step_that_says_what_the_engine_says_is_not_taken_for_it(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed) as failed:
            self.build(harness, harness.build_spec("true", "echo 'Step 9/9 : RUN x'; exit 7", "true"))
        assert (failed.value.build_step, failed.value.exit_code) == (2, 7)

    @pytest.mark.parametrize("times", [1, builds.BUILD_ATTEMPTS])
    def test_a_layer_that_is_removed_under_a_build_is_no_fault_of_the_job(
        self, harness: DockerHarness, monkeypatch: Any, times: int
    ) -> None:
        begun = []

        class Answer(builds._ResponseLines):
            def __init__(self, client: Any, path: str, *others: Any) -> None:
                super().__init__(client, path, *others)
                begun.append(path)

            def next(self, seconds: float) -> bytes | None:
                line = super().next(seconds)
                if begun.count("/build") <= times and line is not None and b"2/" in line:
                    return b'{"error": "failed to get digest sha256:4f3b: open /x/4f3b: no such file or directory"}'
                return line

        monkeypatch.setattr(builds, "_ResponseLines", Answer)
        spec = harness.build_spec("echo one > /made", "echo two >> /made")
        if times == builds.BUILD_ATTEMPTS:
            with pytest.raises(BuildFailed, match="failed to get digest"):
                self.build(harness, spec)
        else:
            log = self.build(harness, spec)
            assert b"starts again without the cache" in log
            handle = harness.runner.start(job := harness.spec("cat /made"), self.artifact)
            harness.end(handle)
            assert harness.log(job, handle) == b"one\ntwo\n"
        assert begun.count("/build") == min(times + 1, builds.BUILD_ATTEMPTS)

    def test_a_step_that_never_pauses_is_ended_and_bounded(self, harness: DockerHarness) -> None:
        log, full_at = io.BytesIO(), []

        def cancelled() -> bool:
            if len(log.getvalue()) >= 1_000_000:
                full_at.append(time.monotonic())
            return len(full_at) > 3

        with pytest.raises(BuildFailed, match="cancelled"):
            harness.runner.build(harness.build_spec("yes", log_limit=1_000_000, timeout=60), log, cancelled)
        assert time.monotonic() - full_at[0] < 10
        assert len(log.getvalue()) < 1_100_000
        assert b"polyjob dropped" in log.getvalue()[-200:]

    def test_a_registry_that_never_answers_keeps_no_build(self, harness: DockerHarness) -> None:
        with silent_registry() as address:
            spec = dataclasses.replace(harness.build_spec(), image=f"{address}/none:1")
            ends = time.monotonic() + 1.5
            with pytest.raises(BuildFailed, match="cancelled"):
                self.build(harness, spec, lambda: time.monotonic() > ends)
            assert time.monotonic() - ends < 10

    def test_a_registry_is_shown_what_docker_login_has_kept(
        self, harness: DockerHarness, monkeypatch: Any, tmp_path: Path
    ) -> None:
        shown: list[str | None] = []

        class Handler(Silent):
            def do_GET(self) -> None:
                shown.append(self.headers["Authorization"])
                self.send_response(404 if shown[-1] else 401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

        with registry(Handler) as address:
            kept = {"auths": {address: {"auth": base64.b64encode(b"ana:secret").decode()}}}
            (tmp_path / "config.json").write_text(json.dumps(kept))
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
            spec = dataclasses.replace(harness.build_spec(), image=f"{address}/none:1")
            with pytest.raises(BuildFailed, match="does not exist"):
                harness.another().build(spec, io.BytesIO(), lambda: False)
        assert f"Basic {base64.b64encode(b'ana:secret').decode()}" in shown

    @pytest.mark.parametrize(
        ("status", "said"), [(404, "does not exist or cannot be pulled"), (503, "cannot be reached")]
    )
    def test_a_registrys_answer_is_not_taken_for_another_by_the_images_name(
        self, harness: DockerHarness, status: int, said: str
    ) -> None:
        class Handler(Silent):
            def do_GET(self) -> None:
                text = (
                    f'{{"errors": [{{"code": "UNKNOWN", "message": "no {name} here"}}]}}' if "none" in self.path else ""
                )
                self.send_response(status if text else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else text.encode())

            do_HEAD = do_GET

        with registry(Handler) as address:
            name = f"{address}/none-tls-timeout"
            with pytest.raises(BuildFailed, match=f"{name}:1` {said}"):
                self.build(harness, dataclasses.replace(harness.build_spec(), image=f"{name}:1"))

    def test_a_pull_that_fails_on_its_way_names_the_image(self, harness: DockerHarness) -> None:
        layer = f"sha256:{'1' * 64}"
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}})
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        parts = {
            "config": {"size": len(config), "digest": f"sha256:{hashlib.sha256(config.encode()).hexdigest()}"},
            "layers": [{"size": 9, "digest": layer}],
        }
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, **parts})

        class Handler(Silent):
            def do_GET(self) -> None:
                text = manifest if "/manifests/" in self.path else config if "/blobs/" in self.path else ""
                self.send_response(404 if layer in self.path else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else text.encode())

            do_HEAD = do_GET

        with registry(Handler) as address, pytest.raises(BuildFailed, match=f"`{address}/half:1` .*cannot be pulled"):
            self.build(harness, dataclasses.replace(harness.build_spec(), image=f"{address}/half:1"))

    def test_a_registry_that_is_not_there_is_said_to_be_out_of_reach(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed, match=r"registry of `127\.0\.0\.1:9/none:1` cannot be reached"):
            self.build(harness, dataclasses.replace(harness.build_spec(), image="127.0.0.1:9/none:1"))

    def test_what_the_engine_refuses_fails_and_is_not_tried_again(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed):
            self.build(harness, dataclasses.replace(harness.build_spec("true"), image="UPPER"))

    def test_an_image_that_is_gone_or_whose_base_is_another_is_outdated(self, harness: DockerHarness) -> None:
        name = f"polyjob-test-{harness.installation[:12]}:1"
        engine = harness.engine
        engine.tag(IMAGE, *name.split(":"))
        try:
            self.build(harness, dataclasses.replace(harness.build_spec("true"), image=name))
            made = json.loads(self.artifact)["image"]
            engine.tag(made, *name.split(":"), force=True)
            with pytest.raises(ArtifactMissing, match="has changed"):
                harness.runner.start(harness.says("x"), self.artifact)
            pinned = harness.runner.start(dataclasses.replace(harness.says("x"), is_pinned=True), self.artifact)
            assert harness.end(pinned).succeeded
            harness.runner.clean(pinned)
            engine.tag(IMAGE, *name.split(":"), force=True)
            engine.remove_image(made, force=True)
            with pytest.raises(ArtifactMissing, match="not there any more"):
                harness.runner.start(harness.says("x"), self.artifact)
            assert harness.runner.inventory() == {}
        finally:
            engine.remove_image(name, force=True)


class Silent(BaseHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def registry(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of one that answers like this."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def silent_registry() -> Iterator[str]:
    """The address of one that says that it is there, and nothing more."""

    class Handler(Silent):
        def do_GET(self) -> None:
            if self.path != "/v2/":
                over.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

    over = threading.Event()
    with registry(Handler) as address:
        try:
            yield address
        finally:
            over.set()


@pytest.mark.parametrize("asked", [Resources(cpu=0.001), Resources(pids=5_000_000)])
def test_bounds_that_the_machine_cannot_set_are_a_fault_of_the_job(harness: DockerHarness, asked: Resources) -> None:
    with pytest.raises(StartFailed, match="invalid argument"):
        harness.runner.start(harness.spec("true", resources=asked), None)
    assert harness.runner.inventory() == {}


def test_a_machine_that_has_no_room_is_not_the_jobs_fault(harness: DockerHarness, monkeypatch: Any) -> None:
    words = "OCI runtime create failed: mkdir /run/containerd: no space left on device"
    monkeypatch.setattr(docker.APIClient, "start", refusing(500, words))
    with pytest.raises(RunnerUnavailable, match="no space left"):
        harness.runner.start(harness.says("x"), None)


@pytest.fixture
def image(harness: DockerHarness) -> Iterator[Any]:
    """Makes an image with further lines of a Dockerfile."""
    name = f"polyjob-test-{harness.installation[:12]}:1"

    def make(*lines: str) -> str:
        sent = tarstream.context("\n".join([f"FROM {IMAGE}", *lines]), [])
        said = list(harness.engine.build(fileobj=io.BytesIO(sent), custom_context=True, tag=name, rm=True, decode=True))
        assert "error" not in said[-1], said
        return name

    yield make
    for item in harness.runner.inventory().values():
        harness.runner.clean(item)
    harness.engine.remove_image(name, force=True)


def test_an_image_whose_working_folder_is_a_file_is_refused(harness: DockerHarness, image: Any) -> None:
    with pytest.raises(StartFailed, match="not a directory"):
        harness.runner.start(harness.spec("true", image=image("RUN rm -r /code; echo > /code")), None)
    assert harness.runner.inventory() == {}


@pytest.mark.parametrize("instead", ["echo x >", "ln -s /polyjob", "ln -s /nowhere"])
def test_what_stands_where_the_folder_above_was_leaves_no_outputs(harness: DockerHarness, instead: str) -> None:
    spec = harness.spec(f"rm -r /polyjob; {instead} /polyjob")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []


def test_outputs_that_lie_deeper_than_a_path_is_long_do_not_keep_the_others(harness: DockerHarness) -> None:
    deep = "for i in $(seq 40); do mkdir $n; cd -P $n; done"
    cmd = f"cd $POLYAXON_RUN_OUTPUTS_PATH; echo x > kept; n={'d' * 200}; {deep}"
    handle = harness.runner.start(harness.spec(cmd), None)
    harness.end(handle)
    with tarfile.open(fileobj=io.BytesIO(b"".join(harness.runner.outputs(handle)))) as outputs:
        assert "kept" in outputs.getnames()


def test_outputs_in_a_volume_of_the_image_are_kept(harness: DockerHarness, image: Any) -> None:
    handle = harness.runner.start(
        harness.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/kept", image=image("VOLUME /polyjob")), None
    )
    assert harness.end(handle).succeeded
    with tarfile.open(fileobj=io.BytesIO(b"".join(harness.runner.outputs(handle)))) as outputs:
        assert outputs.getnames() == ["kept"]


def test_an_image_in_which_no_folders_can_be_made_says_so_in_the_log(harness: DockerHarness, image: Any) -> None:
    spec = harness.spec("echo x", image=image("RUN echo > /polyjob"))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    log = harness.log(spec, handle)
    assert log.startswith(b"mkdir: can't create directory")
    assert log.endswith(b"\nx\n")
    assert b"polyjob" not in log.replace(b"/polyjob", b"")
    assert list(harness.runner.outputs(handle)) == []


def test_a_container_that_somebody_starts_again_has_ended_as_it_did_first(harness: DockerHarness) -> None:
    spec = harness.spec("echo ran >> $POLYAXON_RUN_OUTPUTS_PATH/runs; sleep 1000")
    handle = harness.runner.start(spec, None)
    wait_for(lambda: isinstance(harness.state(handle), Running))
    harness.engine.restart(spec.name, timeout=5)
    end = harness.end(handle)
    assert (end.reason, end.code) == (Reason.SIGNALLED, 143)
    harness.runner.clean(handle)
    assert harness.runner.inventory() == {}


def test_a_command_that_outlives_a_process_killed_for_its_memory_says_so(harness: DockerHarness) -> None:
    hungry = "echo 1000 > /proc/self/oom_score_adj; head -c 200000000 /dev/zero | tail -c 100000000 > /dev/null"
    end, _ = run(harness, f"sh -c '{hungry}'; sleep 0.5; exit 0", resources=Resources(memory=16 << 20))
    assert end.succeeded
    assert end.message is not None
    assert "more memory" in end.message


def test_engine_in_the_place_of_another_is_noticed(harness: DockerHarness, monkeypatch: Any) -> None:
    handle = harness.runner.start(harness.lasts(), None)
    assert isinstance(harness.runner, DockerRunner)
    with monkeypatch.context() as other:
        other.setattr(docker.APIClient, "containers", lambda *args, **options: [])
        other.setattr(docker.APIClient, "volumes", lambda *args, **options: {"Volumes": None})
        other.setattr(docker.APIClient, "create_volume", lambda *args, **options: None)
        harness.runner._is_known = False  # as after a break of the stream of events
        assert isinstance(harness.state(handle), Unknown)
        with pytest.raises(RunnerUnavailable, match="another Docker Engine"):
            harness.runner.clean(handle)
    harness.runner._is_known = False
    wait_for(lambda: isinstance(harness.state(handle), Running))


@on_podman_too
def test_engine_id_that_changes_is_not_another_engine(harness: DockerHarness, monkeypatch: Any) -> None:
    handle = harness.runner.start(harness.lasts(), None)
    original = docker.APIClient.info
    monkeypatch.setattr(docker.APIClient, "info", lambda self: original(self) | {"ID": uuid.uuid4().hex})
    harness.runner = harness.another()
    wait_for(lambda: isinstance(harness.state(handle), Running))
    harness.runner.stop(handle, force=True)
    assert harness.end(handle).signal == 9


@on_podman_too
def test_removed_mark_of_the_engine_is_made_again(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.says("x"), None)
    harness.end(handle)
    mark = json.loads(handle)["engine"]
    harness.engine.remove_volume(mark)
    harness.runner = harness.another()
    harness.end(handle)
    assert harness.engine.inspect_volume(mark)["Labels"]["polyjob.engine"] == mark
    harness.runner.clean(handle)


def test_a_fence_goes_once_nothing_can_be_on_its_way_any_more(harness: DockerHarness) -> None:
    spec = harness.says("x")
    assert harness.runner.prevent_start(spec.uuid) is None
    record = Path(harness.runner.settings.data_dir) / "docker" / spec.uuid
    os.utime(record, (0, time.time() - FENCE_LIFETIME_SECONDS - 1))
    (handle,) = harness.runner.inventory().values()
    harness.runner.clean(handle)
    assert list(record.parent.iterdir()) == []


# Images of others.


@pytest.fixture
def private(harness: DockerHarness, other: DockerHarness) -> tuple[str, str]:
    """The tag and the id of an image that another installation has built with a secret."""
    spec = other.build_spec("echo secret > /secret", env={"TOKEN": "secret"})
    artifact = json.loads(str(other.runner.build(spec, io.BytesIO(), lambda: False)))
    return artifact["image"], artifact["id"].removeprefix("sha256:")


@pytest.mark.parametrize("length", [1, 2, 6, 12, 64])
def test_image_of_another_build_cannot_be_run_by_its_id(
    harness: DockerHarness, private: tuple[str, str], length: int
) -> None:
    name = private[1][:length]
    with pytest.raises(BuildFailed):
        harness.runner.build(dataclasses.replace(harness.build_spec(), image=name), io.BytesIO(), lambda: False)
    with pytest.raises(BuildFailed):
        harness.runner.build(dataclasses.replace(harness.build_spec("env"), image=name), io.BytesIO(), lambda: False)
    with pytest.raises(StartFailed):
        harness.runner.start(harness.spec("env; cat /secret", image=name), None)
    assert harness.runner.inventory() == {}


@on_podman_too
@pytest.mark.parametrize("form", ["{}", "docker.io/library/{}", "library/{}"])
def test_image_of_another_build_cannot_be_run_by_its_tag(
    harness: DockerHarness, private: tuple[str, str], form: str
) -> None:
    spec = dataclasses.replace(harness.build_spec("env"), image=form.format(private[0]))
    with pytest.raises(BuildFailed, match="another build of polyjob"):
        harness.runner.build(spec, io.BytesIO(), lambda: False)


# Builds.


def build(harness: DockerHarness, *steps: str, **fields: Any) -> tuple[str, str]:
    """(artifact, log) of a build."""
    log = io.BytesIO()
    artifact = harness.runner.build(dataclasses.replace(harness.build_spec(*steps), **fields), log, lambda: False)
    return str(artifact), log.getvalue().decode()


def output_of(harness: DockerHarness, cmd: str, artifact: str | None = None, **fields: Any) -> str:
    """The log of a job that has succeeded."""
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(dataclasses.replace(spec, is_pinned=True), artifact)
    end = harness.end(handle)
    log = harness.log(spec, handle).decode()
    assert end.succeeded, (end, log)
    return log


@on_podman_too
def test_job_on_an_older_build_gets_that_builds_image(harness: DockerHarness) -> None:
    first, second = (build(harness, "cat /proc/sys/kernel/random/uuid > /id", key="k" * 64)[0] for _ in range(2))
    ids = [output_of(harness, "cat /id", artifact) for artifact in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]


def test_missing_image_of_a_named_build_is_told(harness: DockerHarness) -> None:
    artifact, _ = build(harness, "echo > /made")
    harness.runner.remove_artifact(str(harness.runner.artifact_name(artifact)))
    with pytest.raises(StartFailed, match=r"`polyjob:.* does not exist any more") as failed:
        harness.runner.start(dataclasses.replace(harness.says("x"), is_pinned=True), artifact)
    assert failed.value.reason is Reason.IMAGE


@pytest.mark.parametrize(("is_pinned", "error"), [(True, StartFailed), (False, ArtifactMissing)])
def test_image_that_goes_during_the_start_is_told(
    harness: DockerHarness, monkeypatch: Any, is_pinned: bool, error: type[Exception]
) -> None:
    artifact, _ = build(harness, "echo > /made")
    original = docker.APIClient.create_container_from_config

    def create(client: Any, *arguments: Any) -> Any:
        client.remove_image(json.loads(artifact)["image"])
        return original(client, *arguments)

    monkeypatch.setattr(docker.APIClient, "create_container_from_config", create)
    with pytest.raises(error, match="not there any more"):
        harness.runner.start(dataclasses.replace(harness.says("x"), is_pinned=is_pinned), artifact)
    assert harness.runner.inventory() == {}


def test_build_without_nocache_reuses_layers_but_not_the_image(harness: DockerHarness) -> None:
    step = f"echo {uuid.uuid4().hex} > /made; cat /proc/sys/kernel/random/uuid > /id"
    first, second, third = (build(harness, step, nocache=nocache)[0] for nocache in (False, False, True))
    assert len({json.loads(artifact)["id"] for artifact in (first, second, third)}) == 3
    ids = [output_of(harness, "cat /id", artifact) for artifact in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]


@on_podman_too
def test_layers_of_a_failed_build_are_held_until_dropped(harness: DockerHarness) -> None:
    with pytest.raises(BuildFailed):
        build(harness, "head -c 3000000 /dev/urandom > /f", "exit 1")
    held = harness.runner.cached_artifacts()
    assert sum(held.values()) >= 3_000_000
    for name in held:
        harness.runner.remove_artifact(name)
    assert harness.runner.cached_artifacts() == {}


@pytest.mark.parametrize("words", ["no space left on device", "failed to create endpoint x on network bridge"])
def test_fault_of_the_machine_fails_no_build(harness: DockerHarness, monkeypatch: Any, words: str) -> None:
    answer = {"errorDetail": {"message": f"write /f: {words}"}, "error": f"write /f: {words}"}
    monkeypatch.setattr(builds._ResponseLines, "next", lambda self, seconds: json.dumps(answer).encode())
    with pytest.raises(RunnerUnavailable, match=words):
        build(harness, "true", nocache=False)


@pytest.mark.parametrize("code", builds.KILLED_EXIT_CODES)
def test_killed_step_of_a_stopped_engine_fails_no_build(harness: DockerHarness, monkeypatch: Any, code: int) -> None:
    def away(self: Any) -> None:
        raise requests.ConnectionError("connection refused")

    monkeypatch.setattr(docker.APIClient, "ping", away)
    with pytest.raises(RunnerUnavailable, match="cannot be reached"):
        build(harness, f"exit {code}")
    monkeypatch.undo()
    with pytest.raises(BuildFailed) as failed:
        build(harness, f"exit {code}")
    assert (failed.value.build_step, failed.value.exit_code) == (1, code)


def test_base_that_cannot_be_pulled_again_is_used_as_it_is(harness: DockerHarness) -> None:
    name = "127.0.0.1:9/polyjob-test"
    harness.engine.tag(IMAGE, name, "1")
    try:
        artifact, log = build(harness, "echo made > /made", image=f"{name}:1", nocache=True)
        assert "Pulling 127.0.0.1:9/polyjob-test:1" in log
        assert "The image on the Docker Engine is used" in log
        assert "Pulling" not in build(harness, "echo made > /made", image=f"{name}:1", nocache=False)[1]
        assert output_of(harness, "cat /made", artifact) == "made\n"
    finally:
        harness.engine.remove_image(f"{name}:1", force=True)


@pytest.mark.parametrize("totals", [[8, 11, 11, 11, 11, 11, 11, 11], [8, 8, 8, 8, 8], [8, 9, 9, 9, 9, 9, 12]])
def test_step_is_counted_without_the_triggers_of_its_base(totals: list[int]) -> None:
    log = builds.BuildLog(io.BytesIO(), 10_000)
    talk = builds.BuildStream(None, log, lambda: None, first_step=5)
    for number, total in enumerate(totals, 1):
        talk._process_line({"stream": f"STEP {number}/{total}: RUN x\n"})
    with pytest.raises(BuildFailed) as failed:
        talk._process_line({"error": 'building at STEP "RUN x": while running runtime: exit status 7'})
    assert (failed.value.build_step, failed.value.exit_code) == (1, 7)


@on_podman_too
@pytest.mark.parametrize("steps", [["exit 7"], ["true", "exit 7"]])
def test_failing_step_on_a_base_with_triggers_is_named(harness: DockerHarness, image: Any, steps: list[str]) -> None:
    with pytest.raises(BuildFailed) as failed:
        build(harness, *steps, image=image("ONBUILD RUN true", "ONBUILD ENV A=B"))
    assert (failed.value.build_step, failed.value.exit_code) == (len(steps), 7)


@pytest.mark.parametrize(("speaker", "code"), [(SEPARATE_STEPS, 6), (SEPARATE_STEPS - 1, 6), (SEPARATE_STEPS, 7)])
def test_output_of_a_step_names_no_other_step_as_failed(speaker: int, code: int) -> None:
    talk = builds.BuildStream(None, builds.BuildLog(io.BytesIO(), 100_000), lambda: None, first_step=1)
    for number in range(1, SEPARATE_STEPS + 1):
        talk._process_line({"stream": f"Step {number}/{SEPARATE_STEPS} : RUN x\n"})
        if number == speaker:
            talk._process_line({"stream": "polyjob: step 3 ended with exit code 6\n"})
    with pytest.raises(BuildFailed) as failed:
        talk._process_line({"error": "…", "errorDetail": {"code": code}})
    assert (failed.value.build_step, failed.value.exit_code) == (SEPARATE_STEPS, code)


@pytest.mark.parametrize(
    ("harness", "line"),
    [
        ("docker", "VOLUME /code"),
        ("docker", "VOLUME /data /code"),
        ("docker", "ONBUILD VOLUME /code"),  # Podman drops triggers
        ("podman", "VOLUME /data /code"),
    ],
    indirect=["harness"],
)
def test_volumes_of_a_base_are_named_in_the_log_of_the_build(harness: DockerHarness, image: Any, line: str) -> None:
    _, log = build(harness, "echo > /made", image=image(line))
    assert re.search("loses what build steps write there: .*/code", log)


def test_step_beyond_the_layers_of_an_image_is_named_when_it_fails(harness: DockerHarness) -> None:
    steps = [f"echo {number} >> /made" for number in range(1, 131)]
    artifact, _ = build(harness, *steps, nocache=False)
    assert output_of(harness, "cat /made", artifact).split() == [str(number) for number in range(1, 131)]
    with pytest.raises(BuildFailed) as failed:
        build(harness, *steps[:99], "exit 9", *steps[100:], nocache=False)
    assert (failed.value.build_step, failed.value.exit_code) == (100, 9)


@pytest.mark.parametrize("value", ["one\ntwo", "漢" * 33_000, "=" * 99_000, " " * 99_000, "#" * 99_000])
def test_any_build_variable_reaches_the_steps(harness: DockerHarness, value: str) -> None:
    artifact, _ = build(harness, 'printf %s "$V" > /v', env={"V": value}, nocache=False)
    assert output_of(harness, "cat /v", artifact) == value


def test_proxies_of_the_client_reach_steps_and_jobs(harness: DockerHarness, monkeypatch: Any, tmp_path: Path) -> None:
    proxies = {"default": {"httpProxy": "http://proxy:1", "noProxy": "localhost"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    harness.runner = harness.another()
    artifact, _ = build(harness, "echo $HTTP_PROXY $no_proxy > /made", nocache=False)
    log = output_of(harness, "cat /made; echo $http_proxy $HTTP_PROXY", artifact, env={"HTTP_PROXY": "http://own:2"})
    assert log == "http://proxy:1 localhost\nhttp://own:2\n"
    own = {"http_proxy": ""}
    artifact, _ = build(harness, "echo [$HTTP_PROXY$http_proxy] $NO_PROXY > /made", env=own, nocache=False)
    assert output_of(harness, "cat /made; echo [$HTTP_PROXY$http_proxy]", artifact, env=own) == "[] localhost\n[]\n"


# Users.


@pytest.mark.parametrize(
    "lines",
    [
        ["USER 1000:1000"],
        ["USER 1000"],
        ["RUN chmod 700 /code", "USER 1000:1000"],
        ["RUN rmdir /code", "USER 1000:1000"],
        ["ONBUILD USER 1000:1000"],
    ],
)
@pytest.mark.parametrize("has_code", [False, True])
def test_user_of_an_image_can_use_all_files_of_the_job(
    harness: DockerHarness, image: Any, tmp_path: Path, lines: list[str], has_code: bool
) -> None:
    code = archive(tmp_path / "code.tar.gz", ("main.sh", {"text": "echo main", "mode": 0o700}), ("d/", {"mode": 0o700}))
    artifact, _ = build(harness, "touch made && ls -ld made", image=image(*lines), nocache=False)
    cmd = "touch here made $POLYAXON_RUN_OUTPUTS_PATH/out"
    cmd += " && sh main.sh && touch d/x && echo >> main.sh" if has_code else ""
    log = output_of(harness, cmd, artifact, upload=code if has_code else None)
    assert log == ("main\n" if has_code else "")


@pytest.mark.parametrize("has_code", [False, True])
def test_folders_of_a_job_have_one_mode(harness: DockerHarness, tmp_path: Path, has_code: bool) -> None:
    code = archive(tmp_path / "code.tar.gz", ("a", "x")) if has_code else None
    log = output_of(harness, "ls -ld /code $POLYAXON_RUN_OUTPUTS_PATH $POLYAXON_LOGS_PATH", upload=code)
    assert [line.split()[0] for line in log.splitlines()] == ["drwxrwxrwx"] * 3


# Containers.


@on_podman_too
def test_container_is_hardened(harness: DockerHarness) -> None:
    spec = harness.spec("sleep 1000", resources=Resources(memory=64 << 20))
    harness.runner.start(spec, None)
    made = harness.engine.inspect_container(spec.name)
    config = made["HostConfig"]
    assert (config["PidsLimit"], config["OomScoreAdj"]) == (MAX_PROCESSES, OOM_SCORE_ADJ)
    assert "NET_RAW" in {name.removeprefix("CAP_") for name in config["CapDrop"]}
    assert (config["ShmSize"], config["MemorySwap"]) == (32 << 20, 64 << 20)
    assert made["Config"]["Healthcheck"]["Test"] == ["NONE"]


def talking(address: str) -> str:
    return f"(echo hello; sleep 1) | busybox nc -w 2 {address} 8000; echo end"


def test_jobs_do_not_reach_each_other(harness: DockerHarness) -> None:
    spec = harness.spec("while true; do echo reached | busybox nc -l -p 8000; done")
    harness.runner.start(spec, None)

    def address() -> str:
        (network,) = harness.engine.inspect_container(spec.name)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    assert "reached" not in output_of(harness, talking(wait_for(address)))


def test_job_reaches_a_server_on_the_engines_machine(harness: DockerHarness) -> None:
    harness.runner.check()
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        network = harness.engine.inspect_network(f"polyjob-{harness.installation[:12]}")
        gateway = network["IPAM"]["Config"][0]["Gateway"]
        harness.runner.start(harness.spec(talking(gateway).replace("8000", str(port))), None)
        server.settimeout(20)
        line, _ = server.accept()
        with line:
            assert line.recv(100) == b"hello\n"


def test_removed_network_is_made_again(harness: DockerHarness, monkeypatch: Any) -> None:
    spec, original = harness.says("x"), docker.APIClient.start

    def start(client: Any, identity: str) -> None:
        client.remove_network(f"polyjob-{harness.installation[:12]}")
        original(client, identity)

    with monkeypatch.context() as pruned:
        pruned.setattr(docker.APIClient, "start", start)
        with pytest.raises(RunnerUnavailable, match="not found"):
            harness.runner.start(spec, None)
    assert harness.end(harness.runner.start(spec, None)).succeeded
    assert harness.runs(spec) == 1


def test_networks_that_two_processes_made_at_once_become_one(harness: DockerHarness) -> None:
    label = f"polyjob.installation={harness.installation}"
    name = f"polyjob-{harness.installation[:12]}"
    spec = harness.says("x")
    handle = harness.runner.start(spec, None)
    (first,) = harness.engine.networks(filters={"label": label})
    harness.engine.create_network(name, "bridge", labels={"polyjob.installation": harness.installation})
    other = harness.says("y")
    with pytest.raises(RunnerUnavailable, match="ambiguous"):
        harness.runner.start(other, None)
    assert harness.end(harness.runner.start(other, None)).succeeded
    assert harness.end(handle).succeeded
    assert [found["Id"] for found in harness.engine.networks(filters={"label": label})] == [first["Id"]]


def test_job_without_a_memory_limit_gets_the_set_shared_memory(harness: DockerHarness) -> None:
    assert output_of(harness, "head -c 100000000 /dev/zero > /dev/shm/x && echo fits") == "fits\n"


def test_limits_that_the_engine_lacks_become_a_note(harness: DockerHarness, monkeypatch: Any) -> None:
    original = docker.APIClient.info
    lacking = {"MemoryLimit": False, "PidsLimit": False}
    monkeypatch.setattr(docker.APIClient, "info", lambda self: original(self) | lacking)
    harness.runner = harness.another()
    spec = harness.spec("sleep 1000", resources=Resources(memory=64 << 20))
    handle = harness.runner.start(spec, None)
    state = wait_for(lambda: harness.state(handle))
    assert isinstance(state, Running)
    assert state.note == "Ignored `environment.resources.memory`: this Docker Engine cannot limit memory."
    assert harness.engine.inspect_container(spec.name)["HostConfig"]["Memory"] == 0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("ln -s /nowhere /bin/new", "`/bin/sh` of the image could not be run"),
        ("printf 'no program' > /bin/new && chmod 755 /bin/new", "exec format error.*the image is for"),
        ("cat /bin/busybox > /bin/new", "permission denied"),
    ],
)
def test_shell_that_cannot_be_run_is_a_failed_start(
    harness: DockerHarness, image: Any, step: str, message: str
) -> None:
    name = image(f"RUN {step} && mv /bin/new /bin/sh")
    end = harness.end(harness.runner.start(harness.spec("true", image=name), None))
    assert end.reason is Reason.START
    assert re.search(message, str(end.message), re.IGNORECASE)


def test_output_that_looks_like_a_failed_start_is_none(harness: DockerHarness) -> None:
    end, _ = run(harness, "echo '[FATAL tini (6)] exec /bin/sh failed: No such file or directory'; exit 127")
    assert (end.reason, end.code) == (Reason.EXITED, 127)


@on_podman_too
@pytest.mark.parametrize("circle", ["ln -s /polyjob /polyjob", "ln -s /b /polyjob; ln -s /polyjob /b"])
def test_circle_of_links_leaves_no_outputs(harness: DockerHarness, circle: str) -> None:
    handle = harness.runner.start(harness.spec(f"rm -r /polyjob; {circle}"), None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []


@pytest.mark.parametrize("call", ["logs", "outputs"])
def test_files_that_the_engine_does_not_give_are_refused(harness: DockerHarness, monkeypatch: Any, call: str) -> None:
    handle = harness.runner.start(harness.says("x"), None)
    harness.end(handle)
    original, refuse = docker.APIClient._raise_for_status, refusing(500, "words that nobody has heard before")

    def answer(client: Any, response: Any) -> None:
        (refuse if response.url.partition("?")[0].endswith(("/logs", "/archive")) else original)(client, response)

    monkeypatch.setattr(docker.APIClient, "_raise_for_status", answer)
    assert isinstance(harness.runner, DockerRunner)
    with pytest.raises(RunnerRefused, match="nobody has heard"):
        harness.runner.logs(handle, None, 100) if call == "logs" else list(harness.runner.outputs(handle))


@pytest.mark.parametrize("call", ["logs", "archive"])
def test_container_whose_files_the_engine_refuses_ends_beside_others(
    harness: DockerHarness, monkeypatch: Any, call: str
) -> None:
    handles = [harness.runner.start(harness.spec(f"exit {code}"), None) for code in (3, 4)]
    original, refuse = docker.APIClient._raise_for_status, refusing(500, "container.log: is a directory")

    def answer(client: Any, response: Any) -> None:
        (refuse if response.url.partition("?")[0].endswith(f"/{call}") else original)(client, response)

    monkeypatch.setattr(docker.APIClient, "_raise_for_status", answer)
    assert [harness.end(handle).code for handle in handles] == [3, 4]


@pytest.mark.parametrize("words", ["unheard of", "too many open files"])
def test_refusal_about_one_container_leaves_other_states_known(
    harness: DockerHarness, monkeypatch: Any, words: str
) -> None:
    broken, healthy = (harness.runner.start(harness.spec("exit 3"), None) for _ in range(2))
    original, identity = docker.APIClient.inspect_container, json.loads(broken)["id"]
    refuse = refusing(500, words)
    monkeypatch.setattr(
        docker.APIClient,
        "inspect_container",
        lambda client, name: (refuse if name == identity else original)(*([] if name == identity else [client]), name),
    )
    assert harness.end(healthy).code == 3
    states = harness.runner.poll([broken, healthy])
    assert isinstance(states[broken], Unknown)
    assert words in states[broken].reason


# Logs.


@on_podman_too
@pytest.mark.parametrize("size", [16_383, 16_384, 20_000, 32_768, 40_000])
def test_long_lines_keep_their_feed(harness: DockerHarness, size: int) -> None:
    _, log = run(
        harness, f"head -c {size} /dev/zero | tr '\\0' a; echo; echo next; head -c {size} /dev/zero | tr '\\0' b"
    )
    assert log == b"a" * size + b"\nnext\n" + b"b" * size


@on_podman_too
def test_job_resolves_the_name_of_the_engines_machine(harness: DockerHarness) -> None:
    env = {"POLYAXON_API": f"http://{DOCKER_HOST_ALIAS}:8000"}
    assert output_of(harness, f"grep -c {DOCKER_HOST_ALIAS} /etc/hosts", env=env) == "1\n"
