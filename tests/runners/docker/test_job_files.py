"""Files of jobs: uploads, outputs, and their owners and modes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest

from polyjob.storage.pack import Packer
from polyjob.storage.pack_stream import pack_stream
from runners.base import (
    HandleNotFound,
    Resources,
    RunnerRefused,
    StartFailed,
)
from runners.docker.containers import MAX_PROCESSES, OOM_SCORE_ADJ
from runners.docker.runner import DockerRunner
from runners.volumes import Volume
from tests.require import require
from tests.runners.docker.helpers import on_podman_too, output_of, refusing
from tests.runners.harness import DockerHarness, archive, folder_volume


@on_podman_too
@pytest.mark.parametrize("instead", ["ln -s /tmp", "echo x >", "mkfifo"])
def test_replaced_outputs_folder_is_noted(harness: DockerHarness, instead: str) -> None:
    folder = "$POLYAXON_RUN_OUTPUTS_PATH"
    spec = harness.spec(f"echo x > {folder}/kept; rm -r {folder}; {instead} {folder}")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    packer = Packer("1")
    assert list(pack_stream(packer, harness.runner.outputs(handle))) == []
    assert packer.notes == ["The outputs folder was not kept: it is not a folder"]


def test_removed_outputs_folder_means_empty_outputs(harness: DockerHarness) -> None:
    spec = harness.spec("rm -r $POLYAXON_RUN_OUTPUTS_PATH")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []
    harness.runner.clean(handle)
    with pytest.raises(HandleNotFound):
        list(harness.runner.outputs(handle))


@on_podman_too
def test_upload_and_earlier_outputs_are_in_the_container(harness: DockerHarness, tmp_path: Path) -> None:
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


def test_file_as_working_folder_fails_the_start(harness: DockerHarness, image: Any) -> None:
    with pytest.raises(StartFailed, match="not a directory"):
        harness.runner.start(harness.spec("true", image=image("RUN rm -r /code; echo > /code")), None)
    assert harness.runner.inventory() == {}


@pytest.mark.parametrize("instead", ["echo x >", "ln -s /polyjob", "ln -s /nowhere"])
def test_replaced_parent_folder_means_no_outputs(harness: DockerHarness, instead: str) -> None:
    spec = harness.spec(f"rm -r /polyjob; {instead} /polyjob")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []


def test_too_deep_outputs_do_not_affect_others(harness: DockerHarness) -> None:
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


def test_image_without_mkdir_says_so_in_the_log(harness: DockerHarness, image: Any) -> None:
    spec = harness.spec("echo x", image=image("RUN echo > /polyjob"))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    log = harness.log(spec, handle)
    assert log.startswith(b"mkdir: can't create directory")
    assert log.endswith(b"\nx\n")
    assert b"polyjob" not in log.replace(b"/polyjob", b"")
    assert list(harness.runner.outputs(handle)) == []


@pytest.mark.parametrize("has_code", [False, True])
def test_folders_of_a_job_have_one_mode(harness: DockerHarness, tmp_path: Path, has_code: bool) -> None:
    code = archive(tmp_path / "code.tar.gz", ("a", "x")) if has_code else None
    log = output_of(harness, "ls -ld /code $POLYAXON_RUN_OUTPUTS_PATH $POLYAXON_LOGS_PATH", upload=code)
    assert [line.split()[0] for line in log.splitlines()] == ["drwxrwxrwx"] * 3


@on_podman_too
def test_container_is_hardened(harness: DockerHarness) -> None:
    spec = harness.spec("sleep 1000", resources=Resources(memory=64 << 20))
    harness.runner.start(spec, None)
    container = harness.engine.inspect_container(spec.name)
    config = container["HostConfig"]
    assert (config["PidsLimit"], config["OomScoreAdj"]) == (MAX_PROCESSES, OOM_SCORE_ADJ)
    assert "NET_RAW" in {name.removeprefix("CAP_") for name in config["CapDrop"]}
    assert (config["ShmSize"], config["MemorySwap"]) == (32 << 20, 64 << 20)
    assert container["Config"]["Healthcheck"]["Test"] == ["NONE"]


@on_podman_too
@pytest.mark.parametrize("circle", ["ln -s /polyjob /polyjob", "ln -s /b /polyjob; ln -s /polyjob /b"])
def test_circle_of_links_leaves_no_outputs(harness: DockerHarness, circle: str) -> None:
    handle = harness.runner.start(harness.spec(f"rm -r /polyjob; {circle}"), None)
    assert harness.end(handle).succeeded
    assert list(harness.runner.outputs(handle)) == []


@pytest.mark.parametrize("call", ["logs", "outputs"])
def test_unreadable_files_raise_refused(harness: DockerHarness, monkeypatch: Any, call: str) -> None:
    handle = harness.runner.start(harness.printing_job("x"), None)
    harness.end(handle)
    original, refuse = docker.APIClient._raise_for_status, refusing(500, "an unknown error")

    def answer(client: Any, response: Any) -> None:
        (refuse if response.url.partition("?")[0].endswith(("/logs", "/archive")) else original)(client, response)

    monkeypatch.setattr(docker.APIClient, "_raise_for_status", answer)
    assert isinstance(harness.runner, DockerRunner)
    with pytest.raises(RunnerRefused, match="an unknown error"):
        harness.runner.logs(handle, None, 100) if call == "logs" else list(harness.runner.outputs(handle))


@pytest.mark.parametrize("call", ["logs", "archive"])
def test_unreadable_container_does_not_keep_others_running(harness: DockerHarness, monkeypatch: Any, call: str) -> None:
    handles = [harness.runner.start(harness.spec(f"exit {code}"), None) for code in (3, 4)]
    original, refuse = docker.APIClient._raise_for_status, refusing(500, "container.log: is a directory")

    def answer(client: Any, response: Any) -> None:
        (refuse if response.url.partition("?")[0].endswith(f"/{call}") else original)(client, response)

    monkeypatch.setattr(docker.APIClient, "_raise_for_status", answer)
    assert [harness.end(handle).code for handle in handles] == [3, 4]


@on_podman_too
def test_missing_folder_of_a_volume_fails_the_start_and_is_not_created(harness: DockerHarness, tmp_path: Path) -> None:
    volume = Volume("data", str(tmp_path / "gone"))
    with pytest.raises(StartFailed) as failed:
        harness.runner.start(harness.spec("true", volumes=(volume,)), None)
    assert str(failed.value) == f"The volume `data` cannot be used: the Docker Engine has no folder {tmp_path}/gone"
    assert harness.runner.inventory() == {}
    assert not (tmp_path / "gone").exists()


@on_podman_too
def test_upload_outputs_and_volumes_of_a_job_are_separate(harness: DockerHarness, tmp_path: Path) -> None:
    code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"))
    volume, folder = folder_volume(tmp_path, "data", is_read_only=True)
    (folder / "given").write_text("given")
    cmd = "cat a.txt /volumes/data/given; cp /volumes/data/given $POLYAXON_RUN_OUTPUTS_PATH/kept"
    spec = harness.spec(cmd, upload=code, volumes=(volume,))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded, harness.log(spec, handle)
    assert harness.log(spec, handle) == b"codegiven"
    assert harness.outputs_of(spec, handle) == {"kept": b"given"}


@on_podman_too
def test_file_system_below_a_read_only_volume_is_read_only(harness: DockerHarness, tmp_path: Path) -> None:
    require("root", not os.geteuid(), "only root can mount file systems")
    volume, folder = folder_volume(tmp_path, "data", is_read_only=True)
    nested = folder / "a b"
    nested.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", nested], check=True)
    try:
        (nested / "given").write_text("given\n")
        spec = harness.spec("cd '/volumes/data/a b'; cat given; echo x > given", volumes=(volume,))
        handle = harness.runner.start(spec, None)
        assert not harness.end(handle).succeeded
        assert harness.log(spec, handle).startswith(b"given\n")
        assert (nested / "given").read_text() == "given\n"
        harness.runner.clean(handle)
    finally:
        subprocess.run(["umount", nested], check=True)


@on_podman_too
def test_engine_knows_only_the_volumes_of_the_job(harness: DockerHarness, tmp_path: Path) -> None:
    volume, _ = folder_volume(tmp_path, "data", is_read_only=True)
    handle = harness.runner.start(harness.spec("sleep 1000", volumes=(volume,)), None)
    container = json.loads(handle)["id"]
    [mount] = harness.engine.inspect_container(container)["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (volume.source, "/volumes/data", False)
