"""The Docker runner on a real Engine, beyond the contract of all runners."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import docker
import pytest

from runners.base import (
    DOCKER_HOST_ALIAS,
    FENCE_LIFETIME_SECONDS,
    ArtifactMissing,
    Exited,
    Missing,
    Reason,
    Resources,
    RunnerRefused,
    RunnerUnavailable,
    Running,
    StartFailed,
    Unknown,
)
from runners.docker.containers import unix_time
from runners.docker.logs import DROPPED_LINE
from runners.docker.runner import DockerRunner
from tests.runners.docker.helpers import build, on_podman_too, output_of, refusing
from tests.runners.harness import DockerHarness, archive, wait_for


def run(harness: DockerHarness, cmd: str, **fields: Any) -> tuple[Any, bytes]:
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(spec, None)
    end = harness.end(handle)
    return end, harness.log(spec, handle)


@on_podman_too
def test_secret_is_a_variable_of_the_container_and_in_no_argument(harness: DockerHarness) -> None:
    spec = harness.spec("true", secrets={"TOKEN": "correct horse"})
    handle = harness.runner.start(spec, None)
    container = harness.engine.inspect_container(spec.name)
    assert "TOKEN=correct horse" in container["Config"].pop("Env")
    assert "horse" not in json.dumps(container)
    assert "horse" not in (harness.data / "docker" / spec.uuid).read_text()
    assert harness.end(handle).succeeded


@on_podman_too
def test_stdout_and_stderr_keep_their_order_and_bytes(harness: DockerHarness) -> None:
    _, log = run(harness, r"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\377\000\r\n'")
    assert log == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n\xff\x00\r\n"


def test_job_gets_only_its_own_variables(harness: DockerHarness, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    _, log = run(harness, "env; pwd", env={"A": "b c"})
    assert b"A=b c\n" in log
    assert b"/code\n" in log
    assert b"SECRET" not in log


def test_process_limit_is_enforced(harness: DockerHarness) -> None:
    end, log = run(
        harness, "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo not reached", resources=Resources(pids=5)
    )
    assert not end.succeeded
    assert b"not reached" not in log


def test_container_has_limits_and_no_privileges(harness: DockerHarness) -> None:
    spec = harness.spec("sleep 1000", resources=Resources(cpu=0.5, memory=64 << 20, pids=16))
    harness.runner.start(spec, None)
    config = harness.engine.inspect_container(spec.name)["HostConfig"]
    assert (config["Memory"], config["NanoCpus"]) == (64 << 20, 500_000_000)
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert (config["RestartPolicy"]["Name"], config["AutoRemove"], config["Init"]) == ("no", False, True)


def test_unsupported_gpus_fail_the_start(harness: DockerHarness, monkeypatch: Any) -> None:
    original = docker.APIClient.inspect_container

    def inspect(client: Any, identity: str) -> dict[str, Any]:
        container = original(client, identity)
        return container | {"HostConfig": container["HostConfig"] | {"DeviceRequests": None}}

    monkeypatch.setattr(docker.APIClient, "inspect_container", inspect)
    with pytest.raises(StartFailed, match="GPUs"):
        harness.runner.start(harness.spec("true", resources=Resources(gpu=1, gpus=(0,))), None)
    assert harness.runner.inventory() == {}


def test_container_gets_the_gpus_of_its_job(harness: DockerHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr(docker.APIClient, "start", lambda *args: None)  # there are none here
    spec = harness.spec("true", resources=Resources(gpu=2, gpus=(0, 3)))
    harness.runner.start(spec, None)
    (request,) = harness.engine.inspect_container(spec.name)["HostConfig"]["DeviceRequests"]
    assert (request["DeviceIDs"], request["Capabilities"]) == (["0", "3"], [["gpu"]])


@on_podman_too
def test_built_images_are_cached_until_removed(harness: DockerHarness) -> None:
    assert harness.runner.cached_artifacts() == {}
    artifact = harness.runner.build(harness.build_spec("head -c 2000000 /dev/zero > /f"), io.BytesIO(), lambda: False)
    assert artifact is not None
    name = harness.runner.artifact_name(artifact)
    assert name is not None
    assert harness.runner.cached_artifacts().keys() == {name}
    assert 2_000_000 <= harness.runner.cached_artifacts()[name] < 2_100_000
    handle = harness.runner.start(harness.endless_job(), artifact)
    harness.runner.remove_artifact(name)
    harness.runner.clean(handle)
    harness.runner.remove_artifact(name)
    assert harness.runner.cached_artifacts() == {}
    with pytest.raises(ArtifactMissing):
        harness.runner.start(harness.printing_job("x"), artifact)


def test_installations_do_not_share_built_images(harness: DockerHarness, other: DockerHarness) -> None:
    spec = dataclasses.replace(harness.build_spec("echo hello"), nocache=False)
    identity = {"uuid": "c" * 32, "installation": other.installation, "folder": str(other.folder)}
    theirs = dataclasses.replace(spec, **identity)
    artifacts = [
        owner.runner.build(build_spec, io.BytesIO(), lambda: False)
        for owner, build_spec in ((harness, spec), (other, theirs))
    ]
    names = [harness.runner.artifact_name(str(artifact)) for artifact in artifacts]
    assert [set(harness.runner.cached_artifacts()), set(other.runner.cached_artifacts())] == [{names[0]}, {names[1]}]
    harness.runner.remove_artifact(str(names[0]))
    assert set(other.runner.cached_artifacts()) == {names[1]}
    handle = other.runner.start(other.printing_job("x"), artifacts[1])
    assert other.end(handle).succeeded


def test_job_beyond_its_memory_limit_is_oom(harness: DockerHarness) -> None:
    end, _ = run(harness, "head -c 200000000 /dev/zero | tail", resources=Resources(memory=16 << 20))
    assert (end.succeeded, end.reason) == (False, Reason.OOM)


def test_missing_image_fails_the_start(harness: DockerHarness) -> None:
    for image, word in ((None, "needs an image"), ("polyjob-test-none:1", "does not exist")):
        with pytest.raises(StartFailed, match=word) as refused:
            harness.runner.start(harness.spec("true", image=image), None)
        assert refused.value.reason is Reason.IMAGE
    assert harness.runner.inventory() == {}


@on_podman_too
def test_image_without_a_shell_fails_the_start(harness: DockerHarness) -> None:
    end = harness.end(harness.runner.start(harness.unstartable_job(), None))
    assert (end.reason, end.message) == (Reason.START, "The image has no `/bin/sh`, which runs the command.")


@on_podman_too
def test_crash_between_create_and_start_starts_the_job_once(harness: DockerHarness, monkeypatch: Any) -> None:
    spec = harness.printing_job("x")
    with monkeypatch.context() as crash:
        crash.setattr(docker.APIClient, "start", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            harness.runner.start(spec, None)
    assert harness.engine.inspect_container(spec.name)["State"]["Status"] == "created"
    handle = harness.another().start(spec, None)
    assert harness.end(handle).succeeded
    assert harness.runs(spec) == 1


def test_container_without_a_record_is_adopted(harness: DockerHarness) -> None:
    spec = harness.printing_job("x")
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    (harness.data / "docker" / spec.uuid).unlink()
    assert harness.another().start(spec, None) == handle
    assert harness.end(handle).succeeded
    assert harness.runs(spec) == 1


def test_containers_of_another_installation_are_not_touched(harness: DockerHarness, tmp_path: Path) -> None:
    spec = harness.endless_job()
    harness.runner.start(spec, None)
    other = DockerHarness(tmp_path / "other")
    other.settings = type(other.settings)(data_dir=str(other.data), installation="d" * 32)
    other.runner = other.another()
    assert other.runner.inventory() == {}
    with pytest.raises(StartFailed, match="does not belong to this polyjob"):
        other.runner.start(spec, None)
    assert isinstance(harness.state(harness.runner.inventory()[spec.uuid]), Running)


def test_jobs_of_another_engine_are_unknown_and_kept(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    elsewhere = json.dumps(json.loads(handle) | {"engine": "another", "id": "f" * 64})
    state = harness.runner.poll([elsewhere])[elsewhere]
    assert isinstance(state, Unknown)
    assert "another Docker Engine" in state.reason
    with pytest.raises(RunnerUnavailable, match="another Docker Engine"):
        harness.runner.stop(elsewhere, True)


def test_job_is_lost_when_its_machine_went_down(harness: DockerHarness, monkeypatch: Any) -> None:
    handle = harness.runner.start(spec := harness.spec("sleep 1; exit 0"), None)
    harness.end(handle)
    began = unix_time(harness.engine.inspect_container(spec.name)["State"]["StartedAt"])
    monkeypatch.setattr("runners.docker.states.boot_time", lambda: began + 0.5)
    other_boot = json.dumps(json.loads(handle) | {"boot": "another"})
    for text, reason in ((handle, Reason.EXITED), (other_boot, Reason.LOST)):
        runner = harness.another()
        wait_for(lambda: isinstance(runner.poll([text])[text], Exited))  # noqa: B023
        state = runner.poll([text])[text]
        assert isinstance(state, Exited)
        assert state.exit.reason is reason


def test_missing_engine_error_suggests_install(harness: DockerHarness, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(RunnerUnavailable, match=rf"no server answers at {tmp_path}/none\.sock.*docker\.io"):
        harness.another().check()


def test_inaccessible_socket_error_suggests_group(harness: DockerHarness, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RunnerUnavailable, match=r"This account may not connect.*usermod -aG docker") as refused:
        harness.another().check()
    assert "apt install" not in str(refused.value)


def test_poll_needs_one_request_for_many_jobs(harness: DockerHarness, monkeypatch: Any) -> None:
    requests = []
    original = docker.APIClient.request
    handles = [harness.runner.start(harness.endless_job(), None) for _ in range(6)]
    wait_for(lambda: all(isinstance(state, Running) for state in harness.runner.poll(handles).values()))
    monkeypatch.setattr(
        docker.APIClient,
        "request",
        lambda self, *args, **options: requests.append(args) or original(self, *args, **options),
    )
    harness.runner.poll(handles[:1])
    first_count = len(requests)
    harness.runner.poll(handles)
    assert len(requests) - first_count == first_count


def test_removed_container_is_missing_and_not_rerun(harness: DockerHarness) -> None:
    spec, handle = harness.lost_job()
    wait_for(lambda: isinstance(harness.state(handle), Missing))
    assert harness.another().start(spec, None) == handle
    with pytest.raises(docker.errors.NotFound):
        harness.engine.inspect_container(spec.name)


def test_exit_has_the_name_of_the_node(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.printing_job("x"), None)
    harness.end(handle)
    state = harness.state(handle)
    assert isinstance(state, Exited)
    assert state.node


def test_killed_child_process_does_not_end_the_job(harness: DockerHarness) -> None:
    hungry = "echo 1000 > /proc/self/oom_score_adj; head -c 200000000 /dev/zero | cat | tail -c 100000000 > /dev/null"
    cmd = f"sh -c '{hungry}'; exit 4"
    end, _ = run(harness, cmd, resources=Resources(memory=16 << 20))
    assert (end.reason, end.code, end.signal) == (Reason.EXITED, 4, None)


def test_prevent_start_removes_an_unstarted_container(harness: DockerHarness, monkeypatch: Any) -> None:
    spec = harness.endless_job()
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


@pytest.mark.sample(every=3)
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
    spec = dataclasses.replace(harness.printing_job("x"), upload=archive(tmp_path / "code.tar.gz", ("a", "x")))
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
    spec = harness.printing_job("x")
    with monkeypatch.context() as away:
        away.setattr(docker.APIClient, "start", refusing(status, words))
        with pytest.raises(RunnerUnavailable):
            harness.runner.start(spec, None)
    assert harness.end(harness.runner.start(spec, None)).succeeded
    assert harness.runs(spec) == 1


def test_many_short_lines_below_the_limit_are_kept(harness: DockerHarness) -> None:
    spec = harness.spec("seq 1 250000", log_limit=2_000_000)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    assert harness.log(spec, handle) == b"".join(b"%d\n" % number for number in range(1, 250_001))


def test_dropped_bytes_are_reported_in_the_log(harness: DockerHarness) -> None:
    spec = harness.spec("seq 1 600000", log_limit=1)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    log = harness.log(spec, handle)
    assert log.startswith(DROPPED_LINE)
    assert log.endswith(b"\n599999\n600000\n")
    assert log.count(DROPPED_LINE) == 1


def test_first_end_of_a_restarted_container_counts(harness: DockerHarness) -> None:
    spec = harness.spec("echo ran >> $POLYAXON_RUN_OUTPUTS_PATH/runs; sleep 1000")
    handle = harness.runner.start(spec, None)
    wait_for(lambda: isinstance(harness.state(handle), Running))
    harness.engine.restart(spec.name, timeout=5)
    end = harness.end(handle)
    assert (end.reason, end.code) == (Reason.SIGNALLED, 143)
    harness.runner.clean(handle)
    assert harness.runner.inventory() == {}


def test_surviving_command_reports_a_memory_kill(harness: DockerHarness) -> None:
    hungry = "echo 1000 > /proc/self/oom_score_adj; head -c 200000000 /dev/zero | tail -c 100000000 > /dev/null"
    end, _ = run(harness, f"sh -c '{hungry}'; sleep 0.5; exit 0", resources=Resources(memory=16 << 20))
    assert end.succeeded
    assert end.message is not None
    assert "exceeded the memory limit" in end.message


def test_replaced_engine_is_noticed(harness: DockerHarness, monkeypatch: Any) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    assert isinstance(harness.runner, DockerRunner)
    with monkeypatch.context() as other:
        other.setattr(docker.APIClient, "containers", lambda *args, **options: [])
        other.setattr(docker.APIClient, "volumes", lambda *args, **options: {"Volumes": None})
        other.setattr(docker.APIClient, "create_volume", lambda *args, **options: None)
        harness.runner._connection.identify_again()  # as after a break of the stream of events
        assert isinstance(harness.state(handle), Unknown)
        with pytest.raises(RunnerUnavailable, match="another Docker Engine"):
            harness.runner.clean(handle)
    harness.runner._connection.identify_again()
    wait_for(lambda: isinstance(harness.state(handle), Running))


@on_podman_too
def test_engine_id_that_changes_is_not_another_engine(harness: DockerHarness, monkeypatch: Any) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    original = docker.APIClient.info
    monkeypatch.setattr(docker.APIClient, "info", lambda self: original(self) | {"ID": uuid.uuid4().hex})
    harness.runner = harness.another()
    wait_for(lambda: isinstance(harness.state(handle), Running))
    harness.runner.stop(handle, force=True)
    assert harness.end(handle).signal == 9


@on_podman_too
def test_removed_identity_volume_is_created_again(harness: DockerHarness) -> None:
    handle = harness.runner.start(harness.printing_job("x"), None)
    harness.end(handle)
    volume = json.loads(handle)["engine"]
    harness.engine.remove_volume(volume)
    harness.runner = harness.another()
    harness.end(handle)
    assert harness.engine.inspect_volume(volume)["Labels"]["polyjob.engine"] == volume
    harness.runner.clean(handle)


def test_old_prevented_starts_are_removed(harness: DockerHarness) -> None:
    spec = harness.printing_job("x")
    assert harness.runner.prevent_start(spec.uuid) is None
    record = Path(harness.runner.settings.data_dir) / "docker" / spec.uuid
    os.utime(record, (0, time.time() - FENCE_LIFETIME_SECONDS - 1))
    (handle,) = harness.runner.inventory().values()
    harness.runner.clean(handle)
    assert list(record.parent.iterdir()) == []


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


def talk_to(address: str) -> str:
    return f"(echo hello; sleep 1) | busybox nc -w 2 {address} 8000; echo end"


def test_jobs_do_not_reach_each_other(harness: DockerHarness) -> None:
    spec = harness.spec("while true; do echo reached | busybox nc -l -p 8000; done")
    harness.runner.start(spec, None)

    def address() -> str:
        (network,) = harness.engine.inspect_container(spec.name)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    assert "reached" not in output_of(harness, talk_to(wait_for(address)))


def test_job_reaches_a_server_on_the_engines_machine(harness: DockerHarness) -> None:
    harness.runner.check()
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        network = harness.engine.inspect_network(f"polyjob-{harness.installation[:12]}")
        gateway = network["IPAM"]["Config"][0]["Gateway"]
        harness.runner.start(harness.spec(talk_to(gateway).replace("8000", str(port))), None)
        server.settimeout(20)
        line, _ = server.accept()
        with line:
            assert line.recv(100) == b"hello\n"


def test_removed_network_is_created_again(harness: DockerHarness, monkeypatch: Any) -> None:
    spec, original = harness.printing_job("x"), docker.APIClient.start

    def start(client: Any, identity: str) -> None:
        client.remove_network(f"polyjob-{harness.installation[:12]}")
        original(client, identity)

    with monkeypatch.context() as pruned:
        pruned.setattr(docker.APIClient, "start", start)
        with pytest.raises(RunnerUnavailable, match="not found"):
            harness.runner.start(spec, None)
    assert harness.end(harness.runner.start(spec, None)).succeeded
    assert harness.runs(spec) == 1


def test_duplicate_networks_are_merged(harness: DockerHarness) -> None:
    label = f"polyjob.installation={harness.installation}"
    name = f"polyjob-{harness.installation[:12]}"
    spec = harness.printing_job("x")
    handle = harness.runner.start(spec, None)
    (first,) = harness.engine.networks(filters={"label": label})
    harness.engine.create_network(name, "bridge", labels={"polyjob.installation": harness.installation})
    other = harness.printing_job("y")
    with pytest.raises(RunnerUnavailable, match="ambiguous"):
        harness.runner.start(other, None)
    assert harness.end(harness.runner.start(other, None)).succeeded
    assert harness.end(handle).succeeded
    assert [network["Id"] for network in harness.engine.networks(filters={"label": label})] == [first["Id"]]


def test_shared_memory_setting_applies_without_memory_limit(harness: DockerHarness) -> None:
    assert output_of(harness, "head -c 100000000 /dev/zero > /dev/shm/x && echo fits") == "fits\n"


def test_unsupported_limits_become_a_note(harness: DockerHarness, monkeypatch: Any) -> None:
    original = docker.APIClient.info
    missing = {"MemoryLimit": False, "PidsLimit": False}
    monkeypatch.setattr(docker.APIClient, "info", lambda self: original(self) | missing)
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
def test_unusable_shell_fails_the_start(harness: DockerHarness, image: Any, step: str, message: str) -> None:
    name = image(f"RUN {step} && mv /bin/new /bin/sh")
    end = harness.end(harness.runner.start(harness.spec("true", image=name), None))
    assert end.reason is Reason.START
    assert re.search(message, str(end.message), re.IGNORECASE)


def test_output_like_an_init_error_is_not_a_failed_start(harness: DockerHarness) -> None:
    end, _ = run(harness, "echo '[FATAL tini (6)] exec /bin/sh failed: No such file or directory'; exit 127")
    assert (end.reason, end.code) == (Reason.EXITED, 127)


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


@on_podman_too
@pytest.mark.parametrize("size", [16_383, 16_384, 20_000, 32_768, 40_000])
def test_long_lines_keep_their_line_feed(harness: DockerHarness, size: int) -> None:
    _, log = run(
        harness, f"head -c {size} /dev/zero | tr '\\0' a; echo; echo next; head -c {size} /dev/zero | tr '\\0' b"
    )
    assert log == b"a" * size + b"\nnext\n" + b"b" * size


@on_podman_too
def test_job_resolves_the_name_of_the_engines_machine(harness: DockerHarness) -> None:
    env = {"POLYAXON_API": f"http://{DOCKER_HOST_ALIAS}:8000"}
    assert output_of(harness, f"grep -c {DOCKER_HOST_ALIAS} /etc/hosts", env=env) == "1\n"
