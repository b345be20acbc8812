"""The tests of the contract of `runners.base`. Each takes the fixture `harness`, which the importing module defines."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import tarfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runners.base import (
    BuildFailed,
    Exited,
    HandleNotFound,
    JobOutputs,
    Missing,
    Pending,
    Reason,
    RemoteRunner,
    Running,
    StartFailed,
)
from runners.capabilities import BASIC, Support
from runners.common.masking import Masker
from runners.testing.harness import Harness, wait_for


def is_running(harness: Harness, handle: str) -> bool:
    return isinstance(harness.state(handle), Running)


def test_check_returns_again_and_again(harness: Harness) -> None:
    harness.runner.check()
    harness.runner.check()


def test_probe_creates_nothing(harness: Harness) -> None:
    before = sorted(harness.data.rglob("*"))
    harness.another().probe()
    assert sorted(harness.data.rglob("*")) == before
    assert harness.another().inventory() == {}


def test_job_runs_to_its_end(harness: Harness) -> None:
    spec = harness.printing_job("hello\n")
    handle = harness.runner.start(spec, None)
    end = harness.end(handle)
    assert end.succeeded
    assert (end.reason, end.code, end.signal) == (Reason.EXITED, 0, None)
    assert harness.log(spec, handle) == b"hello\n"


@pytest.mark.parametrize("code", [1, 42, 255])
def test_exit_code_is_reported(harness: Harness, code: int) -> None:
    handle = harness.runner.start(harness.printing_job("", code), None)
    end = harness.end(handle)
    assert (end.reason, end.code, end.succeeded) == (Reason.EXITED, code, False)


def test_states_go_forward_only(harness: Harness) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    wait_for(lambda: is_running(harness, handle))
    for _ in range(20):
        assert is_running(harness, handle)
    harness.runner.stop(handle, force=True)
    harness.end(handle)
    for _ in range(20):
        assert isinstance(harness.state(handle), Exited)


def test_states_are_pending_running_exited(harness: Harness) -> None:
    handle = harness.runner.start(harness.printing_job("x"), None)
    order = [Pending, Running, Exited]
    last = 0
    while last < 2:
        state = harness.state(handle)
        position = order.index(type(state))
        assert position >= last
        last = position


def test_repeated_start_adopts_the_job(harness: Harness) -> None:
    spec = harness.printing_job("x")
    first = harness.runner.start(spec, None)
    assert harness.runner.start(spec, None) == first
    assert harness.another().start(spec, None) == first
    harness.end(first)
    assert harness.runner.start(spec, None) == first
    assert harness.another().start(spec, None) == first
    assert harness.runs(spec) == 1
    assert harness.log(spec, first) == b"x"


def test_racing_starts_run_once(harness: Harness) -> None:
    specs = [harness.printing_job("x") for _ in range(8)]
    runners = [harness.runner, harness.another(), harness.another()]
    gate = threading.Barrier(len(runners))

    def start_all(runner: int) -> list[str]:
        gate.wait()
        return [runners[runner].start(spec, None) for spec in specs]

    with ThreadPoolExecutor(len(runners)) as pool:
        handles = list(pool.map(start_all, range(len(runners))))
    assert handles[0] == handles[1] == handles[2]
    for spec, handle in zip(specs, handles[0], strict=True):
        assert harness.end(handle).succeeded
        assert harness.runs(spec) == 1
        assert harness.log(spec, handle) == b"x"


def test_handle_survives_the_runner_object(harness: Harness) -> None:
    spec = harness.endless_job()
    handle = harness.runner.start(spec, None)
    wait_for(lambda: is_running(harness, handle))
    harness.runner.close()
    harness.runner = harness.another()
    assert is_running(harness, handle)
    harness.runner.stop(handle, force=False)
    first = harness.end(handle)
    assert (first.reason, first.code, first.signal) == (Reason.SIGNALLED, 143, 15)
    harness.runner.close()
    harness.runner = harness.another()
    assert harness.end(handle) == first


@pytest.mark.parametrize(("force", "signal"), [(False, 15), (True, 9)])
def test_stop_ends_a_job(harness: Harness, force: bool, signal: int) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    wait_for(lambda: is_running(harness, handle))
    before = time.monotonic()
    harness.runner.stop(handle, force)
    harness.runner.stop(handle, force)
    assert time.monotonic() - before < 10, "stop waited for the job"
    end = harness.end(handle)
    assert (end.reason, end.code, end.signal) == (Reason.SIGNALLED, 128 + signal, signal)


def test_forced_stop_ends_a_job_that_ignores_term(harness: Harness) -> None:
    spec = harness.stubborn_job()
    handle = harness.runner.start(spec, None)
    wait_for(lambda: is_running(harness, handle) and harness.log(spec, handle))
    harness.runner.stop(handle, force=False)
    time.sleep(0.1)
    assert is_running(harness, handle)
    harness.runner.stop(handle, force=True)
    assert harness.end(handle).signal == 9


def test_stop_right_after_start_ends_the_job(harness: Harness) -> None:
    for force in (False, True):
        handle = harness.runner.start(harness.endless_job(), None)
        harness.runner.stop(handle, force)
        end = harness.end(handle)
        # A shell that gets TERM while it starts can exit by itself, with the same exit code.
        assert end.reason is Reason.SIGNALLED or (not force and end.code == 143)


def test_stop_ignores_ended_and_missing_jobs(harness: Harness) -> None:
    handle = harness.runner.start(harness.printing_job("x", 7), None)
    harness.end(handle)
    for force in (False, True):
        harness.runner.stop(handle, force)
    assert harness.end(handle).code == 7
    harness.runner.clean(handle)
    for force in (False, True):
        harness.runner.stop(handle, force)


def test_clean_leaves_nothing_and_can_be_repeated(harness: Harness) -> None:
    spec = harness.printing_job("x")
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    harness.runner.clean(handle)
    harness.runner.clean(handle)
    harness.another().clean(handle)
    assert harness.runner.inventory() == {}
    assert isinstance(harness.state(handle), Missing)


def test_clean_of_a_running_job_ends_it(harness: Harness) -> None:
    handle = harness.runner.start(harness.stubborn_job(), None)
    wait_for(lambda: is_running(harness, handle))
    harness.another().clean(handle)
    assert harness.runner.inventory() == {}
    wait_for(lambda: isinstance(harness.state(handle), Missing))


def test_concurrent_cleans_succeed(harness: Harness) -> None:
    handles = [harness.runner.start(harness.printing_job("x"), None) for _ in range(8)]
    for handle in handles:
        harness.end(handle)
    runners = [harness.runner, harness.another()]
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda runner: [runner.clean(handle) for handle in handles], runners):
            pass
    assert harness.runner.inventory() == {}


def test_inventory_has_the_handles_of_uncleaned_jobs(harness: Harness) -> None:
    assert harness.runner.inventory() == {}
    specs = [harness.printing_job("x"), harness.endless_job(), harness.printing_job("y", 1)]
    handles = {spec.uuid: harness.runner.start(spec, None) for spec in specs}
    harness.end(handles[specs[0].uuid])
    assert harness.runner.inventory() == handles
    assert harness.another().inventory() == handles
    harness.runner.clean(handles[specs[0].uuid])
    del handles[specs[0].uuid]
    assert harness.runner.inventory() == handles


def test_one_poll_returns_many_states(harness: Harness) -> None:
    ended, running = harness.printing_job("x"), harness.endless_job()
    handles = [harness.runner.start(spec, None) for spec in (ended, running)]
    harness.end(handles[0])
    wait_for(lambda: is_running(harness, handles[1]))
    states = harness.runner.poll(handles)
    assert [type(states[handle]) for handle in handles] == [Exited, Running]
    assert harness.runner.poll([]) == {}


def test_missing_is_final(harness: Harness) -> None:
    spec, handle = harness.lost_job()
    wait_for(lambda: isinstance(harness.state(handle), Missing))
    for runner in (harness.runner, harness.another()):
        assert isinstance(harness.state(handle, runner), Missing)
        runner.stop(handle, force=False)
        assert runner.start(spec, None) == handle  # and runs nothing:
        assert isinstance(harness.state(handle, runner), Missing)
    harness.runner.clean(handle)
    assert harness.runner.inventory() == {}


def test_failed_start_leaves_nothing_or_an_exit(harness: Harness) -> None:
    try:
        handle = harness.runner.start(harness.unstartable_job(), None)
    except StartFailed as error:
        assert error.reason is Reason.START
        assert str(error)
    else:
        end = harness.end(handle)
        assert (end.reason, end.succeeded) == (Reason.START, False)
        assert end.message
        harness.runner.clean(handle)
    assert harness.runner.inventory() == {}


def test_log_is_complete_when_the_job_has_exited(harness: Harness) -> None:
    text = "".join(f"line {number}\n" for number in range(2000))
    spec = harness.printing_job(text)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    assert harness.log(spec, handle) == text.encode()
    assert harness.log(spec, handle, harness.another()) == text.encode()


def test_secrets_reach_the_command_and_can_be_masked(harness: Harness) -> None:
    if not harness.has_secrets:
        pytest.skip("this runner keeps no secrets")
    secrets = {"TOKEN": "correct horse", "KEY": "first line\nsecond line\n", "EXTRA": "in the place of another"}
    cmd = 'test "${#TOKEN} ${#KEY}" = "13 23" && printf "<%s>\\n" "$TOKEN" "$EXTRA" && printf %s "$KEY"'
    spec = harness.spec(cmd, env={"EXTRA": "a variable"}, secrets=secrets)
    assert "horse" not in repr(spec)
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    log = harness.log(spec, handle)
    if isinstance(harness.runner, RemoteRunner):
        another = harness.another()
        assert isinstance(another, RemoteRunner)
        values = another.secret_values(handle)
        assert sorted(values) == sorted(secrets.values())
        masker = Masker(values)
        log = masker.feed(log) + masker.flush()
    assert log == b"<***>\n<***>\n***\n***\n"
    assert "horse" not in handle


def test_repeated_start_keeps_the_secrets_of_the_first(harness: Harness) -> None:
    if not (harness.has_secrets and isinstance(harness.runner, RemoteRunner)):
        pytest.skip("this runner is asked for no secrets")
    spec = dataclasses.replace(harness.endless_job(), secrets={"TOKEN": "correct horse"})
    handle = harness.runner.start(spec, None)
    changed = dataclasses.replace(spec, secrets={"TOKEN": "battery staple"})
    another = harness.another()
    assert isinstance(another, RemoteRunner)
    assert another.start(changed, None) == handle
    assert list(another.secret_values(handle)) == ["correct horse"]


def test_clean_removes_remote_logs_and_outputs(harness: Harness) -> None:
    runner = harness.runner
    if not isinstance(runner, RemoteRunner):
        pytest.skip("a local runner has no remote files")
    handle = runner.start(harness.printing_job("x"), None)
    harness.end(handle)
    assert list(runner.outputs(handle)) == list(runner.outputs(handle))
    runner.clean(handle)
    with pytest.raises(HandleNotFound):
        runner.logs(handle, None, 100)
    with pytest.raises(HandleNotFound):
        list(runner.outputs(handle))


def test_all_inputs_reach_the_job(harness: Harness, tmp_path: Path) -> None:
    if not harness.runs_commands:
        pytest.skip("this runner runs no commands")
    contents = {f"d/f{number}": random.Random(number).randbytes(300_000) for number in range(12)}
    contents |= {f"d/small{number:04}": b"x" for number in range(2000)}
    cmd = 'cd "$POLYAXON_RUN_OUTPUTS_PATH" && set -- d/f* && echo $# && set -- d/small* && echo $#'
    spec = harness.spec(cmd, inputs=str(tarball_of_outputs(tmp_path, contents)))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert harness.log(spec, handle) == b"12\n2000\n"
    assert harness.outputs_of(spec, handle) == contents


def test_job_finds_its_volumes(harness: Harness) -> None:
    created = harness.volume("data", is_read_only=False)
    if created is None:
        pytest.skip("this runner has no volumes")
    volume, folder = created
    (folder / "given").write_text("given\n")
    find = """cd "$(printf %s "$POLYAXON_DATA_PATHS" | sed 's/{"data": "\\(.*\\)"}/\\1/')" """
    spec = harness.spec(f"{find} && cat given && echo written > written", volumes=(volume,))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded, harness.log(spec, handle)
    assert harness.log(spec, handle) == b"given\n"
    assert (folder / "written").read_text() == "written\n"
    harness.runner.clean(handle)
    assert (folder / "given").exists()


def test_container_cannot_write_to_a_read_only_volume(harness: Harness) -> None:
    created = harness.volume("data", is_read_only=True)
    if created is None or not isinstance(harness.runner, RemoteRunner):
        pytest.skip("this runner has no volumes, or its jobs are ordinary processes")
    volume, folder = created
    (folder / "given").write_text("given\n")
    spec = harness.spec(f"cd {volume.mount_path} && cat given; echo x > given; echo x > new", volumes=(volume,))
    handle = harness.runner.start(spec, None)
    assert not harness.end(handle).succeeded
    assert harness.log(spec, handle).startswith(b"given\n")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("given", "given\n")]


def test_outputs_of_earlier_jobs_reach_the_job(harness: Harness, tmp_path: Path) -> None:
    if not harness.reads_job_outputs:
        pytest.skip("this runner does not pass on outputs of earlier jobs")
    contents = {"d/f": b"one", "g": b"two"}
    tarball = str(tarball_of_outputs(tmp_path, contents))
    cmd = (
        'cd "$POLYJOB_INPUTS_PATH" && ls && cat 12/d/f 12/g && echo && echo new > 12/g && ls 13 && echo >> 7/d/f && '
        'echo $POLYAXON_REFS_OUTPUTS_PATHS && pwd && echo own > "$POLYAXON_RUN_OUTPUTS_PATH/own"'
    )
    job_outputs = (JobOutputs("7", tarball), JobOutputs("13", None), JobOutputs("12", tarball))
    spec = harness.spec(cmd, job_outputs=job_outputs)
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded, harness.log(spec, handle)
    *lines, references, folder = harness.log(spec, handle).decode().splitlines()
    assert lines == ["12", "13", "7", "onetwo"]
    assert json.loads(references) == {"jobs": [f"{folder}/{name}" for name in ("7", "13", "12")], "experiments": []}
    assert harness.outputs_of(spec, handle) == {"own": b"own\n"}


def tarball_of_outputs(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Return a tarball of outputs, as polyjob keeps those of a job."""
    path = folder / "outputs.tar.gz"
    with tarfile.open(path, "w:gz") as tarball:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"7/{name}")
            member.size, member.mode = len(content), 0o644
            tarball.addfile(member, io.BytesIO(content))
    return path


