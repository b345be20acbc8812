"""Keepers that keep one job after the other: which do, and that nothing of one job reaches the next."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runners.base import JobOutputs, JobSpec, Missing, Running
from runners.process import attempts, keeper, keeper_server
from runners.process.job_files import holding_keeper
from tests.runners.harness import ProcessHarness, archive, kill, lives, parent_of, processes_of, wait_for


def folder_of(process: ProcessHarness, spec: JobSpec) -> Path:
    return process.data / "process" / "jobs" / spec.uuid


def keeper_of(process: ProcessHarness, spec: JobSpec) -> int:
    """Return the pid of the keeper that has or had the job."""
    return int(json.loads((folder_of(process, spec) / "keeper.json").read_bytes())["pid"])


def run(process: ProcessHarness, cmd: str = "true", **fields: Any) -> int:
    """Run a job to its end, and return the pid of its keeper, which waits for another job then, or ends."""
    spec = process.spec(cmd, **fields)
    process.end(process.runner.start(spec, None))
    wait_for_release(process, spec)
    return keeper_of(process, spec)


def wait_for_release(process: ProcessHarness, spec: JobSpec) -> None:
    """Wait until the keeper has released the attempt of an ended job. It has told the server before that."""
    wait_for(lambda: not attempts.is_locked(str(folder_of(process, spec) / "attempt")))


@pytest.fixture
def gate(process: ProcessHarness) -> Iterator[tuple[JobSpec, str]]:
    """A running job that ends when a file `go` appears in its folder, and its handle."""
    spec = process.spec("until [ -e ../go ]; do sleep 0.02; done")
    handle = process.runner.start(spec, None)
    wait_for(lambda: isinstance(process.state(handle), Running))
    yield spec, handle
    process.runner.stop(handle, force=True)


def open_gate(process: ProcessHarness, spec: JobSpec) -> None:
    """Let the job of `gate` end, and wait until its exit is written."""
    (Path(spec.folder) / "go").touch()
    wait_for((folder_of(process, spec) / "exit.json").exists)


def end_gate(process: ProcessHarness, spec: JobSpec) -> None:
    """Let the job of `gate` end, and wait until its keeper waits for another job."""
    open_gate(process, spec)
    wait_for_release(process, spec)


class TestReuse:
    @pytest.mark.parametrize("cmd", ["true", "exit 3", "echo x", "sleep 0.1"])
    def test_keeper_of_an_ended_job_keeps_the_next(self, process: ProcessHarness, cmd: str) -> None:
        assert run(process, cmd) == run(process)

    @pytest.mark.parametrize(
        "cmd", ["sleep 1000 &", "kill -9 $$", "kill -TERM $PPID; sleep 1000", "kill -USR1 $PPID; sleep 1000"]
    )
    def test_keeper_of_an_irregular_end_keeps_no_other_job(self, process: ProcessHarness, cmd: str) -> None:
        pid = run(process, cmd, grace=0.1)
        assert run(process) != pid
        wait_for(lambda: not lives(pid))

    def test_keeper_of_a_job_with_files_keeps_no_other_job(self, process: ProcessHarness, tmp_path: Path) -> None:
        assert run(process, upload=archive(tmp_path / "code.tar.gz", ("a", "x"))) != run(process)

    def test_keeper_of_a_job_with_earlier_outputs_keeps_no_other_job(self, process: ProcessHarness) -> None:
        assert run(process, job_outputs=(JobOutputs("12", None),)) != run(process)

    def test_keeper_of_a_job_with_secrets_keeps_no_other_job(self, process: ProcessHarness) -> None:
        assert run(process, secrets={"TOKEN": "s3cret-value"}) != run(process)

    def test_keeper_of_an_unstartable_command_keeps_no_other_job(self, process: ProcessHarness) -> None:
        assert run(process, "true", env={"PATH": "x" * 200_000}) != run(process)

    def test_simultaneous_jobs_have_different_keepers(self, process: ProcessHarness) -> None:
        run(process)
        specs = [process.spec("sleep 1000") for _ in range(3)]
        handles = [process.runner.start(spec, None) for spec in specs]
        wait_for(lambda: all(processes_of(spec.uuid) for spec in specs))
        assert len({keeper_of(process, spec) for spec in specs}) == 3
        kill(keeper_of(process, specs[0]))
        wait_for(lambda: isinstance(process.state(handles[0]), Missing))
        assert all(processes_of(spec.uuid) for spec in specs[1:])

    def test_keeper_ends_after_some_jobs(self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        pids = [run(process) for _ in range(keeper.JOBS_PER_KEEPER + 1)]
        assert len({*pids[:-1]}) == 1
        assert pids[-1] != pids[0]

    def test_unneeded_keepers_end(self, process: ProcessHarness) -> None:
        specs = [process.spec("until [ -e ../go ]; do sleep 0.02; done") for _ in range(3)]
        for spec in specs:
            process.runner.start(spec, None)
        for spec in specs:
            open_gate(process, spec)
        wait_for(lambda: len(process.servers()) == 2)  # the server and one keeper

    def test_idle_keepers_end_with_their_server(self, process: ProcessHarness) -> None:
        pid = run(process)
        (server,) = (one for one in process.servers() if one == parent_of(pid))
        kill(server)
        wait_for(lambda: not lives(pid))

    def test_job_of_a_keeper_that_had_others_is_lost_with_it(self, process: ProcessHarness) -> None:
        pid = run(process)
        spec = process.endless_job()
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        assert keeper_of(process, spec) == pid
        kill(pid)
        wait_for(lambda: isinstance(process.state(handle), Missing))
        assert not processes_of(spec.uuid)


class TestSignals:
    def test_keeper_that_is_being_signalled_takes_no_other_job(
        self, process: ProcessHarness, gate: tuple[JobSpec, str]
    ) -> None:
        spec, _ = gate
        pid = keeper_of(process, spec)
        with holding_keeper(str(folder_of(process, spec) / "exit.json")) as has_job:
            assert has_job
            open_gate(process, spec)
            assert run(process) != pid
            os.kill(pid, signal.SIGTERM)  # sent for the job that has just ended
        wait_for_release(process, spec)
        following = process.spec("exit 4")
        assert process.end(process.runner.start(following, None)).code == 4
        assert keeper_of(process, following) == pid

    def test_late_stop_does_not_reach_the_next_job(self, process: ProcessHarness, gate: tuple[JobSpec, str]) -> None:
        spec, handle = gate
        end_gate(process, spec)
        following = process.spec("sleep 1000")
        other = process.runner.start(following, None)
        wait_for(lambda: isinstance(process.state(other), Running))
        assert keeper_of(process, following) == keeper_of(process, spec)
        process.runner._keepers.add(spec.uuid, *process.runner._keeper_identity(spec.uuid) or ())
        assert not process.runner._signal(spec.uuid, signal.SIGTERM)
        process.runner.stop(handle, force=True)
        assert isinstance(process.state(other), Running)
        process.runner.stop(other, force=False)
        assert process.end(other).signal == signal.SIGTERM

    def test_job_can_be_stopped_before_its_keeper_takes_it(self, process: ProcessHarness) -> None:
        pid = run(process)
        os.kill(pid, signal.SIGSTOP)
        spec = process.spec("echo ran")
        handle = process.runner.start(spec, None)
        assert keeper_of(process, spec) == pid
        process.runner.stop(handle, force=False)
        os.kill(pid, signal.SIGCONT)
        assert "before its command began" in (process.end(handle).message or "")

    def test_ended_job_is_found_although_its_keeper_lives(
        self, process: ProcessHarness, gate: tuple[JobSpec, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The news that it has ended were lost."""
        spec, handle = gate
        monkeypatch.setattr(process.runner._client, "_on_news", lambda event, uuid: None)
        open_gate(process, spec)
        assert process.end(handle).succeeded
        assert lives(keeper_of(process, spec))


