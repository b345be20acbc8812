"""Builds of the Docker runner on a real Engine: images, pulls, layers and failing steps."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import re
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

from runners.base import (
    BASE_CHANGED,
    ArtifactMissing,
    BuildFailed,
    Reason,
    Resources,
    RunnerUnavailable,
    StartFailed,
)
from runners.common import dockerfile
from runners.common.build_log import BuildLog
from runners.common.dockerfile import STEP_LAYERS
from runners.common.requirement_files import MAX_REQUIREMENT_FILE_BYTES
from runners.docker import build_stream, builds
from tests.require import is_long_run
from tests.runners.docker.helpers import build, on_podman_too, output_of, refusing
from tests.runners.harness import IMAGE, DockerHarness, archive


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

    def test_requirement_files_keep_their_executable_bit(self, harness: DockerHarness, tmp_path: Path) -> None:
        script = {"text": "#!/bin/sh\necho from setup", "mode": 0o750}
        code = archive(tmp_path / "code.tar.gz", ("setup.sh", script), ("requirements.txt", "x"))
        files = ("setup.sh", "requirements.txt")
        _, log = self.build(harness, "./setup.sh; [ ! -x requirements.txt ]", upload=code, requirement_files=files)
        assert b"from setup\n" in log

    def test_unusable_requirement_files_fail_the_build(self, harness: DockerHarness, tmp_path: Path) -> None:
        large = archive(tmp_path / "large.tar.gz", ("setup.sh", "x" * (MAX_REQUIREMENT_FILE_BYTES + 1)))
        (tmp_path / "broken.tar.gz").write_bytes(b"x" * 100)
        for code, message in ((large, "larger than 16 MiB"), (str(tmp_path / "broken.tar.gz"), "cannot be read")):
            with pytest.raises(BuildFailed, match=message):
                self.build(harness, "true", upload=code, requirement_files=("setup.sh",))

    def test_existing_image_is_not_built_again(self, harness: DockerHarness) -> None:
        import dataclasses

        spec = dataclasses.replace(harness.build_spec("echo hello"), nocache=False)
        first, second = io.BytesIO(), io.BytesIO()
        artifact = harness.runner.build(spec, first, lambda: False)
        assert harness.runner.build(spec, second, lambda: False) == artifact
        assert b"hello" in first.getvalue()
        assert b"exists already" in second.getvalue()

    def test_build_without_changes_is_the_base_image(self, harness: DockerHarness) -> None:
        artifact, _ = self.build(harness)
        assert json.loads(artifact)["image"] == IMAGE
        assert json.loads(artifact)["base"].startswith("sha256:")

    @pytest.mark.parametrize("image", ["polyjob.invalid/none:1", "polyjob-test-none"])
    def test_missing_base_image_fails_the_build(self, harness: DockerHarness, image: str) -> None:
        import dataclasses

        spec = dataclasses.replace(harness.build_spec(), image=image)
        with pytest.raises(BuildFailed, match=image):
            harness.runner.build(spec, io.BytesIO(), lambda: False)

    def test_builds_beyond_their_time_limit_fail(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed, match="time limit"):
            harness.runner.build(harness.build_spec("sleep 1000", timeout=1.0), io.BytesIO(), lambda: False)


class TestHardBuilds:
    def build(self, harness: DockerHarness, spec: Any, cancelled: Any = lambda: False) -> bytes:
        log = io.BytesIO()
        self.artifact = harness.runner.build(spec, log, cancelled)
        return log.getvalue()

    def test_long_steps_and_multiline_variables_are_built(self, harness: DockerHarness) -> None:
        several = "one\n\n  #two\n'three'\n"
        steps = ("printf %s " + "x" * 100_000 + " > /long", 'printf %s "$V" > /several; printf %s "$L" > /l')
        self.build(harness, harness.build_spec(*steps, env={"V": several, "L": "v" * 90_000}))
        cmd = 'head -c 3 /long; printf %s "$V"; cat /several; head -c 3 /l'
        handle = harness.runner.start(spec := harness.spec(cmd, env={"V": several}), self.artifact)
        harness.end(handle)
        assert harness.log(spec, handle).decode() == f"xxx{several}{several}vvv"

    def test_output_of_a_step_is_not_taken_for_the_engines(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed) as failed:
            self.build(harness, harness.build_spec("true", "echo 'Step 9/9 : RUN x'; exit 7", "true"))
        assert (failed.value.build_step, failed.value.exit_code) == (2, 7)

    @pytest.mark.parametrize("times", [1, builds.BUILD_ATTEMPTS])
    def test_removed_layer_restarts_the_build(self, harness: DockerHarness, monkeypatch: Any, times: int) -> None:
        begun = []

        class Answer(build_stream._ResponseLines):
            def __init__(self, client: Any, path: str, *others: Any) -> None:
                super().__init__(client, path, *others)
                begun.append(path)

            def next(self, seconds: float) -> bytes | None:
                line = super().next(seconds)
                if begun.count("/build") <= times and line is not None and b"2/" in line:
                    return b'{"error": "failed to get digest sha256:4f3b: open /x/4f3b: no such file or directory"}'
                return line

        monkeypatch.setattr(build_stream, "_ResponseLines", Answer)
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

    def test_noisy_endless_step_is_stopped_and_its_log_limited(self, harness: DockerHarness) -> None:
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

    def test_silent_registry_fails_the_build(self, harness: DockerHarness) -> None:
        with silent_registry() as address:
            spec = dataclasses.replace(harness.build_spec(), image=f"{address}/none:1")
            ends = time.monotonic() + 1.5
            with pytest.raises(BuildFailed, match="cancelled"):
                self.build(harness, spec, lambda: time.monotonic() > ends)
            assert time.monotonic() - ends < 10

    def test_registry_gets_the_stored_credentials(
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
            config = {"auths": {address: {"auth": base64.b64encode(b"ana:secret").decode()}}}
            (tmp_path / "config.json").write_text(json.dumps(config))
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
            spec = dataclasses.replace(harness.build_spec(), image=f"{address}/none:1")
            with pytest.raises(BuildFailed, match="does not exist"):
                harness.another().build(spec, io.BytesIO(), lambda: False)
        assert f"Basic {base64.b64encode(b'ana:secret').decode()}" in shown

    @pytest.mark.parametrize(
        ("status", "message"), [(404, "does not exist or cannot be pulled"), (503, "cannot be reached")]
    )
    def test_image_name_does_not_change_the_pull_error(self, harness: DockerHarness, status: int, message: str) -> None:
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
            with pytest.raises(BuildFailed, match=f"{name}:1` {message}"):
                self.build(harness, dataclasses.replace(harness.build_spec(), image=f"{name}:1"))

    def test_interrupted_pull_names_the_image(self, harness: DockerHarness) -> None:
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

    def test_missing_registry_is_reported_as_unreachable(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed, match=r"registry of `127\.0\.0\.1:9/none:1` cannot be reached"):
            self.build(harness, dataclasses.replace(harness.build_spec(), image="127.0.0.1:9/none:1"))

    def test_refused_build_fails_without_a_retry(self, harness: DockerHarness) -> None:
        with pytest.raises(BuildFailed):
            self.build(harness, dataclasses.replace(harness.build_spec("true"), image="UPPER"))

    def test_missing_image_or_changed_base_is_stale(self, harness: DockerHarness) -> None:
        name = f"polyjob-test-{harness.installation[:12]}:1"
        engine = harness.engine
        engine.tag(IMAGE, *name.split(":"))
        try:
            self.build(harness, dataclasses.replace(harness.build_spec("true"), image=name))
            built = json.loads(self.artifact)["image"]
            engine.tag(built, *name.split(":"), force=True)
            with pytest.raises(ArtifactMissing, match=BASE_CHANGED.format(name)):
                harness.runner.start(harness.printing_job("x"), self.artifact)
            pinned = harness.runner.start(dataclasses.replace(harness.printing_job("x"), is_pinned=True), self.artifact)
            assert harness.end(pinned).succeeded
            harness.runner.clean(pinned)
            engine.tag(IMAGE, *name.split(":"), force=True)
            engine.remove_image(built, force=True)
            with pytest.raises(ArtifactMissing, match="not exist any more"):
                harness.runner.start(harness.printing_job("x"), self.artifact)
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


@pytest.mark.parametrize("limits", [Resources(cpu=0.001), Resources(pids=5_000_000)])
def test_impossible_limits_fail_the_start(harness: DockerHarness, limits: Resources) -> None:
    with pytest.raises(StartFailed, match="invalid argument"):
        harness.runner.start(harness.spec("true", resources=limits), None)
    assert harness.runner.inventory() == {}


def test_full_machine_is_not_a_fault_of_the_job(harness: DockerHarness, monkeypatch: Any) -> None:
    words = "OCI runtime create failed: mkdir /run/containerd: no space left on device"
    monkeypatch.setattr(docker.APIClient, "start", refusing(500, words))
    with pytest.raises(RunnerUnavailable, match="no space left"):
        harness.runner.start(harness.printing_job("x"), None)


@pytest.fixture
def private(harness: DockerHarness, other: DockerHarness) -> tuple[str, str]:
    """The tag and the id of an image that another installation has built with a secret."""
    spec = other.build_spec("echo secret > /secret", env={"TOKEN": "secret"})
    artifact = json.loads(str(other.runner.build(spec, io.BytesIO(), lambda: False)))
    return artifact["image"], artifact["id"].removeprefix("sha256:")


@pytest.mark.sample(every=5)
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
    with pytest.raises(BuildFailed, match="image of another build"):
        harness.runner.build(spec, io.BytesIO(), lambda: False)


@on_podman_too
def test_job_on_an_older_build_gets_that_builds_image(harness: DockerHarness) -> None:
    first, second = (build(harness, "cat /proc/sys/kernel/random/uuid > /id", key="k" * 64)[0] for _ in range(2))
    ids = [output_of(harness, "cat /id", artifact) for artifact in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]


def test_missing_image_of_a_pinned_build_fails_the_start(harness: DockerHarness) -> None:
    artifact, _ = build(harness, "echo > /made")
    harness.runner.remove_artifact(str(harness.runner.artifact_name(artifact)))
    with pytest.raises(StartFailed, match=r"`polyjob:.* does not exist any more") as failed:
        harness.runner.start(dataclasses.replace(harness.printing_job("x"), is_pinned=True), artifact)
    assert failed.value.reason is Reason.IMAGE


@pytest.mark.parametrize(("is_pinned", "error"), [(True, StartFailed), (False, ArtifactMissing)])
def test_image_removed_during_the_start_is_reported(
    harness: DockerHarness, monkeypatch: Any, is_pinned: bool, error: type[Exception]
) -> None:
    artifact, _ = build(harness, "echo > /made")
    original = docker.APIClient.create_container_from_config

    def create(client: Any, *arguments: Any) -> Any:
        client.remove_image(json.loads(artifact)["image"])
        return original(client, *arguments)

    monkeypatch.setattr(docker.APIClient, "create_container_from_config", create)
    with pytest.raises(error, match="not exist any more"):
        harness.runner.start(dataclasses.replace(harness.printing_job("x"), is_pinned=is_pinned), artifact)
    assert harness.runner.inventory() == {}


def test_build_without_nocache_reuses_layers_but_not_the_image(harness: DockerHarness) -> None:
    step = f"echo {uuid.uuid4().hex} > /made; cat /proc/sys/kernel/random/uuid > /id"
    first, second, third = (build(harness, step, nocache=nocache)[0] for nocache in (False, False, True))
    assert len({json.loads(artifact)["id"] for artifact in (first, second, third)}) == 3
    ids = [output_of(harness, "cat /id", artifact) for artifact in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]


@on_podman_too
def test_layers_of_a_failed_build_are_cached_until_removed(harness: DockerHarness) -> None:
    with pytest.raises(BuildFailed):
        build(harness, "head -c 3000000 /dev/urandom > /f", "exit 1")
    artifacts = harness.runner.cached_artifacts()
    assert sum(artifacts.values()) >= 3_000_000
    for name in artifacts:
        harness.runner.remove_artifact(name)
    assert harness.runner.cached_artifacts() == {}


@pytest.mark.parametrize("words", ["no space left on device", "failed to create endpoint x on network bridge"])
def test_machine_faults_do_not_fail_builds(harness: DockerHarness, monkeypatch: Any, words: str) -> None:
    answer = {"errorDetail": {"message": f"write /f: {words}"}, "error": f"write /f: {words}"}
    monkeypatch.setattr(build_stream._ResponseLines, "next", lambda self, seconds: json.dumps(answer).encode())
    with pytest.raises(RunnerUnavailable, match=words):
        build(harness, "true", nocache=False)


@pytest.mark.parametrize("code", build_stream.KILLED_EXIT_CODES)
def test_stopped_engine_does_not_fail_the_build(harness: DockerHarness, monkeypatch: Any, code: int) -> None:
    def away(self: Any) -> None:
        raise requests.ConnectionError("connection refused")

    monkeypatch.setattr(docker.APIClient, "ping", away)
    with pytest.raises(RunnerUnavailable, match="cannot be reached"):
        build(harness, f"exit {code}")
    monkeypatch.undo()
    with pytest.raises(BuildFailed) as failed:
        build(harness, f"exit {code}")
    assert (failed.value.build_step, failed.value.exit_code) == (1, code)


def test_existing_base_is_used_if_the_pull_fails(harness: DockerHarness) -> None:
    name = "127.0.0.1:9/polyjob-test"
    harness.engine.tag(IMAGE, name, "1")
    try:
        artifact, log = build(harness, "echo made > /made", image=f"{name}:1", nocache=True)
        assert "Pulling 127.0.0.1:9/polyjob-test:1" in log
        assert "The existing image is used" in log
        assert "Pulling" not in build(harness, "echo made > /made", image=f"{name}:1", nocache=False)[1]
        assert output_of(harness, "cat /made", artifact) == "made\n"
    finally:
        harness.engine.remove_image(f"{name}:1", force=True)


@pytest.mark.parametrize("totals", [[8, 11, 11, 11, 11, 11, 11, 11], [8, 8, 8, 8, 8], [8, 9, 9, 9, 9, 9, 12]])
def test_step_number_excludes_onbuild_triggers(totals: list[int]) -> None:
    log = BuildLog(io.BytesIO(), 10_000)
    stream = build_stream.BuildStream(None, log, lambda: None, first_step=5)
    for number, total in enumerate(totals, 1):
        stream._process_line({"stream": f"STEP {number}/{total}: RUN x\n"})
    with pytest.raises(BuildFailed) as failed:
        stream._process_line({"error": 'building at STEP "RUN x": while running runtime: exit status 7'})
    assert (failed.value.build_step, failed.value.exit_code) == (1, 7)


@on_podman_too
@pytest.mark.parametrize("steps", [["exit 7"], ["true", "exit 7"]])
def test_failing_step_after_onbuild_triggers_is_named(harness: DockerHarness, image: Any, steps: list[str]) -> None:
    with pytest.raises(BuildFailed) as failed:
        build(harness, *steps, image=image("ONBUILD RUN true", "ONBUILD ENV A=B"))
    assert (failed.value.build_step, failed.value.exit_code) == (len(steps), 7)


@pytest.mark.parametrize(("printing_step", "code"), [(STEP_LAYERS, 6), (STEP_LAYERS - 1, 6), (STEP_LAYERS, 7)])
def test_step_output_cannot_blame_another_step(printing_step: int, code: int) -> None:
    stream = build_stream.BuildStream(None, BuildLog(io.BytesIO(), 100_000), lambda: None, first_step=1)
    for number in range(1, STEP_LAYERS + 1):
        stream._process_line({"stream": f"Step {number}/{STEP_LAYERS} : RUN x\n"})
        if number == printing_step:
            stream._process_line({"stream": "polyjob: step 3 ended with exit code 6\n"})
    with pytest.raises(BuildFailed) as failed:
        stream._process_line({"error": "…", "errorDetail": {"code": code}})
    assert (failed.value.build_step, failed.value.exit_code) == (STEP_LAYERS, code)


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
def test_volumes_of_the_base_are_named_in_the_log(harness: DockerHarness, image: Any, line: str) -> None:
    _, log = build(harness, "echo > /made", image=image(line))
    assert re.search("Files that build steps write there are lost: .*/code", log)


def test_failing_step_in_the_joined_layer_is_named(harness: DockerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    count, failing = 130, 100  # an Engine stacks fewer layers than that
    if not is_long_run():
        count, failing = 10, 7
        monkeypatch.setattr(dockerfile, "STEP_LAYERS", 4)
        monkeypatch.setattr(build_stream, "STEP_LAYERS", 4)
    steps = [f"echo {number} >> /made" for number in range(1, count + 1)]
    artifact, _ = build(harness, *steps, nocache=False)
    assert output_of(harness, "cat /made", artifact).split() == [str(number) for number in range(1, count + 1)]
    steps[failing - 1] = "exit 9"
    with pytest.raises(BuildFailed) as failed:
        build(harness, *steps, nocache=False)
    assert (failed.value.build_step, failed.value.exit_code) == (failing, 9)


@pytest.mark.sample(every=5)
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