def test_start_accepts_the_artifact_of_a_build(harness: Harness) -> None:
    spec, log = harness.good_build(), io.BytesIO()
    artifact = harness.runner.build(spec, log, lambda: False)
    assert b"hello" in log.getvalue()
    handle = harness.another().start(harness.printing_job("x"), artifact)
    assert harness.end(handle).succeeded


def test_failed_build_has_build_step_and_exit_code(harness: Harness) -> None:
    with pytest.raises(BuildFailed) as caught:
        harness.runner.build(harness.bad_build(), io.BytesIO(), lambda: False)
    assert (caught.value.build_step, caught.value.exit_code) == (2, 3)


def test_cancelled_build_ends_soon(harness: Harness) -> None:
    cancelled_at = time.monotonic() + 0.3
    with pytest.raises(BuildFailed):
        harness.runner.build(harness.endless_build(), io.BytesIO(), lambda: time.monotonic() > cancelled_at)
    assert time.monotonic() - cancelled_at < 5


def test_wake_is_called_when_a_job_ends(harness: Harness) -> None:
    handle = harness.runner.start(harness.endless_job(), None)
    wait_for(lambda: is_running(harness, handle))
    harness.woken.clear()
    harness.runner.stop(handle, force=True)
    assert harness.woken.wait(10)