class TestLog:
    def test_holder_of_the_old_pipe_cannot_write_to_the_next_log(
        self, process: ProcessHarness, gate: tuple[JobSpec, str]
    ) -> None:
        spec, _ = gate
        pipe = f"/proc/{processes_of(spec.uuid)[0]}/fd/1"
        with open(pipe, "wb") as file, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as stranger:
            end_gate(process, spec)
            following = process.spec("until [ -e ../go ]; do sleep 0.02; done; echo mine")
            handle = process.runner.start(following, None)
            wait_for(lambda: isinstance(process.state(handle), Running))
            assert keeper_of(process, following) == keeper_of(process, spec)
            assert stranger.stdin
            with pytest.raises(BrokenPipeError):
                os.write(file.fileno(), b"foreign")
            stranger.stdin.close()
            (Path(following.folder) / "go").touch()
            assert process.end(handle).succeeded
        assert (Path(following.folder) / "log").read_bytes() == b"mine\n"


def test_number_of_idle_keepers_is_limited(process: ProcessHarness) -> None:
    specs = [
        process.spec("until [ -e ../go ]; do sleep 0.02; done") for _ in range(keeper_server.IDLE_KEEPERS_LIMIT + 2)
    ]
    for spec in specs:
        process.runner.start(spec, None)
    for spec in specs:
        (Path(spec.folder) / "go").touch()
    for spec in specs:
        open_gate(process, spec)
    pids = {keeper_of(process, spec) for spec in specs}
    wait_for(lambda: sum(lives(pid) for pid in pids) <= keeper_server.IDLE_KEEPERS_LIMIT)


