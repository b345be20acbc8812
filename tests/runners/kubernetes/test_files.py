"""Files into and out of pods."""

from __future__ import annotations

import io
import os
import resource
import signal
import tarfile
from pathlib import Path

import pytest

from polyjob.storage.pack import Packer
from polyjob.storage.pack_stream import pack_stream
from runners.base import HandleNotFound, RunnerUnavailable
from tests.runners.harness import archive, wait_for
from tests.runners.kubernetes.helpers import note_of, release, run_to_end, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


def test_unprivileged_user_can_change_uploads_and_earlier_outputs(harness: KubernetesHarness, tmp_path: Path) -> None:
    harness.cluster.add_image("unprivileged", user=1000)
    for name in ("code", "run/sub"):
        tmp_path.joinpath(name).mkdir(parents=True)
    tmp_path.joinpath("code", "key").write_text("mine\n")
    tmp_path.joinpath("code", "key").chmod(0o600)
    tmp_path.joinpath("run/sub/n").write_text("1\n")
    archives = tmp_path / "code.tar.gz", tmp_path / "inputs.tar.gz"
    for path, name in zip(archives, ("code", "run"), strict=True):
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / name, name)
    cmd = "touch code/b; cat code/key; echo 2 >> $POLYAXON_RUN_OUTPUTS_PATH/sub/n"
    spec = {"image": "unprivileged", "upload": str(archives[0]), "inputs": str(archives[1])}
    end, log, handle = run_to_end(harness, cmd, **spec)
    assert (end.code, log) == (0, b"mine\n")
    assert harness.outputs(handle)["sub/n"] == b"1\n2\n"


def test_upload_and_earlier_outputs_are_copied_into_the_pod(harness: KubernetesHarness, tmp_path: Path) -> None:
    code = archive(tmp_path / "c.tar.gz", ("a.txt", "code"), ("d/", ""), ("d/run", {"text": "x", "mode": 0o755}))
    inputs = archive(tmp_path / "in.tar.gz", ("7/", ""), ("7/old.txt", "old"))
    cmd = "cat a.txt d/run $POLYAXON_RUN_OUTPUTS_PATH/old.txt; echo new > $POLYAXON_RUN_OUTPUTS_PATH/new.txt"
    _, log, handle = run_to_end(harness, cmd, upload=code, inputs=inputs)
    assert log == b"codexold"
    assert harness.outputs(handle) == {"new.txt": b"new\n", "old.txt": b"old"}


def test_restarted_runner_copies_files_into_a_waiting_pod(harness: KubernetesHarness, tmp_path: Path) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    spec = harness.spec("cat a.txt", upload=archive(tmp_path / "code.tar.gz", ("a.txt", "code")))
    handle = harness.runner.start(spec, None)
    wait_for(lambda: "0/1 nodes" in note_of(harness, handle))
    harness.runner.close()
    harness.runner = harness.another()
    harness.cluster.schedule_nothing(None)
    harness.end(handle)
    assert harness.log(spec, handle) == b"code"


def test_broken_copy_is_repeated(harness: KubernetesHarness, tmp_path: Path) -> None:
    harness.cluster.fail(500, times=1, path="/exec")
    spec = harness.spec("cat a.txt", upload=archive(tmp_path / "code.tar.gz", ("a.txt", "code")))
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    assert harness.log(spec, handle) == b"code"


def test_outputs_with_a_broken_stream_are_unavailable(harness: KubernetesHarness) -> None:
    _, _, handle = run_to_end(harness, "head -c 3000000 /dev/urandom > $POLYAXON_RUN_OUTPUTS_PATH/f")
    harness.cluster.cut_executions(1 << 20)
    try:
        with pytest.raises(RunnerUnavailable):
            list(harness.remote.outputs(handle))
    finally:
        harness.cluster.leave_executions()
    assert len(harness.outputs(handle)["f"]) == 3_000_000


@pytest.mark.parametrize("instead", ["ln -s /tmp", "echo x >", "mkfifo"])
def test_replaced_outputs_folder_is_noted(harness: KubernetesHarness, instead: str) -> None:
    folder = "$POLYAXON_RUN_OUTPUTS_PATH"
    _, _, handle = run_to_end(harness, f"echo x > {folder}/kept; rm -r {folder}; {instead} {folder}")
    packer = Packer("1")
    assert list(pack_stream(packer, harness.remote.outputs(handle))) == []
    assert packer.notes == ["The outputs folder was not kept: it is not a folder"]


def test_removed_outputs_folder_yields_nothing(harness: KubernetesHarness) -> None:
    _, _, handle = run_to_end(harness, "rm -r $POLYAXON_RUN_OUTPUTS_PATH")
    assert list(harness.remote.outputs(handle)) == []


@pytest.mark.parametrize("problem", ["run_out_of_memory", "kill"])
def test_outputs_of_a_dead_helper_are_not_found(harness: KubernetesHarness, problem: str) -> None:
    spec = harness.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; until [ -e /tmp/go ]; do sleep 0.05; done")
    handle = start_running(harness, spec)
    if problem == "kill":
        os.kill(harness.cluster.processes(spec.name)["files"], signal.SIGTERM)
    else:
        harness.cluster.run_out_of_memory(spec.name, "files")
    wait_for(lambda: "outputs of the job may not be kept" in note_of(harness, handle))
    release(harness, spec)
    assert harness.end(handle).succeeded
    with pytest.raises(HandleNotFound, match="The container `files` of the job's pod has ended"):
        list(harness.remote.outputs(handle))


def test_job_that_never_ran_has_empty_log_and_outputs(harness: KubernetesHarness) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    handle = harness.runner.start(harness.endless_job(), None)
    harness.runner.stop(handle, force=False)
    harness.end(handle)
    for runner in (harness.runner, harness.another()):
        assert runner.logs(handle, None, 100)[0] == b""  # type: ignore[attr-defined]
        assert list(runner.outputs(handle)) == []  # type: ignore[attr-defined]


def test_links_and_special_names_are_preserved(harness: KubernetesHarness) -> None:
    cmd = "cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir outputs; echo a > 'outputs/ä b'; ln -s /etc/passwd l; ln outputs/* h"
    _, _, handle = run_to_end(harness, cmd)
    with tarfile.open(fileobj=io.BytesIO(b"".join(harness.remote.outputs(handle)))) as tarball:
        names = {member.name: member.linkname for member in tarball}
    assert names.keys() == {"outputs", "outputs/ä b", "l", "h"}
    assert names["l"] == "/etc/passwd"
    assert {names["h"], names["outputs/ä b"]} in ({"", "outputs/ä b"}, {"", "h"})


def test_large_files_are_not_held_in_memory(harness: KubernetesHarness, tmp_path: Path) -> None:
    size = 64 << 20
    path = tmp_path / "code.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tarball:
        member = tarfile.TarInfo("big")
        member.size = size
        with open("/dev/zero", "rb") as zeros:
            tarball.addfile(member, zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spec = harness.spec("mv big $POLYAXON_RUN_OUTPUTS_PATH/", upload=str(path))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert size < sum(map(len, harness.remote.outputs(handle))) < size + (1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10