def test_close_can_be_repeated(harness: Harness) -> None:
    runner = harness.another()
    runner.start(harness.printing_job("x"), None)
    runner.close()
    runner.close()


def test_prevented_start_runs_nothing(harness: Harness) -> None:
    spec = harness.printing_job("x")
    assert harness.runner.prevent_start(spec.uuid) is None
    assert harness.another().prevent_start(spec.uuid) is None
    assert harness.runner.inventory() == {}
    if harness.runs_commands:
        handle = harness.runner.start(spec, None)
        wait_for(lambda: isinstance(harness.state(handle), Missing))
    else:
        with pytest.raises(AssertionError):  # the fake runner reports such a call as out of order
            harness.runner.start(spec, None)
    for name in ("log", "runs", "outputs/runs"):
        assert not (Path(spec.folder) / name).exists()


def test_prevent_start_returns_the_handle_of_a_started_job(harness: Harness) -> None:
    spec = harness.printing_job("x")
    handle = harness.runner.start(spec, None)
    assert harness.runner.prevent_start(spec.uuid) == handle
    assert harness.end(handle).succeeded
    assert harness.runner.prevent_start(spec.uuid) == handle


def test_declared_support_names_parts_of_a_config(harness: Harness) -> None:
    declared = type(harness.runner)
    assert declared.capabilities.keys() | declared.required_parts.keys() <= BASIC.keys()
    assert all(isinstance(support, Support) for support in declared.capabilities.values())