class TestPreparedFolder:
    def test_start_renames_a_prepared_folder(self, process: ProcessHarness) -> None:
        run(process)
        wait_for(lambda: len(prepared(process)) == 2)  # of the keeper that was used, and of the one after it
        inodes = {folder.stat().st_ino for folder in prepared(process)}
        spec = process.spec("true")
        process.end(process.runner.start(spec, None))
        assert folder_of(process, spec).stat().st_ino in inodes

    def test_fenced_job_leaves_the_prepared_folder_unused(self, process: ProcessHarness) -> None:
        run(process)
        spec = process.spec("true")
        wait_for(lambda: len(prepared(process)) == 2)
        before = prepared(process)
        assert process.runner.prevent_start(spec.uuid) is None
        assert isinstance(process.state(process.runner.start(spec, None)), Missing)
        assert prepared(process) == before

    def test_prepared_folders_end_with_their_server(self, process: ProcessHarness) -> None:
        run(process)
        process.runner.close()
        wait_for(lambda: not any(prepared_path(process).iterdir()))

    def test_job_gets_prepared_log_and_folders(self, process: ProcessHarness) -> None:
        run(process)
        wait_for(lambda: len(prepared_files(process)) == 2)
        inodes = {path.stat().st_ino for folder in prepared_files(process) for path in folder.iterdir()}
        spec = process.spec('stat -c %i "$TMPDIR"')
        process.end(process.runner.start(spec, None))
        job = Path(spec.folder)
        assert {path.stat().st_ino for path in (job / "log", job / "work", job / "outputs")} < inodes
        assert int((job / "log").read_text()) in inodes

    def test_existing_files_of_a_job_are_kept(self, process: ProcessHarness) -> None:
        run(process)
        wait_for(lambda: len(prepared_files(process)) == 2)
        spec = process.spec("ls; ls ../outputs")
        (Path(spec.folder) / "log").write_text("first\n")
        for name in ("work", "outputs"):
            (Path(spec.folder) / name).mkdir()
            (Path(spec.folder) / name / f"in-{name}").touch()
        process.end(process.runner.start(spec, None))
        assert (Path(spec.folder) / "log").read_text() == "first\nin-work\nin-outputs\n"

    def test_killed_keeper_leaves_nothing_prepared(self, process: ProcessHarness) -> None:
        pid = run(process)
        wait_for(lambda: len(prepared_files(process)) == 2)
        kill(pid)
        wait_for(lambda: not any(path.name.startswith(str(pid)) for path in prepared_path(process).iterdir()))

    def test_jobs_run_where_no_folder_can_be_prepared(self, process: ProcessHarness) -> None:
        run(process)
        path = prepared_path(process)
        wait_for(lambda: len(prepared(process)) == 2 and len(prepared_files(process)) == 2)
        shutil.rmtree(path)
        spec = process.printing_job("x")
        handle = process.runner.start(spec, None)
        assert process.end(handle).succeeded
        assert process.runs(spec) == 1


def prepared_files(process: ProcessHarness) -> list[Path]:
    """Return the folders with the files that keepers have prepared for their next jobs."""
    return sorted(path.parent for path in prepared_path(process).glob("*.files/log"))


def prepared_path(process: ProcessHarness) -> Path:
    return process.data / "process" / f"prepared-{keeper_server.VERSION}"


def prepared(process: ProcessHarness) -> list[Path]:
    """Return the folders that are prepared for the next jobs."""
    return sorted(path.parent for path in prepared_path(process).glob("*/keeper.json"))
