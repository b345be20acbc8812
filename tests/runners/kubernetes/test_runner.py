"""What only the Kubernetes runner has, over the stand-in for a cluster and its troubles."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyjob.storage.pack import Packer
from runners.base import (
    ArtifactMissing,
    BuildFailed,
    Exit,
    Exited,
    HandleNotFound,
    Missing,
    Pending,
    Placement,
    Reason,
    Resources,
    RunnerError,
    RunnerRefused,
    RunnerUnavailable,
    Running,
    StartFailed,
    Unknown,
)
from runners.kubernetes import api as kubernetes_api
from runners.kubernetes import diagnostics, files, pods
from runners.kubernetes.api import TOO_LARGE_TEXTS
from runners.kubernetes.exec import UNREACHABLE_TEXTS, CommandFailed, CommandNotRun
from runners.kubernetes.job_records import FILES
from runners.kubernetes.logs import DROPPED
from runners.kubernetes.manifests import Artifact
from runners.kubernetes.permissions import PERMISSIONS
from runners.kubernetes.pod_tracker import PodTrackers
from runners.kubernetes.starter import PENDING_REQUEST_SECONDS
from tests.require import require
from tests.runners.harness import archive, wait_for
from tests.runners.kubernetes_harness import IMAGE, KubernetesHarness
from tests.simulators.registry import Registry


@pytest.fixture
def harness(kubernetes: KubernetesHarness) -> Iterator[KubernetesHarness]:
    require("the stand-in", kubernetes.cluster is not None, "a real cluster is named, which cannot be troubled")
    yield kubernetes
    kubernetes.cluster.heal()
    kubernetes.cluster.permit(None)
    kubernetes.cluster.restrict()
    kubernetes.cluster.schedule_nothing(None)
    kubernetes.cluster.configure(is_late=False, delay=0.0)
    kubernetes.cluster.come_back()


Make = Callable[..., KubernetesHarness]


def run(harness: KubernetesHarness, cmd: str, **fields: Any) -> tuple[Any, bytes, str]:
    """(exit, log, handle) of a job that has run to its end."""
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(spec, fields.pop("artifact", None))
    end = harness.end(handle)
    return end, harness.log(spec, handle), handle


def running(harness: KubernetesHarness, spec: Any) -> str:
    handle = harness.runner.start(spec, None)
    wait_for(lambda: isinstance(harness.state(handle), Running))
    return handle


def note_of(harness: KubernetesHarness, handle: str) -> str:
    return str(getattr(harness.state(handle), "note", None))


class TestJobs:
    def test_both_streams_are_one_in_their_order_and_bytes_are_kept(self, harness: KubernetesHarness) -> None:
        _, log, _ = run(harness, r"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\377\000\r\n\n x\r'")
        assert log == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n\xff\x00\n\n x\r"

    def test_a_job_finds_its_variables_and_none_of_the_servers(
        self, harness: KubernetesHarness, monkeypatch: Any
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
        _, log, _ = run(harness, "env; pwd; echo $(echo a)$$", env={"A": "b $(HOME) $$ c"})
        assert b"A=b $(HOME) $$ c\n" in log
        assert b"/code\n" in log
        assert b"SECRET" not in log
        assert log.splitlines()[-1][:1] == b"a"
        assert log.splitlines()[-1][1:].isdigit()

    def test_secrets_and_config_maps_are_variables(self, harness: KubernetesHarness) -> None:
        harness.cluster.add("secrets", "keys", data={"KEY": "c2VjcmV0"})
        harness.cluster.add("configmaps", "words", data={"WORD": "hello"})
        placement = Placement(secrets=("keys",), config_maps=("words",))
        assert run(harness, "echo $KEY $WORD", placement=placement)[1] == b"secret hello\n"

    def test_who_is_not_root_may_write_where_jobs_write(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        harness.cluster.add_image("unprivileged", user=1000)
        code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"))
        cmd = "cat a.txt; touch b.txt; echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; touch $POLYAXON_LOGS_PATH/x; id -u"
        end, log, handle = run(harness, cmd, image="unprivileged", upload=code)
        assert (end.code, log) == (0, b"code1000\n")
        assert harness.outputs(handle) == {"f": b"mine\n"}

    def test_who_is_not_root_may_change_the_code_and_earlier_outputs(
        self, harness: KubernetesHarness, tmp_path: Path
    ) -> None:
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
        end, log, handle = run(harness, cmd, **spec)
        assert (end.code, log) == (0, b"mine\n")
        assert harness.outputs(handle)["sub/n"] == b"1\n2\n"

    def test_a_signal_of_its_own_is_said_to_be_not_ours(self, harness: KubernetesHarness) -> None:
        end, _, _ = run(harness, "kill -TERM $$")
        assert (end.reason, end.signal) == (Reason.SIGNALLED, 15)
        assert "Not by polyjob" in str(end.message)

    def test_nothing_that_a_job_left_behind_goes_on(self, harness: KubernetesHarness) -> None:
        spec = harness.spec("setsid sleep 1000 & exit 3")
        handle = harness.runner.start(spec, None)
        assert harness.end(handle).code == 3
        assert set(harness.cluster.processes(spec.name)) == {"files"}

    def test_a_pod_of_somebody_else_is_not_adopted(self, harness: KubernetesHarness, make_kubernetes: Make) -> None:
        other = make_kubernetes(harness.folder / "other")
        spec = harness.lasts()
        handle = running(harness, spec)
        with pytest.raises(StartFailed, match="does not belong to this polyjob"):
            other.runner.start(spec, None)
        assert isinstance(harness.state(handle), Running)
        assert other.runner.inventory() == {}

    def test_a_start_whose_answer_was_lost_is_adopted(self, harness: KubernetesHarness) -> None:
        spec = harness.says("x")
        first = harness.runner.start(spec, None)
        (harness.data / "kubernetes" / spec.uuid).unlink()
        assert harness.another().start(spec, None) == first
        harness.end(first)
        assert harness.runs(spec) == 1

    def test_a_job_that_the_api_server_refuses_says_why(self, harness: KubernetesHarness) -> None:
        with pytest.raises(StartFailed, match="label"):
            harness.runner.start(harness.spec(placement=Placement(labels={"a": "b c"})), None)

    @pytest.mark.parametrize("words", TOO_LARGE_TEXTS)
    def test_a_job_that_is_too_large_for_the_cluster_is_not_tried_for_ever(
        self, harness: KubernetesHarness, words: str
    ) -> None:
        harness.cluster.fail(500, times=1, verb="create", path="/pods$", message=words)
        with pytest.raises(StartFailed, match="large"):
            harness.runner.start(harness.spec(), None)

    def test_a_conflict_that_is_not_of_its_name_is_tried_again(self, harness: KubernetesHarness) -> None:
        spec = harness.says("x")
        harness.cluster.fail(409, times=1, verb="create", path="/pods$", message="the quota has been modified")
        with pytest.raises(RunnerUnavailable, match="quota"):
            harness.runner.start(spec, None)
        harness.end(harness.runner.start(spec, None))
        assert harness.runs(spec) == 1

    def test_a_job_that_is_refused_for_no_fault_of_its_own_is_tried_again(self, harness: KubernetesHarness) -> None:
        spec, room = harness.says("x"), sum(_is_living(pod) for pod in harness.cluster.pods()) + 1
        other = running(harness, harness.lasts())
        harness.cluster.restrict(quota={"pods": str(room)})
        with pytest.raises(RunnerUnavailable, match="quota"):
            harness.runner.start(spec, None)
        harness.runner.clean(other)
        harness.cluster.restrict()
        harness.cluster.permit([right for right in PERMISSIONS if right != ("create", "pods", "")])
        with pytest.raises(RunnerUnavailable, match="cannot create"):
            harness.runner.start(spec, None)
        harness.cluster.permit(None)
        harness.end(harness.runner.start(spec, None))
        assert harness.runs(spec) == 1

    @pytest.mark.parametrize(
        "rules",
        [
            {"quota": {"limits.cpu": "4"}},
            {"quota": {"limits.memory": "1Gi", "pods": "50"}},
            {"least": {"cpu": "50m"}},
            {"most": {"cpu": "100m"}},
            {"policy": 'violates PodSecurity "restricted:latest": runAsNonRoot != true'},
        ],
    )
    def test_job_that_a_namespace_never_admits_is_refused(self, harness: KubernetesHarness, rules: Any) -> None:
        spec = harness.spec(limits=Resources(cpu=9.0, memory=2 << 30))
        harness.cluster.restrict(**rules)
        with pytest.raises(RunnerRefused, match="forbidden"):
            harness.runner.start(spec, None)
        assert harness.cluster.pod(spec.name) is None

    def test_helpers_keep_to_the_range_of_a_namespace(self, make_kubernetes: Make, harness: KubernetesHarness) -> None:
        told = "requests.cpu=50m requests.memory=64Mi limits.cpu=50m limits.memory=64Mi"
        harness.cluster.restrict(least={"cpu": "50m", "memory": "64Mi"}, most={"cpu": "500m", "memory": "1Gi"})
        fitting = make_kubernetes(harness.folder / "fitting", helper_resources=told)
        amounts = Resources(cpu=0.1, memory=64 << 20)
        spec = fitting.spec("echo x", requests=amounts, limits=amounts, upload=_code(harness))
        handle = fitting.runner.start(spec, None)
        assert fitting.end(handle).succeeded
        with pytest.raises(RunnerRefused, match="minimum cpu"):
            harness.runner.start(harness.spec(requests=amounts, limits=amounts), None)


def _is_living(pod: Any) -> bool:
    return pod["status"].get("phase") not in ("Succeeded", "Failed")


def _code(harness: KubernetesHarness) -> str:
    return archive(harness.folder / "code.tar.gz", ("a.txt", "code"))


class TestFiles:
    def test_code_and_earlier_outputs_are_there(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "c.tar.gz", ("a.txt", "code"), ("d/", ""), ("d/run", {"text": "x", "mode": 0o755}))
        inputs = archive(tmp_path / "in.tar.gz", ("7/", ""), ("7/old.txt", "old"))
        cmd = "cat a.txt d/run $POLYAXON_RUN_OUTPUTS_PATH/old.txt; echo new > $POLYAXON_RUN_OUTPUTS_PATH/new.txt"
        _, log, handle = run(harness, cmd, upload=code, inputs=inputs)
        assert log == b"codexold"
        assert harness.outputs(handle) == {"new.txt": b"new\n", "old.txt": b"old"}

    def test_another_runner_puts_in_what_the_first_could_not(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        spec = harness.spec("cat a.txt", upload=archive(tmp_path / "code.tar.gz", ("a.txt", "code")))
        handle = harness.runner.start(spec, None)
        wait_for(lambda: "0/1 nodes" in note_of(harness, handle))
        harness.runner.close()
        harness.runner = harness.another()
        harness.cluster.schedule_nothing(None)
        harness.end(handle)
        assert harness.log(spec, handle) == b"code"

    def test_a_transfer_that_breaks_is_begun_anew(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        harness.cluster.fail(500, times=1, path="/exec")
        spec = harness.spec("cat a.txt", upload=archive(tmp_path / "code.tar.gz", ("a.txt", "code")))
        handle = harness.runner.start(spec, None)
        harness.end(handle)
        assert harness.log(spec, handle) == b"code"

    def test_outputs_whose_stream_breaks_are_not_believed(self, harness: KubernetesHarness) -> None:
        _, _, handle = run(harness, "head -c 3000000 /dev/urandom > $POLYAXON_RUN_OUTPUTS_PATH/f")
        harness.cluster.cut_executions(1 << 20)
        try:
            with pytest.raises(RunnerUnavailable):
                list(harness.remote.outputs(handle))
        finally:
            harness.cluster.leave_executions()
        assert len(harness.outputs(handle)["f"]) == 3_000_000

    @pytest.mark.parametrize("instead", ["ln -s /tmp", "echo x >", "mkfifo"])
    def test_what_stands_where_the_outputs_folder_was_is_said(self, harness: KubernetesHarness, instead: str) -> None:
        folder = "$POLYAXON_RUN_OUTPUTS_PATH"
        _, _, handle = run(harness, f"echo x > {folder}/kept; rm -r {folder}; {instead} {folder}")
        packer = Packer("1")
        assert list(packer.stream(harness.remote.outputs(handle))) == []
        assert packer.notes == ["The outputs folder was not kept: it is not a folder"]

    def test_a_folder_of_outputs_that_was_removed_holds_nothing(self, harness: KubernetesHarness) -> None:
        _, _, handle = run(harness, "rm -r $POLYAXON_RUN_OUTPUTS_PATH")
        assert list(harness.remote.outputs(handle)) == []

    @pytest.mark.parametrize("trouble", ["run_out_of_memory", "kill"])
    def test_outputs_whose_helper_has_ended_are_gone_not_empty(self, harness: KubernetesHarness, trouble: str) -> None:
        spec = harness.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; until [ -e /tmp/go ]; do sleep 0.05; done")
        handle = running(harness, spec)
        if trouble == "kill":
            os.kill(harness.cluster.processes(spec.name)["files"], signal.SIGTERM)
        else:
            harness.cluster.run_out_of_memory(spec.name, "files")
        wait_for(lambda: "outputs of the job may not be kept" in note_of(harness, handle))
        _touch(harness, spec)
        assert harness.end(handle).succeeded
        with pytest.raises(HandleNotFound, match="The container `files` of the job's pod has ended"):
            list(harness.remote.outputs(handle))

    def test_log_that_its_machine_has_removed_is_gone(self, harness: KubernetesHarness) -> None:
        _, _, handle = run(harness, "echo x")
        harness.cluster.fail(400, path="/log$", message="unable to retrieve container logs for containerd://1")
        with pytest.raises(HandleNotFound, match="removed the log"):
            harness.remote.logs(handle, None, 100)

    def test_job_that_never_ran_has_nothing_that_could_be_gone(self, harness: KubernetesHarness) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        handle = harness.runner.start(harness.lasts(), None)
        harness.runner.stop(handle, force=False)
        harness.end(handle)
        for runner in (harness.runner, harness.another()):
            assert runner.logs(handle, None, 100)[0] == b""  # type: ignore[attr-defined]
            assert list(runner.outputs(handle)) == []  # type: ignore[attr-defined]

    def test_links_and_odd_names_come_out_as_they_are(self, harness: KubernetesHarness) -> None:
        cmd = (
            "cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir outputs; echo a > 'outputs/ä b'; ln -s /etc/passwd l; ln outputs/* h"
        )
        _, _, handle = run(harness, cmd)
        with tarfile.open(fileobj=io.BytesIO(b"".join(harness.remote.outputs(handle)))) as found:
            names = {member.name: member.linkname for member in found}
        assert names.keys() == {"outputs", "outputs/ä b", "l", "h"}
        assert names["l"] == "/etc/passwd"
        assert {names["h"], names["outputs/ä b"]} in ({"", "outputs/ä b"}, {"", "h"})

    def test_files_of_any_size_take_no_memory(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        size = 64 << 20
        path = tmp_path / "code.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as made:
            member = tarfile.TarInfo("big")
            member.size = size
            with open("/dev/zero", "rb") as zeros:
                made.addfile(member, zeros)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spec = harness.spec("mv big $POLYAXON_RUN_OUTPUTS_PATH/", upload=str(path))
        handle = harness.runner.start(spec, None)
        assert harness.end(handle).succeeded
        assert size < sum(map(len, harness.remote.outputs(handle))) < size + (1 << 20)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


class TestClaims:
    @pytest.fixture
    def claiming(self, make_kubernetes: Make, harness: KubernetesHarness) -> Iterator[KubernetesHarness]:
        harness.cluster.add("persistentvolumeclaims", "shared", spec={"accessModes": ["ReadWriteMany"]})
        yield make_kubernetes(harness.folder / "claiming", claim="shared", patience="5")
        harness.cluster.schedule_nothing(None)
        harness.cluster.remove("persistentvolumeclaims", "shared")

    def left(self, harness: KubernetesHarness) -> list[Path]:
        """What jobs have in the claim."""
        return list(harness.cluster.kubeconfig.parent.glob("claims/default/shared/polyjob/*"))

    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "polyjob.kubernetes"]

    def wait_for_file(self, harness: KubernetesHarness) -> None:
        """Until a job has written its output `f`."""
        wait_for(lambda: [path for path in self.left(harness) if list(path.glob("outputs/f"))])

    def wait_for_outputs(self, harness: KubernetesHarness, handle: str) -> dict[str, bytes]:
        def outputs() -> Any:
            with contextlib.suppress(
                RunnerUnavailable, RunnerRefused
            ):  # a helper may have ended that the pod calls running
                return [harness.outputs(handle)]

        return dict(wait_for(outputs)[0])

    def wear_out(self, monkeypatch: Any, call: Callable[[], object]) -> None:
        """Let the patience pass while calls fail. The clock stays advanced."""
        now = time.monotonic
        for passed in (0, 60, 120, 180):
            monkeypatch.setattr("runners.kubernetes.claims.time.monotonic", lambda passed=passed: now() + passed)
            if passed < 180:
                with pytest.raises((RunnerUnavailable, RunnerRefused)):
                    call()

    def clean(self, harness: KubernetesHarness, handle: str) -> None:
        def is_clean() -> bool:
            with contextlib.suppress(RunnerUnavailable):
                harness.runner.clean(handle)
                return True
            return False

        wait_for(is_clean)

    def test_claim_holds_files_and_is_cleared(self, claiming: KubernetesHarness) -> None:
        cmd = "cat a.txt; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f"
        end, log, handle = run(claiming, cmd, upload=_code(claiming))
        assert (end.code, log) == (0, b"code")
        assert claiming.outputs(handle) == {"f": b"x\n"}
        assert self.left(claiming)
        claiming.runner.clean(handle)
        assert self.left(claiming) == []
        assert claiming.pods() == []

    @pytest.mark.parametrize("trouble", ["delete", "helper", "evict"])
    def test_files_outlive_their_pod_and_are_cleared(self, claiming: KubernetesHarness, trouble: str) -> None:
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; until [ -e /tmp/go ]; do sleep 0.05; done")
        handle = running(claiming, spec)
        self.wait_for_file(claiming)
        if trouble == "helper":
            claiming.cluster.run_out_of_memory(spec.name, "files")
            wait_for(lambda: "may not be kept" in note_of(claiming, handle))
            _touch(claiming, spec)
        elif trouble == "evict":
            claiming.cluster.evict(spec.name)
        else:
            claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        self.clean(claiming, handle)
        assert self.left(claiming) == []
        assert claiming.pods() == []

    def test_quota_that_is_used_up_costs_no_files(self, claiming: KubernetesHarness) -> None:
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(claiming, spec)
        self.wait_for_file(claiming)
        other = running(claiming, claiming.lasts())
        claiming.cluster.restrict(quota={"pods": str(sum(map(_is_living, claiming.cluster.pods())) - 1)})
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        with pytest.raises(RunnerUnavailable, match="exceeded quota"):
            list(claiming.remote.outputs(handle))
        claiming.cluster.restrict()
        assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        for each in (handle, other):
            self.clean(claiming, each)

    def test_pod_that_was_to_give_files_is_replaced(self, claiming: KubernetesHarness, monkeypatch: Any) -> None:
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(claiming, spec)
        self.wait_for_file(claiming)
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        name = f"polyjob-files-{spec.uuid}"
        claiming.cluster.evict(name)
        wait_for(lambda: not _is_living(claiming.cluster.pod(name)))
        now = time.monotonic
        monkeypatch.setattr("runners.kubernetes.claims.time.monotonic", lambda: now() + 60)  # patience begins again
        assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        monkeypatch.undo()
        self.clean(claiming, handle)

    def test_pod_whose_files_are_fetched_is_not_swept(self, claiming: KubernetesHarness, monkeypatch: Any) -> None:
        spec = claiming.spec("head -c 3000000 /dev/zero > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(claiming, spec)
        wait_for(
            lambda: (
                sum(path.stat().st_size for each in self.left(claiming) for path in each.glob("outputs/f")) >= 3000000
            )
        )
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        self.wait_for_outputs(claiming, handle)
        monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", -1.0)
        pieces = claiming.remote.outputs(handle)
        next(pieces)
        claiming.runner.inventory()
        assert len(claiming.pods()) == 1
        assert sum(map(len, pieces)) >= 3000000 - 512
        claiming.runner.inventory()
        assert claiming.pods() == []
        monkeypatch.undo()
        self.clean(claiming, handle)

    def test_claim_that_no_pod_can_reach_holds_nothing_up(self, claiming: KubernetesHarness, monkeypatch: Any) -> None:
        spec = claiming.lasts()
        handle = running(claiming, spec)
        claiming.cluster.schedule_nothing("0/1 nodes are available")
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        self.wear_out(monkeypatch, lambda: list(claiming.remote.outputs(handle)))
        with pytest.raises(HandleNotFound, match="cannot be started"):
            list(claiming.remote.outputs(handle))
        self.clean(claiming, handle)
        assert claiming.pods() == []

    @pytest.mark.parametrize("trouble", ["quota", "policy", "rights", "server"])
    def test_files_that_cannot_be_removed_hold_up_no_job(
        self, claiming: KubernetesHarness, monkeypatch: Any, caplog: pytest.LogCaptureFixture, trouble: str
    ) -> None:
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle, other = running(claiming, spec), running(claiming, claiming.lasts())
        self.wait_for_file(claiming)
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        if trouble == "quota":
            claiming.cluster.restrict(quota={"pods": str(sum(map(_is_living, claiming.cluster.pods())))})
        elif trouble == "policy":
            claiming.cluster.restrict(policy="no pods here")
        elif trouble == "rights":
            claiming.cluster.permit([right for right in PERMISSIONS if right != ("create", "pods", "")])
        else:
            claiming.cluster.fail(503, times=None, verb="create", path="/pods$")
        self.wear_out(monkeypatch, lambda: claiming.runner.clean(handle))
        assert self.warnings(caplog) == []
        claiming.runner.clean(handle)
        monkeypatch.undo()
        assert [message.partition(" stay in the claim: ")[0] for message in self.warnings(caplog)] == [
            f"the files of job {spec.uuid}"
        ]
        assert spec.uuid in [path.name for path in self.left(claiming)]
        claiming.cluster.heal()
        claiming.cluster.permit(None)
        claiming.cluster.restrict()
        self.clean(claiming, other)
        assert claiming.pods() == []

    @pytest.mark.parametrize("call", ["outputs", "clean"])
    def test_outage_uses_up_no_patience_with_a_claim(
        self, claiming: KubernetesHarness, monkeypatch: Any, call: str
    ) -> None:
        """Between two failed calls; the first call after it finds no running pod yet."""
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(claiming, spec)
        self.wait_for_file(claiming)
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        claiming.cluster.schedule_nothing("0/1 nodes are available")
        now = time.monotonic
        for passed in (0, 3600):
            monkeypatch.setattr("runners.kubernetes.claims.time.monotonic", lambda passed=passed: now() + passed)
            with pytest.raises(RunnerUnavailable, match="is being started"):
                list(claiming.remote.outputs(handle)) if call == "outputs" else claiming.runner.clean(handle)
        claiming.cluster.schedule_nothing(None)
        if call == "outputs":
            assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        self.clean(claiming, handle)
        assert spec.uuid not in [path.name for path in self.left(claiming)]

    @pytest.mark.parametrize("error", [CommandNotRun("no container"), CommandFailed(1, "rm: cannot remove: I/O error")])
    def test_removal_is_repeated_unless_rm_fails(
        self, claiming: KubernetesHarness, monkeypatch: Any, caplog: pytest.LogCaptureFixture, error: Exception
    ) -> None:
        spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(claiming, spec)
        self.wait_for_file(claiming)
        claiming.cluster.delete(spec.name, 0)
        wait_for(lambda: _over(claiming, handle))
        assert self.wait_for_outputs(claiming, handle) == {"f": b"x\n"}
        remove_all, errors = files.remove_all, [error]

        def fail_once(*arguments: Any) -> None:
            if errors:
                raise errors.pop()
            remove_all(*arguments)

        monkeypatch.setattr(files, "remove_all", fail_once)
        self.clean(claiming, handle)
        is_left = isinstance(error, CommandFailed)
        assert (spec.uuid in [path.name for path in self.left(claiming)]) == is_left
        assert self.warnings(caplog) == [f"the files of job {spec.uuid} stay in the claim: {error}"] * is_left

    def test_job_that_never_ran_needs_no_pod_for_its_files(self, claiming: KubernetesHarness) -> None:
        claiming.cluster.schedule_nothing("0/1 nodes are available")
        handle = claiming.runner.start(claiming.lasts(), None)
        claiming.runner.stop(handle, force=False)
        claiming.end(handle)
        claiming.runner.clean(handle)
        assert claiming.pods() == []


class TestEnds:
    def test_too_much_memory(self, harness: KubernetesHarness) -> None:
        spec = harness.lasts()
        handle = running(harness, spec)
        harness.cluster.run_out_of_memory(spec.name, "job")
        assert harness.end(handle).reason is Reason.OOM

    def test_an_eviction_and_a_preemption(self, harness: KubernetesHarness) -> None:
        for trouble in ("evict", "preempt"):
            spec = harness.lasts()
            handle = running(harness, spec)
            getattr(harness.cluster, trouble)(spec.name)
            state = wait_for(lambda handle=handle: _over(harness, handle))
            if isinstance(state, Exited):
                assert state.exit.reason is Reason.EVICTED
                wait_for(lambda handle=handle: _has_no_outputs(harness, handle))
            else:
                assert trouble == "preempt"

    def test_a_preemption_that_leaves_nothing_behind(self, harness: KubernetesHarness) -> None:
        """All of it between two looks at the pods."""
        spec = harness.lasts()
        handle = running(harness, spec)
        harness.woken.clear()
        harness.cluster.preempt(spec.name)
        wait_for(lambda: harness.cluster.pod(spec.name) is None)
        time.sleep(0.3)  # the watch tells of it in its own time
        end = harness.end(handle)
        assert (end.reason, "preempting" in str(end.message)) == (Reason.EVICTED, True)
        assert harness.end(handle) == end

    def test_a_pod_that_somebody_deletes_is_never_a_success(self, harness: KubernetesHarness) -> None:
        spec = harness.spec("trap 'exit 0' TERM; sleep 1000 & wait")
        handle = running(harness, spec)
        harness.cluster.delete(spec.name)
        state = wait_for(lambda: _over(harness, handle))
        assert isinstance(state, Missing) or state.exit.reason is Reason.LOST

    def test_a_lost_node(self, harness: KubernetesHarness) -> None:
        harness.cluster.add_node("weak", {"kind": "weak"})
        try:
            spec = harness.spec("sleep 1000", placement=Placement(node_selector={"kind": "weak"}))
            handle = running(harness, spec)
            harness.cluster.lose_node("weak")
            wait_for(lambda: "does not answer" in note_of(harness, handle))
            harness.cluster.drain_lost_node("weak")
            wait_for(lambda: "deleted" in note_of(harness, handle))
            assert isinstance(harness.state(handle), Running)
        finally:
            harness.cluster.remove_node("weak")
        state = wait_for(lambda: _over(harness, handle))
        assert isinstance(state, Missing) or state.exit.reason is Reason.LOST

    def test_a_machine_that_comes_back_does_not_know(self, harness: KubernetesHarness) -> None:
        harness.cluster.add_node("weak", {"kind": "weak"})
        try:
            spec = harness.spec("sleep 1000", placement=Placement(node_selector={"kind": "weak"}))
            handle = running(harness, spec)
            harness.cluster.lose_node("weak")
            harness.cluster.restore_node("weak")
            assert harness.end(handle).reason is Reason.LOST
        finally:
            harness.cluster.remove_node("weak")

    @pytest.mark.parametrize("force", [False, True])
    def test_a_stop_before_the_beginning(self, harness: KubernetesHarness, force: bool) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        spec = harness.lasts()
        handle = harness.runner.start(spec, None)
        assert isinstance(harness.state(handle), Pending)
        harness.runner.stop(handle, force)
        end = harness.end(handle)
        assert (end.reason, end.code, end.signal, end.has_begun) == (Reason.SIGNALLED, None, None, False)
        assert end.message == "It was stopped before its command began"
        assert harness.end(handle, harness.another()) == end
        assert harness.cluster.pod(spec.name) is None
        harness.runner.clean(handle)

    @pytest.mark.parametrize("force", [False, True])
    def test_stop_signals_a_command_whose_pod_says_nothing_yet(self, harness: KubernetesHarness, force: bool) -> None:
        harness.cluster.configure(is_late=True)
        spec = harness.spec("echo begun > $POLYAXON_RUN_OUTPUTS_PATH/f; echo begun; sleep 1000")
        handle = harness.runner.start(spec, None)
        wait_for(lambda: _read(harness.another(), handle))
        assert isinstance(harness.state(handle), Pending)
        harness.runner.stop(handle, force)
        harness.cluster.configure(is_late=False)
        end = harness.end(handle)
        assert (end.reason, end.signal, end.message) == (Reason.SIGNALLED, 9 if force else 15, None)
        assert harness.outputs(handle) == {"f": b"begun\n"}

    @pytest.mark.parametrize("is_late", [False, True])
    def test_last_state_of_a_pod_tells_that_its_command_had_begun(
        self, harness: KubernetesHarness, monkeypatch: Any, is_late: bool
    ) -> None:
        """Its machine does not say so before, and the watch may tell it later than the list shows the pod gone."""
        note, may_watch = PodTrackers.note, threading.Event()

        def note_late(trackers: PodTrackers, pod: Any, is_gone: bool = False) -> None:
            if threading.current_thread().name == "kubernetes-watch" and pod["metadata"].get("deletionTimestamp"):
                assert may_watch.wait(20)
            note(trackers, pod, is_gone)

        monkeypatch.setattr(PodTrackers, "note", note_late)
        runner = harness.another()  # its watch calls the patched method
        harness.cluster.configure(is_late=True)
        spec = harness.spec("echo begun; sleep 1000")
        handle = runner.start(spec, None)
        wait_for(lambda: _read(harness.another(), handle))
        harness.state(handle, runner)
        harness.cluster.fail(500, times=None, path="/log$", message="dial tcp 10.0.0.1:10250: connection refused")
        runner.stop(handle, force=False)
        wait_for(lambda: harness.cluster.pod(spec.name) is None)
        if is_late:
            assert harness.state(handle, runner) is None
        may_watch.set()
        end = harness.end(handle, runner)
        assert (end.reason, end.has_begun, end.message) == (Reason.SIGNALLED, True, None)

    def test_pod_shown_after_its_job_was_cleaned_is_forgotten(
        self, harness: KubernetesHarness, monkeypatch: Any
    ) -> None:
        note, is_cleaned, is_noted = PodTrackers.note, threading.Event(), threading.Event()

        def note_late(trackers: PodTrackers, pod: Any, is_gone: bool = False) -> None:
            if is_gone:
                assert is_cleaned.wait(20)
            note(trackers, pod, is_gone)
            if is_gone:
                is_noted.set()

        monkeypatch.setattr(PodTrackers, "note", note_late)
        runner = harness.another()
        handle = runner.start(harness.lasts(), None)
        wait_for(lambda: isinstance(harness.state(handle, runner), Running))
        runner.clean(handle)
        is_cleaned.set()
        assert is_noted.wait(20)
        assert runner._trackers._trackers == {}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("has_crashed", [False, True])
    def test_end_of_a_deleted_pod_is_known_before_it_is_gone(
        self, harness: KubernetesHarness, monkeypatch: Any, has_crashed: bool
    ) -> None:
        """Also to a poll between the deletion and the return of `stop`, and after a crash there."""
        harness.cluster.schedule_nothing("0/1 nodes are available")
        spec = harness.lasts()
        handle = harness.runner.start(spec, None)
        assert isinstance(harness.state(handle), Pending)
        delete, states = pods.delete, []

        def delete_and_look(*arguments: Any) -> bool:
            is_deleted = delete(*arguments)
            wait_for(lambda: harness.cluster.pod(spec.name) is None)
            runner = harness.another() if has_crashed else harness.runner
            states.append(wait_for(lambda: _over(harness, handle, runner)))
            return is_deleted

        monkeypatch.setattr(pods, "delete", delete_and_look)
        harness.runner.stop(handle, force=False)
        monkeypatch.undo()
        (state,) = states
        assert isinstance(state, Exited)
        assert state.exit.message == "It was stopped before its command began"

    @pytest.mark.parametrize("trouble", ["changed", "unavailable"])
    def test_end_of_a_pod_that_was_not_deleted_is_forgotten(
        self, harness: KubernetesHarness, monkeypatch: Any, trouble: str
    ) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        spec = harness.lasts()
        handle = harness.runner.start(spec, None)
        if trouble == "changed":
            monkeypatch.setattr(pods, "delete", lambda *_: False)
            harness.runner.stop(handle, force=False)
            monkeypatch.undo()
        else:
            harness.cluster.fail(None, times=None, verb="delete")
            with pytest.raises(RunnerUnavailable):
                harness.runner.stop(handle, force=False)
            harness.cluster.heal()
        harness.cluster.schedule_nothing(None)
        wait_for(lambda: isinstance(harness.state(handle), Running))
        harness.cluster.delete(spec.name, 0)
        assert isinstance(wait_for(lambda: _over(harness, handle)), Missing)

    def test_second_deletion_of_a_pod_keeps_its_end(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        """The pod changes while it is being deleted."""
        harness.cluster.schedule_nothing("0/1 nodes are available")
        handle = harness.runner.start(harness.lasts(), None)
        delete = pods.delete

        def delete_twice(*arguments: Any) -> bool:
            delete(*arguments)
            monkeypatch.setattr(pods, "delete", lambda *_: False)
            return True

        (pod,) = harness.pods()
        monkeypatch.setattr(pods, "delete", delete_twice)
        harness.runner.stop(handle, force=False)
        end = Exit(Reason.START, message="another reason")
        assert not harness.runner._stopper.delete_before_start(pod, end)  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert harness.end(handle).message == "It was stopped before its command began"

    def test_a_container_without_a_shell_is_ended_with_its_pod(
        self, harness: KubernetesHarness, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("runners.kubernetes.stopper.UNDELIVERED_KILL_SECONDS", 0.0)
        spec = harness.spec("sleep 1000")
        handle = running(harness, spec)
        harness.cluster.fail(500, times=None, path="/exec")
        harness.runner.stop(handle, force=False)
        assert isinstance(harness.state(handle), Running)
        harness.runner.stop(handle, force=True)
        harness.runner.stop(handle, force=True)
        wait_for(lambda: _over(harness, handle))

    @pytest.mark.parametrize("lag", [6.0, 25.0])
    def test_pod_whose_status_lags_keeps_its_outputs_after_a_stop(
        self, harness: KubernetesHarness, monkeypatch: Any, lag: float
    ) -> None:
        harness.cluster.configure(is_late=True)
        spec = harness.spec("echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; echo begun; sleep 1000")
        handle = harness.runner.start(spec, None)
        wait_for(lambda: b"begun" in harness.log(spec, handle))
        now = time.monotonic
        for passed in (0.0, 0.0, lag):
            monkeypatch.setattr("runners.kubernetes.stopper.time.monotonic", lambda passed=passed: now() + passed)
            harness.runner.stop(handle, force=True)
        monkeypatch.undo()
        harness.cluster.configure(is_late=False)
        harness.end(handle)
        assert harness.outputs(handle) == {"f": b"mine\n"}

    @pytest.mark.parametrize("words", UNREACHABLE_TEXTS)
    def test_a_machine_that_cannot_be_reached_costs_no_job_its_outputs(
        self, harness: KubernetesHarness, monkeypatch: Any, words: str
    ) -> None:
        monkeypatch.setattr("runners.kubernetes.stopper.UNDELIVERED_KILL_SECONDS", 0.0)
        spec = harness.spec("echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
        handle = running(harness, spec)
        harness.cluster.fail(500, times=2, path="/exec", message=f"{words} 10.0.0.1:10250: connection refused")
        for _ in range(2):
            with pytest.raises(RunnerUnavailable, match="does not answer"):
                harness.runner.stop(handle, force=True)
        monkeypatch.undo()
        harness.runner.stop(handle, force=True)
        assert harness.end(handle).signal == 9
        assert harness.outputs(handle) == {"f": b"mine\n"}

    def test_a_server_that_never_answers_holds_no_stop_up(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        handle = running(harness, harness.lasts())
        monkeypatch.setattr("runners.kubernetes.api.RESPONSE_SECONDS", 0.3)
        harness.cluster.slow(3.0, path="/exec")
        began = time.monotonic()
        with pytest.raises(RunnerUnavailable, match="timed out"):
            harness.runner.stop(handle, force=False)
        assert time.monotonic() - began < 2.5


def _has_no_outputs(harness: KubernetesHarness, handle: str) -> bool:
    """Whether that is said; as long as the helper container is just being ended, nothing can be told."""
    try:
        list(harness.remote.outputs(handle))
    except (RunnerRefused, RunnerUnavailable):
        return False
    except HandleNotFound:
        return True
    raise AssertionError("there are some")


def _over(harness: KubernetesHarness, handle: str, runner: Any = None) -> Any:
    state = harness.state(handle, runner)
    return state if isinstance(state, Exited | Missing) else None


class TestTroubles:
    def test_an_image_that_nobody_has(self, make_kubernetes: Make, harness: KubernetesHarness) -> None:
        patient = make_kubernetes(harness.folder / "patient", patience="2")
        handle = patient.runner.start(patient.spec(image="no-such:1"), None)
        wait_for(lambda: "no-such:1" in note_of(patient, handle))
        end = patient.end(handle)
        assert (end.reason, end.has_begun) == (Reason.IMAGE, False)
        assert "For 2 seconds: " in str(end.message)
        assert patient.end(handle, patient.another()) == end

    def test_a_name_that_no_image_can_have_is_not_waited_for(self, harness: KubernetesHarness) -> None:
        handle = harness.runner.start(harness.spec(image="No Image"), None)
        assert harness.end(handle).reason is Reason.IMAGE

    def test_too_much_asked_for(self, make_kubernetes: Make, harness: KubernetesHarness) -> None:
        patient = make_kubernetes(harness.folder / "patient", patience="1")
        handle = patient.runner.start(patient.spec(requests=Resources(cpu=1000.0)), None)
        wait_for(lambda: "Insufficient cpu" in note_of(patient, handle))
        assert patient.end(handle).reason is Reason.START

    def test_trouble_that_passes(self, harness: KubernetesHarness) -> None:
        spec = harness.spec("echo $LATE", placement=Placement(secrets=("late",)))
        handle = harness.runner.start(spec, None)
        wait_for(lambda: "late" in note_of(harness, handle))
        harness.cluster.add("secrets", "late", data={"LATE": "bGF0ZQ=="})
        assert harness.end(handle).succeeded
        assert harness.log(spec, handle) == b"late\n"

    def test_what_only_the_events_tell(
        self, make_kubernetes: Make, harness: KubernetesHarness, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(diagnostics, "UNEXPLAINED_SECONDS", 0.0)
        monkeypatch.setattr(diagnostics, "EVENTS_PERIOD_SECONDS", 0.2)
        patient = make_kubernetes(harness.folder / "patient", claim="nobodys", patience="3")
        handle = patient.runner.start(patient.spec(), None)
        wait_for(lambda: "nobodys" in note_of(patient, handle))
        assert patient.end(handle).reason is Reason.START

    @pytest.fixture
    def eager(self, make_kubernetes: Make, harness: KubernetesHarness, monkeypatch: Any) -> KubernetesHarness:
        """Asks for events at once, and waits for no longer than a second."""
        monkeypatch.setattr(diagnostics, "UNEXPLAINED_SECONDS", 0.0)
        monkeypatch.setattr(diagnostics, "EVENTS_PERIOD_SECONDS", 0.2)
        return make_kubernetes(harness.folder / "eager", patience="1")

    def test_event_before_a_machine_was_found_ends_no_job(self, eager: KubernetesHarness) -> None:
        eager.cluster.schedule_nothing("0/1 nodes are available")
        eager.cluster.configure(delay=2.5)
        spec = eager.spec("echo done")
        handle = eager.runner.start(spec, None)
        wait_for(lambda: "0/1 nodes" in note_of(eager, handle))
        eager.cluster.schedule_nothing(None)
        assert eager.end(handle).succeeded
        assert eager.log(spec, handle) == b"done\n"

    @pytest.mark.parametrize("reason", ["MissingClusterDNS", "FailedPreStopHook", "FailedMount"])
    def test_command_that_has_begun_is_not_taken_away(self, eager: KubernetesHarness, reason: str) -> None:
        """Its pod says too late that it runs."""
        eager.cluster.configure(is_late=True)
        spec = eager.spec("echo begun; sleep 4; echo done")
        handle = eager.runner.start(spec, None)
        wait_for(lambda: _read(eager.another(), handle))
        eager.cluster.warn(spec.name, reason)
        wait_for(lambda: isinstance(eager.state(handle), Running) or reason != "FailedMount")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert not isinstance(eager.state(handle), Exited | Missing)
            time.sleep(0.1)
        eager.cluster.configure(is_late=False)
        assert eager.end(handle).succeeded
        assert eager.log(spec, handle) == b"begun\ndone\n"

    def test_machine_that_cannot_be_asked_ends_no_job(self, eager: KubernetesHarness) -> None:
        eager.cluster.configure(is_late=True)
        spec = eager.spec("echo begun; sleep 2")
        handle = eager.runner.start(spec, None)
        eager.cluster.fail(500, times=None, path="/log$", message="dial tcp 10.0.0.1:10250: connection refused")
        eager.cluster.warn(spec.name, "FailedCreatePodSandBox")
        wait_for(lambda: "FailedCreatePodSandBox" in note_of(eager, handle))
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert isinstance(eager.state(handle), Pending)
            time.sleep(0.1)
        eager.cluster.heal()
        eager.cluster.configure(is_late=False)
        assert eager.end(handle).succeeded

    def test_no_shell_in_the_image(self, harness: KubernetesHarness) -> None:
        harness.cluster.add_image("bare", root="empty")
        handle = harness.runner.start(harness.spec(image="bare"), None)
        end = harness.end(handle)
        assert (end.reason, end.has_begun) == (Reason.START, False)
        assert "sh" in str(end.message)


class TestLogs:
    def test_what_was_turned_over_is_said(self, harness: KubernetesHarness) -> None:
        spec = harness.spec("echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo three")
        handle = running(harness, spec)
        read = wait_for(lambda: _read(harness.runner, handle))
        assert read[0] == b"one\n"
        harness.cluster.rotate_log(spec.name, "job")
        _touch(harness, spec)
        harness.end(handle)
        assert harness.remote.logs(handle, read[1], 1 << 20)[0] == DROPPED + b"three\n"

    def test_a_long_log_is_followed_as_it_is_turned_over(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
        spec = harness.spec("for i in $(seq 300); do echo $i; sleep 0.01; done")
        handle = harness.runner.start(spec, None)
        whole, cursor, turned = b"", None, 0
        while not _over(harness, handle):
            data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
            whole += data
            if whole.count(b"\n") > 100 * (turned + 1):
                harness.cluster.rotate_log(spec.name, "job")
                turned += 1
        for _ in range(5):
            data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
            whole += data
        assert turned == 2
        assert whole == b"".join(b"%d\n" % number for number in range(1, 301))

    def test_a_followed_log_that_is_cut_goes_on(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 500)
        spec = harness.spec("for i in $(seq 200); do echo $i; sleep 0.02; done")
        handle = harness.runner.start(spec, None)
        whole, cursor, has_cut = b"", None, False
        while not _over(harness, handle):
            with contextlib.suppress(RunnerUnavailable):
                data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
                whole += data
            if len(whole) > 300 and not has_cut:
                harness.cluster.go_away()
                harness.cluster.come_back()
                has_cut = True
        for _ in range(5):
            data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
            whole += data
        assert has_cut
        assert whole == b"".join(b"%d\n" % number for number in range(1, 201))

    @pytest.mark.parametrize(("lines", "width"), [(20_000, 100), (40_000, 5)])
    def test_fast_followed_log_arrives_in_a_few_looks(
        self, harness: KubernetesHarness, monkeypatch: Any, lines: int, width: int
    ) -> None:
        monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
        line = "x" * width
        handle = running(harness, harness.spec(f"yes | head -n 100; sleep 1; yes {line} | head -n {lines}; sleep 1000"))
        whole, cursor = wait_for(lambda: _read(harness.runner, handle))
        expected, looks = b"y\n" * 100 + f"{line}\n".encode() * lines, 0
        while len(whole) < len(expected) and looks < 40:
            data, cursor = harness.remote.logs(handle, cursor, 1 << 20)
            whole, looks = whole + data, looks + 1
            time.sleep(0.1)
        assert whole == expected, f"{len(whole)} bytes after {looks} looks"

    def test_look_at_a_followed_log_begun_again_is_not_empty(
        self, harness: KubernetesHarness, monkeypatch: Any
    ) -> None:
        """All of the cursor's second comes again before it."""
        monkeypatch.setattr("runners.kubernetes.logs.MIN_FOLLOWED_BYTES", 1000)
        monkeypatch.setattr("runners.kubernetes.log_feed.CHUNK_BYTES", 1000)
        handle = running(harness, harness.spec("seq 20000; sleep 1000"))
        whole, cursor = wait_for(lambda: (found := harness.remote.logs(handle, None, 100_000)) and found[0] and found)
        data, _ = harness.another().logs(handle, cursor, 1 << 20)  # type: ignore[attr-defined]
        assert data
        assert whole + data == b"".join(b"%d\n" % number for number in range(1, 20_001))[: len(whole + data)]

    def test_long_lines_and_many(self, harness: KubernetesHarness) -> None:
        _, log, _ = run(harness, "head -c 100000 /dev/zero | tr '\\0' x; echo; seq 1 50000; head -c 40000 /dev/zero")
        assert log == b"x" * 100_000 + b"\n" + b"".join(b"%d\n" % n for n in range(1, 50_001)) + b"\0" * 40_000

    def test_a_log_that_grows_is_read_by_one_runner_and_the_next(self, harness: KubernetesHarness) -> None:
        spec = harness.spec("for i in $(seq 40); do echo $i; printf '%s' x; sleep 0.03; done")
        handle = harness.runner.start(spec, None)
        whole, cursor = b"", None
        while not _over(harness, handle):
            runner = harness.another()
            data, cursor = runner.logs(handle, cursor, 50)  # type: ignore[attr-defined]
            whole += data
            runner.close()
        while data := harness.remote.logs(handle, cursor, 50)[0]:
            _, cursor = harness.another().logs(handle, cursor, 50)  # type: ignore[attr-defined]
            whole += data
        assert whole == b"".join(b"%d\nx" % number for number in range(1, 41))

    def test_before_the_beginning_there_is_none(self, harness: KubernetesHarness) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        spec = harness.lasts()
        handle = harness.runner.start(spec, None)
        assert harness.remote.logs(handle, None, 100)[0] == b""

    def test_log_of_a_pod_that_waits_is_not_asked_for(self, harness: KubernetesHarness) -> None:
        harness.cluster.add_image("slow", seconds=1.5)
        spec = harness.spec("echo begun; sleep 1000", image="slow")
        handle = harness.runner.start(spec, None)
        harness.cluster.forget_counts()
        while not isinstance(harness.state(handle), Running):
            assert harness.remote.logs(handle, None, 100) == (b"", None)
            time.sleep(0.1)
        assert "get pods/log" not in harness.cluster.counted()
        assert wait_for(lambda: _read(harness.runner, handle))[0] == b"begun\n"


def _read(runner: Any, handle: str) -> Any:
    """(The log from its beginning, the cursor behind it), once there is one."""
    found = runner.logs(handle, None, 1 << 20)
    return found if found[0] else None


def _touch(harness: KubernetesHarness, spec: Any) -> None:
    from runners.kubernetes.api import Api
    from runners.kubernetes.exec import run as execute
    from runners.kubernetes.options import Options

    api = Api(Options.read(harness.options))
    execute(api, spec.name, "job", ["touch", "/tmp/go"], 10)
    api.close()


class TestApi:
    def test_a_server_that_is_away_is_unavailable_and_costs_nothing(self, harness: KubernetesHarness) -> None:
        spec = harness.lasts()
        handle = running(harness, spec)
        harness.cluster.go_away()
        for call in (
            harness.runner.check,
            lambda: harness.runner.poll([handle]),
            lambda: harness.runner.stop(handle, force=True),
            lambda: harness.runner.clean(handle),
            lambda: harness.runner.start(harness.spec(), None),
            lambda: harness.remote.logs(handle, None, 10),
            lambda: list(harness.remote.outputs(handle)),
        ):
            with pytest.raises(RunnerUnavailable, match="cannot be reached"):
                call()
        harness.cluster.come_back()
        assert isinstance(harness.state(handle), Running)

    @pytest.mark.parametrize("code", [429, 500, 503])
    def test_a_busy_server_is_asked_again(self, harness: KubernetesHarness, code: int) -> None:
        handle = running(harness, harness.lasts())
        harness.cluster.fail(code, times=2, verb="list")
        assert isinstance(harness.state(handle), Running)
        harness.cluster.fail(code, times=None, verb="list")
        with pytest.raises(RunnerUnavailable, match=str(code)):
            harness.runner.poll([handle])

    def test_a_server_that_names_a_time_is_given_it(self, harness: KubernetesHarness) -> None:
        handle = running(harness, harness.lasts())
        harness.cluster.fail(429, times=1, verb="list", retry_after=1)
        before = time.monotonic()
        assert isinstance(harness.state(handle), Running)
        assert time.monotonic() - before > 0.4

    def test_a_create_that_was_cut_off_is_adopted(self, harness: KubernetesHarness) -> None:
        spec = harness.says("x")
        harness.cluster.fail(None, times=1, verb="create", path="/pods$")
        with pytest.raises(RunnerUnavailable):
            harness.runner.start(spec, None)
        handle = harness.runner.start(spec, None)
        harness.end(handle)
        assert harness.runs(spec) == 1

    def test_many_pods_come_in_pages(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        monkeypatch.setattr("runners.kubernetes.api.PAGE_SIZE", 2)
        handles = [harness.runner.start(harness.says(str(number)), None) for number in range(5)]
        for handle in handles:
            harness.end(handle)
        harness.cluster.forget_counts()
        assert len(harness.runner.poll(handles)) == 5
        assert harness.cluster.counted() == {"list pods": 3}

    def test_one_list_tells_of_all(self, harness: KubernetesHarness) -> None:
        handles = [running(harness, harness.lasts()) for _ in range(4)]
        harness.cluster.forget_counts()
        assert len(harness.runner.poll(handles)) == 4
        assert harness.cluster.counted() == {"list pods": 1}

    @pytest.mark.parametrize("trouble", ["cut_watches", "compact"])
    def test_a_watch_that_is_cut_is_begun_anew(self, harness: KubernetesHarness, trouble: str) -> None:
        handle = running(harness, harness.lasts())
        getattr(harness.cluster, trouble)()
        harness.cluster.cut_watches()
        time.sleep(1.5)
        harness.woken.clear()
        harness.runner.stop(handle, force=True)
        assert harness.woken.wait(10)

    def test_the_watch_ends_with_its_runner(self, harness: KubernetesHarness) -> None:
        runner = harness.another()
        runner.inventory()
        watching = {thread for thread in threading.enumerate() if thread.name.startswith("kubernetes-")}
        assert watching
        for each in harness.runners:
            each.close()
        for thread in watching:
            thread.join(10)
            assert not thread.is_alive()
        harness.runner = harness.another()

    @pytest.mark.parametrize("missing", PERMISSIONS)
    def test_a_missing_right_is_named(self, harness: KubernetesHarness, missing: tuple[str, str, str]) -> None:
        harness.cluster.permit([right for right in (*PERMISSIONS, ("get", "namespaces", "")) if right != missing])
        verb, thing, part = missing
        for look in (harness.another().check, harness.another().probe):
            with pytest.raises(RunnerUnavailable) as caught:
                look()
            assert f"may not: {verb} {thing}{'/' if part else ''}{part}. " in str(caught.value)

    @pytest.mark.parametrize(
        ("rules", "words"),
        [
            ({"least": {"cpu": "50m"}}, "minimum cpu usage"),
            ({"policy": 'violates PodSecurity "restricted:latest"'}, "violates PodSecurity"),
            ({"quota": {"limits.memory": "1Mi"}}, "exceeded quota"),
        ],
    )
    def test_namespace_that_admits_no_job_is_named(self, harness: KubernetesHarness, rules: Any, words: str) -> None:
        harness.cluster.restrict(**rules)
        before = len(harness.cluster.pods())
        with pytest.raises(RunnerUnavailable, match=f"admits no pod of a job: .*{words}"):
            harness.another().check()
        harness.cluster.restrict()
        harness.another().check()
        assert len(harness.cluster.pods()) == before

    def test_quota_that_is_used_up_for_now_is_fine(self, harness: KubernetesHarness) -> None:
        running(harness, harness.lasts())
        harness.cluster.restrict(quota={"pods": "1"})
        harness.another().check()

    def test_webhook_that_cannot_check_without_acting_is_fine(self, harness: KubernetesHarness) -> None:
        harness.cluster.restrict(policy='admission webhook "pods.example.org" does not support dry run')
        harness.another().check()

    def test_the_least_rights_are_enough(self, harness: KubernetesHarness, tmp_path: Path) -> None:
        harness.cluster.permit([*PERMISSIONS, ("create", "selfsubjectaccessreviews", "")])
        code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"))
        runner = harness.runner = harness.another()
        runner.check()
        end, log, handle = run(harness, "cat a.txt; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f", upload=code)
        assert (end.code, log) == (0, b"code")
        assert harness.outputs(handle) == {"f": b"x\n"}
        stopped = running(harness, harness.lasts())
        runner.stop(stopped, force=False)
        assert harness.end(stopped).signal == 15

    def test_another_namespace_is_told_apart(self, harness: KubernetesHarness, make_kubernetes: Make) -> None:
        handle = running(harness, harness.lasts())
        harness.cluster.add_namespace("elsewhere")
        other = make_kubernetes(harness.folder, namespace="elsewhere")
        assert isinstance(other.state(handle), Unknown)
        for call in (lambda: other.runner.stop(handle, force=True), lambda: other.runner.clean(handle)):
            with pytest.raises(RunnerUnavailable, match="another cluster or namespace"):
                call()
        assert isinstance(harness.state(handle), Running)

    def test_no_way_to_a_cluster_is_said(self, make_kubernetes: Make, tmp_path: Path) -> None:
        lost = make_kubernetes(tmp_path / "lost", kubeconfig=str(tmp_path / "nothing"))
        with pytest.raises(RunnerUnavailable, match="No Kubernetes cluster is configured"):
            lost.runner.check()
        (tmp_path / "nothing").write_text("{: no YAML")
        with pytest.raises(RunnerUnavailable, match="cannot be read"):
            lost.runner.check()
        lost.runner.inventory = dict  # type: ignore[method-assign]


def _ask_in_vain(harness: KubernetesHarness, spec: Any) -> None:
    """Try a start whose request nobody answers: it may still be on its way."""
    harness.cluster.fail(None, times=None, verb="create", path="/pods$")
    with pytest.raises(RunnerUnavailable):
        harness.runner.start(spec, None)
    harness.cluster.heal()


def _let_requests_expire(harness: KubernetesHarness, spec: Any) -> None:
    """Make the last start of a job so old that no request of it can be on its way."""
    record = harness.data / "kubernetes" / f"{spec.uuid}{FILES}"
    past = time.time() - PENDING_REQUEST_SECONDS
    os.utime(record, (past, past))


class TestFences:
    def test_a_request_that_comes_late_runs_nothing(self, harness: KubernetesHarness) -> None:
        spec = harness.says("x")
        _ask_in_vain(harness, spec)
        assert harness.runner.prevent_start(spec.uuid) is None
        pod = harness.cluster.pod(spec.name)
        assert pod["metadata"]["labels"]["polyjob.fence"] == spec.uuid
        assert "nodeName" not in pod["spec"]
        (harness.data / "kubernetes" / spec.uuid).unlink()
        with pytest.raises(RunnerRefused, match="does not belong to this polyjob"):
            harness.runner.start(spec, None)

    def test_a_name_that_was_not_taken_is_not_said_to_be(self, harness: KubernetesHarness) -> None:
        """A quota that just changes answers with a conflict, too; and a pod may be gone as soon as it was met."""
        spec = harness.says("x")
        _ask_in_vain(harness, spec)
        harness.cluster.fail(409, times=1, verb="create", path="/pods$", message="the quota has been modified")
        with pytest.raises(RunnerUnavailable, match="quota"):
            harness.runner.prevent_start(spec.uuid)
        harness.runner.start(spec, None)
        (harness.data / "kubernetes" / spec.uuid).unlink()
        harness.cluster.fail(404, times=2, verb="get", path=spec.name)
        with pytest.raises(RunnerUnavailable, match="has disappeared again"):
            harness.runner.prevent_start(spec.uuid)
        assert json.loads(str(harness.runner.prevent_start(spec.uuid)))["id"]

    @pytest.mark.parametrize("is_busy", [False, True])
    @pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}, {"policy": "no pods here"}])
    def test_start_that_was_refused_needs_no_fence(self, harness: KubernetesHarness, rules: Any, is_busy: bool) -> None:
        spec, before = harness.says("x"), len(harness.cluster.pods())
        harness.cluster.restrict(**rules)
        if is_busy:  # a request that is one too many is not carried out
            harness.cluster.fail(429, times=1, verb="create", path="/pods$")
        with pytest.raises(RunnerError, match="forbidden"):
            harness.runner.start(spec, None)
        assert harness.another().prevent_start(spec.uuid) is None
        harness.cluster.restrict()
        assert isinstance(harness.state(harness.runner.start(spec, None)), Missing)
        assert len(harness.cluster.pods()) == before

    @pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}, {"policy": "no pods here"}])
    def test_fence_that_a_namespace_does_not_admit_is_refused(self, harness: KubernetesHarness, rules: Any) -> None:
        spec = harness.says("x")
        _ask_in_vain(harness, spec)
        harness.cluster.restrict(**rules)
        for _ in range(2):  # the start is tried again, and the first request is still on its way
            with pytest.raises(RunnerUnavailable, match=r"may still be carried out.*forbidden"):
                harness.runner.prevent_start(spec.uuid)
            _let_requests_expire(harness, spec)
            with pytest.raises(RunnerRefused, match="forbidden"):
                harness.runner.prevent_start(spec.uuid)
            with pytest.raises(RunnerError, match="forbidden"):
                harness.runner.start(spec, None)

    @pytest.mark.parametrize("code", [500, 502, 503, 504])
    @pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}])
    def test_start_refused_after_a_server_error_needs_a_fence(
        self, harness: KubernetesHarness, rules: Any, code: int
    ) -> None:
        spec = harness.says("x")
        harness.cluster.restrict(**rules)
        harness.cluster.fail(code, times=1, verb="create", path="/pods$")
        with pytest.raises(RunnerError, match="forbidden"):
            harness.runner.start(spec, None)
        with pytest.raises(RunnerUnavailable, match="forbidden"):
            harness.another().prevent_start(spec.uuid)
        harness.cluster.restrict()
        assert harness.another().prevent_start(spec.uuid) is None
        assert harness.cluster.pod(spec.name)["metadata"]["labels"]["polyjob.fence"] == spec.uuid

    @pytest.mark.parametrize("code", [500, 503, None])
    @pytest.mark.parametrize(("status", "words"), [(400, "no such field"), (422, "invalid"), (500, TOO_LARGE_TEXTS[0])])
    def test_wrong_pod_after_an_unclear_try_needs_a_fence(
        self, harness: KubernetesHarness, code: int | None, status: int, words: str
    ) -> None:
        spec = harness.says("x")
        harness.cluster.fail(code, times=1, verb="create", path="/pods$")
        harness.cluster.fail(status, times=None, verb="create", path="/pods$", message=words)
        if code is None:
            with pytest.raises(RunnerUnavailable):
                harness.runner.start(spec, None)
        for _ in range(2):
            with pytest.raises(RunnerRefused, match=words):
                harness.runner.start(spec, None)
        harness.cluster.heal()
        assert harness.another().prevent_start(spec.uuid) is None
        assert harness.cluster.pod(spec.name)["metadata"]["labels"]["polyjob.fence"] == spec.uuid

    def test_requests_are_pending_for_longer_than_their_tries_take(self) -> None:
        attempt = (
            kubernetes_api.CONNECT_SECONDS
            + kubernetes_api.RESPONSE_SECONDS
            + kubernetes_api.LONGEST_PAUSE_SECONDS * 1.5
        )
        last_attempt_sent = (kubernetes_api.ATTEMPTS - 1) * attempt + kubernetes_api.CONNECT_SECONDS
        assert last_attempt_sent + 60 < PENDING_REQUEST_SECONDS  # the API server's own time limit

    def test_a_fence_is_removed_once_no_request_can_come(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        spec = harness.says("x")
        _ask_in_vain(harness, spec)
        harness.runner.prevent_start(spec.uuid)
        harness.runner.inventory()
        assert harness.cluster.pod(spec.name) is not None
        monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", -1.0)
        assert harness.runner.inventory() == {}
        assert harness.cluster.pod(spec.name) is None


class TestSteps:
    """Without a registry."""

    @pytest.fixture
    def bare(self, make_kubernetes: Make, harness: KubernetesHarness) -> KubernetesHarness:
        return make_kubernetes(harness.folder / "bare", registry=None)

    def artifact(self, bare: KubernetesHarness, *steps: str, timeout: float = 60.0) -> str:
        return Artifact(IMAGE, IMAGE, steps, timeout).text()

    def test_a_build_says_that_nothing_is_kept(self, bare: KubernetesHarness, harness: KubernetesHarness) -> None:
        log = io.BytesIO()
        spec = harness.build_spec("true", "false")
        made = bare.runner.build(spec, log, lambda: False)
        assert Artifact.parse(str(made)) == Artifact(IMAGE, IMAGE, ("true", "false"), spec.timeout)
        assert b"nothing is kept" in log.getvalue()
        assert bare.runner.cached_artifacts() == {}

    def test_they_come_before_the_command_in_its_own_place(self, bare: KubernetesHarness) -> None:
        spec = bare.spec("cat /made here; echo $A $#", env={"A": "b"})
        artifact = self.artifact(bare, "echo $A > /made", "cat /made; pwd; echo x > here")
        handle = bare.runner.start(spec, artifact)
        assert bare.end(handle).succeeded
        log = bare.log(spec, handle)
        assert log == (b"Step 1/2: echo $A > /made\nStep 2/2: cat /made; pwd; echo x > here\nb\n/code\nb\nx\nb 0\n")

    def test_a_failing_step_is_named(self, bare: KubernetesHarness) -> None:
        spec = bare.spec("echo not reached")
        handle = bare.runner.start(spec, self.artifact(bare, "true", "false; true"))
        end = bare.end(handle)
        assert (end.reason, end.step, end.code) == (Reason.BUILD, 2, 1)
        assert b"not reached" not in bare.log(spec, handle)

    def test_a_step_takes_no_longer_than_it_may(self, bare: KubernetesHarness) -> None:
        handle = bare.runner.start(bare.spec(), self.artifact(bare, "sleep 1000", timeout=1.0))
        end = bare.end(handle)
        assert (end.reason, end.step) == (Reason.BUILD, 1)
        assert end.message == "step 1 exceeded the time limit of 1 s for the build"

    def test_a_registry_that_is_there_by_now_is_used(self, bare: KubernetesHarness, harness: KubernetesHarness) -> None:
        with pytest.raises(ArtifactMissing, match="registry"):
            harness.runner.start(harness.spec(), self.artifact(bare, "true"))
        handle = harness.runner.start(harness.spec(is_pinned=True), self.artifact(bare, "true"))
        assert harness.end(handle).succeeded


class TestBuilds:
    """With a registry."""

    def test_what_is_there_is_not_built_again(self, harness: KubernetesHarness) -> None:
        spec, first, second = harness.build_spec("echo hello"), io.BytesIO(), io.BytesIO()
        artifact = harness.runner.build(spec, first, lambda: False)
        assert harness.runner.build(spec, second, lambda: False) == artifact
        assert b"hello" in first.getvalue()
        assert b"already exists" in second.getvalue()
        assert "polyjob begins" not in first.getvalue().decode()
        assert [pod for pod in harness.cluster.pods() if "polyjob.build" in pod["metadata"]["labels"]] == []

    @pytest.mark.parametrize("nocache", [False, True])
    def test_each_build_makes_an_image_of_its_own(self, harness: KubernetesHarness, nocache: bool) -> None:
        """One that was withdrawn is not used again by the next, though that has the same key."""
        specs = [harness.build_spec("echo hello", nocache=nocache, key="a" * 64) for _ in range(2)]
        log = io.BytesIO()
        first, second = (Artifact.parse(str(harness.runner.build(spec, log, lambda: False))) for spec in specs)
        assert log.getvalue().count(b"hello") == 2
        assert first.image != second.image
        assert first.base_image == second.base_image == IMAGE

    def test_jobs_run_on_the_digest_of_what_was_pushed(self, harness: KubernetesHarness, registry: Registry) -> None:
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

    def test_registry_that_tells_no_digest_leaves_the_tag(
        self, harness: KubernetesHarness, registry: Registry, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(registry, "tells_digests", False)
        build, log = harness.build_spec("true"), io.BytesIO()
        artifact = harness.runner.build(build, log, lambda: False)
        assert Artifact.parse(str(artifact)).image == f"{registry.host}/polyjob:{build.uuid}"
        assert b"its digest is not known" in log.getvalue()

    def test_image_of_another_build_is_no_base(self, harness: KubernetesHarness, registry: Registry) -> None:
        build = harness.build_spec("true")
        image = Artifact.parse(str(harness.runner.build(build, io.BytesIO(), lambda: False))).image
        for name in (image, f"{registry.host}/polyjob:{build.uuid}", f"{registry.host}/polyjob"):
            with pytest.raises(BuildFailed, match="name the image that it is based on"):
                harness.runner.build(harness.build_spec("env", image=name), io.BytesIO(), lambda: False)
            with pytest.raises(StartFailed, match="name the image that it is based on"):
                harness.runner.start(harness.spec("env", image=name), None)

    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ("ERROR: failed to push: dial tcp 10.0.0.1:5000: connect: connection refused", RunnerUnavailable),
            ("write /var/lib/buildkit/x: no space left on device", RunnerUnavailable),
            ("ERROR: pull access denied, repository does not exist", BuildFailed),
        ],
    )
    def test_builder_that_fails_for_its_machine_is_tried_again(
        self, make_kubernetes: Make, harness: KubernetesHarness, said: str, kind: type[Exception]
    ) -> None:
        broken = make_kubernetes(harness.folder / "broken", builder_command=f"echo '{said}'; exit 1")
        with pytest.raises(kind) as caught:
            broken.runner.build(broken.build_spec("true"), io.BytesIO(), lambda: False)
        assert type(caught.value) is kind

    def test_step_that_fails_is_to_blame_whatever_it_says(self, harness: KubernetesHarness) -> None:
        spec = harness.build_spec("echo 'connection refused'; exit 3")
        with pytest.raises(BuildFailed) as caught:
            harness.runner.build(spec, io.BytesIO(), lambda: False)
        assert (caught.value.build_step, caught.value.exit_code) == (1, 3)

    @pytest.mark.parametrize(
        ("rules", "kind"),
        [({"policy": "violates PodSecurity"}, RunnerRefused), ({"quota": {"pods": "1"}}, RunnerUnavailable)],
    )
    def test_builder_that_is_not_admitted_is_tried_again(
        self, harness: KubernetesHarness, rules: Any, kind: type[Exception]
    ) -> None:
        running(harness, harness.lasts())
        harness.cluster.restrict(**rules)
        with pytest.raises(kind, match="forbidden"):
            harness.runner.build(harness.build_spec("true"), io.BytesIO(), lambda: False)

    def test_two_at_once_share_one_pod(self, harness: KubernetesHarness) -> None:
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

    def test_requirement_files_are_there_and_their_image_is_what_jobs_run_on(
        self, harness: KubernetesHarness, tmp_path: Path
    ) -> None:
        code = archive(tmp_path / "code.tar.gz", ("requirements.txt", "six\n"), ("other.txt", "x"))
        log = io.BytesIO()
        spec = harness.build_spec("ls; cat requirements.txt", upload=code, requirement_files=("requirements.txt",))
        artifact = harness.runner.build(spec, log, lambda: False)
        assert b"Dockerfile\nrequirements.txt\nsix\n" in log.getvalue()
        handle = harness.runner.start(harness.spec("true"), artifact)
        assert harness.end(handle).succeeded

    def test_an_image_that_was_removed_makes_a_build_outdated(
        self, harness: KubernetesHarness, registry: Registry
    ) -> None:
        artifact = harness.runner.build(harness.build_spec("true"), io.BytesIO(), lambda: False)
        del registry.images[json.loads(str(artifact))["image"]]
        with pytest.raises(ArtifactMissing, match="no longer in the registry"):
            harness.runner.start(harness.spec(), artifact)

    def test_nothing_to_build_is_not_built(self, harness: KubernetesHarness) -> None:
        artifact = harness.runner.build(harness.build_spec(), io.BytesIO(), lambda: False)
        assert Artifact.parse(str(artifact)) == Artifact(IMAGE, IMAGE)

    def test_a_builder_that_cannot_be_had(self, make_kubernetes: Make, harness: KubernetesHarness) -> None:
        patient = make_kubernetes(harness.folder / "patient", builder_image="no-such-builder", patience="1")
        log = io.BytesIO()
        with pytest.raises(BuildFailed, match="cannot be started"):
            patient.runner.build(patient.build_spec("true"), log, lambda: False)
        assert b"no-such-builder" in log.getvalue()

    def test_builder_has_new_patience_with_another_trouble(
        self, make_kubernetes: Make, harness: KubernetesHarness
    ) -> None:
        harness.cluster.schedule_nothing("0/1 nodes are available")
        patient = make_kubernetes(harness.folder / "patient", builder_image="late-builder", patience="3")
        log, found = io.BytesIO(), []

        def build() -> None:
            try:
                patient.runner.build(patient.build_spec("true"), log, lambda: False)
            except RunnerError as error:
                found.append(error)

        thread = threading.Thread(target=build)
        thread.start()
        wait_for(lambda: b"0/1 nodes" in log.getvalue())
        time.sleep(1.5)
        harness.cluster.schedule_nothing(None)
        wait_for(lambda: b"late-builder" in log.getvalue())
        time.sleep(2)
        assert found == []
        thread.join(20)
        assert "late-builder" in str(found[0])

    def test_a_builder_that_fails_by_itself(self, make_kubernetes: Make, harness: KubernetesHarness) -> None:
        broken = make_kubernetes(harness.folder / "broken", builder_command="echo oops; exit 9")
        with pytest.raises(BuildFailed, match="exit code 9") as caught:
            broken.runner.build(broken.build_spec("true"), io.BytesIO(), lambda: False)
        assert (caught.value.build_step, caught.value.exit_code) == (None, 9)

    @pytest.mark.parametrize(
        ("trouble", "kind", "words"),
        [("evict", RunnerRefused, "low on resource"), ("run_out_of_memory", BuildFailed, "memory limit")],
    )
    def test_a_builder_that_is_ended_says_why(
        self, harness: KubernetesHarness, trouble: str, kind: type[Exception], words: str
    ) -> None:
        spec, log = harness.build_spec("echo begun; sleep 1000"), io.BytesIO()
        name, found = f"polyjob-build-{spec.uuid}", []

        def build() -> None:
            try:
                harness.runner.build(spec, log, lambda: False)
            except RunnerError as error:
                found.append(error)

        thread = threading.Thread(target=build)
        thread.start()
        wait_for(lambda: b"begun" in log.getvalue())
        getattr(harness.cluster, trouble)(name)
        thread.join(20)
        assert words in str(found[0])
        assert type(found[0]) is kind

    def test_a_builder_that_nobody_listens_to_is_removed(self, harness: KubernetesHarness, monkeypatch: Any) -> None:
        spec, runner, over = harness.build_spec("echo begun; sleep 1000"), harness.another(), threading.Event()
        log = io.BytesIO()

        def build() -> None:
            with contextlib.suppress(BuildFailed, RunnerUnavailable):
                runner.build(spec, log, over.is_set)

        thread = threading.Thread(target=build)
        thread.start()
        wait_for(lambda: b"begun" in log.getvalue())

        def builders() -> list[Any]:
            labels = [pod["metadata"]["labels"] for pod in harness.cluster.pods()]
            return [told for told in labels if told.get("polyjob.build") == spec.uuid]

        monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", 0.0)
        for _ in range(3):
            runner.inventory()
            assert builders()
        harness.runner.inventory()
        assert builders()
        harness.runner.inventory()
        wait_for(lambda: not builders())
        over.set()
        thread.join(20)
        assert not thread.is_alive()

    def test_a_build_has_its_time(self, harness: KubernetesHarness) -> None:
        with pytest.raises(BuildFailed, match="exceeded its time limit"):
            harness.runner.build(harness.build_spec("sleep 1000", timeout=1.5), io.BytesIO(), lambda: False)
