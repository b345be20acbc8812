"""What only the process runner has: keepers, trees of processes, and what a shell command may do to its log."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from runners import keeper_server
from runners.base import BuildFailed, Missing, Pending, Reason, RunnerUnavailable, Running
from runners.marks import kill_marked

from ..require import require_root
from .harness import eventually

TREE = "trap '' TERM; (setsid sleep 1000 &) ; (setsid sh -c 'trap \"\" TERM; sleep 1000; true' &) ; sleep 1000"


def marked(uuid):
    """Living processes with the mark of the job."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_marked = folder.name.isdecimal() and f"POLYJOB_UUID={uuid}".encode() in (folder / "environ").read_bytes()
            if is_marked and (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(int(folder.name))
    return found


def private(process, uuid):
    return process.folder / "process" / "jobs" / uuid


def keeper_of(process, uuid):
    path = private(process, uuid) / "keeper.json"
    return eventually(lambda: path.exists() and json.loads(path.read_text()), "the keeper")["pid"]


def servers(process):
    """Process numbers of the keeper servers (not of their keepers) of this data folder."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
            if str(process.folder / "process").encode() in words:
                found.append((int((folder / "stat").read_text().rpartition(")")[2].split()[1]), int(folder.name)))
    pids = {pid for _, pid in found}
    return [pid for parent, pid in found if parent not in pids]


class TestLog:
    @pytest.mark.parametrize(
        ("cmd", "log"),
        [
            ("echo a; echo warn > /dev/stderr; echo b", b"a\nwarn\nb\n"),
            ("echo a; echo x | tee /dev/stderr; echo b", b"a\nx\nx\nb\n"),
            ("echo a; echo o > /dev/stdout; echo b >&2", b"a\no\nb\n"),
            (r"printf '\377\000\376'", b"\xff\x00\xfe"),
            ("printf 'no newline'", b"no newline"),
            ("true", b""),
            ("cat", b""),
            ("exec > /dev/null 2>&1; echo gone; sleep 0.2", b""),
            ("exec >&- 2>&-; sleep 0.2", b""),
        ],
    )
    def test_has_every_byte_in_order(self, process, cmd, log):
        spec, _ = process.run(cmd=cmd)
        assert (Path(spec.folder) / "log").read_bytes() == log

    def test_takes_a_line_of_megabytes(self, process):
        spec, state = process.run(cmd="head -c 5000000 /dev/zero | tr '\\0' x")
        assert (Path(spec.folder) / "log").read_bytes() == b"x" * 5_000_000
        assert state.exit.succeeded

    def test_ends_at_its_limit_with_one_line_that_says_so(self, process):
        spec, state = process.run(cmd="head -c 3000000 /dev/zero | tr '\\0' x", log_limit=1000)
        log = (Path(spec.folder) / "log").read_bytes()
        assert log.startswith(b"x" * 1000 + b"\n")
        assert b"dropped 2999000 bytes" in log.splitlines()[-1]
        assert state.exit.succeeded

    def test_is_private(self, process):
        spec, _ = process.run()
        assert stat.S_IMODE((Path(spec.folder) / "log").stat().st_mode) == 0o600

    def test_on_a_full_disk_never_stops_the_job(self, make_process, tmp_path):
        require_root()
        folder = tmp_path / "small"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=True)
        try:
            process = make_process(folder / "data")
            spec, state = process.run(cmd="head -c 20000000 /dev/zero | tr '\\0' x; exit 6")
            assert state.exit.code == 6
            assert "dropped" in (state.exit.message or "") + (Path(spec.folder) / "log").read_text()[-200:]
            process.close()
            process.runners.clear()
            process.handles.clear()
            eventually(lambda: not servers(process), "the server's leave")
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class TestCommand:
    @pytest.mark.parametrize(
        ("cmd", "code"), [("nosuchcommand", 127), ("/etc/passwd", 126), ("exit 300", 44), ("false; true", 0)]
    )
    def test_ends_as_the_shell_says(self, process, cmd, code):
        assert process.run(cmd=cmd)[1].exit.code == code

    def test_that_cannot_be_executed_at_all_says_why(self, process):
        _, state = process.run(cmd=f"# {'x' * 200_000}")
        assert (state.exit.reason, state.exit.code) == (Reason.START, None)
        assert "too long" in state.exit.message

    def test_is_told_with_time_and_memory(self, process):
        _, state = process.run(cmd=f"{sys.executable} -c 'x = bytearray(60_000_000); x[::4096] = x[::4096]'")
        assert 60_000_000 < state.exit.max_rss < 200_000_000
        assert 0 < state.exit.cpu_seconds < 10

    def test_finds_a_plain_world(self, process):
        cmd = (
            "pwd; umask; readlink /proc/self/fd/0; ls /proc/self/fd | wc -l;"
            " grep -E 'Sig(Ign|Blk)' /proc/self/status; echo $POLYAXON_RUN_OUTPUTS_PATH"
        )
        spec, _ = process.run(cmd=cmd)
        lines = (Path(spec.folder) / "log").read_text().splitlines()
        assert lines[0] == f"{spec.folder}/work"
        assert lines[1:4] == ["0022", "/dev/null", "4"]
        of_the_c_library = 0b11 << 31
        assert {int(line.split()[1], 16) & ~of_the_c_library for line in lines[4:6]} == {0}
        assert lines[6] == f"{spec.folder}/outputs"

    def test_sees_only_what_is_allowed(self, make_process, monkeypatch):
        for name in ("SECRET_KEY", "LC_X", "my_proxy", "EXTRA"):
            monkeypatch.setenv(name, "value")
        process = make_process()
        process.settings = type(process.settings)(
            process.settings.data_dir, process.settings.installation, ("PATH", "LC_*", "*_proxy")
        )
        process.reload()
        spec, _ = process.run(cmd="env", env={"OWN": "1", "POLYJOB_UUID": "forged"})
        found = dict(line.split("=", 1) for line in (Path(spec.folder) / "log").read_text().splitlines())
        own = {"OWN": "1", "LC_X": "value", "my_proxy": "value", "PYTHONUNBUFFERED": "1", "POLYJOB_UUID": spec.uuid}
        assert own.items() <= found.items()
        assert not {"SECRET_KEY", "EXTRA"} & found.keys()

    def test_gets_code_and_earlier_outputs(self, process, tmp_path):
        code, inputs = tmp_path / "code.tar.gz", tmp_path / "inputs.tar.gz"
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "run.sh").write_text("#!/bin/sh\necho ran\n")
        (tmp_path / "a" / "run.sh").chmod(0o4755)
        (tmp_path / "a" / "link").symlink_to("run.sh")
        subprocess.run(["tar", "czf", str(code), "-C", str(tmp_path / "a"), "."], check=True)
        subprocess.run(["tar", "czf", str(inputs), "-C", str(tmp_path), "a"], check=True)
        cmd = "./run.sh; stat -c %a run.sh; readlink link; ls $POLYAXON_RUN_OUTPUTS_PATH"
        spec, _ = process.run(cmd=cmd, code=str(code), inputs=str(inputs))
        assert (Path(spec.folder) / "log").read_text().split() == ["ran", "755", "run.sh", "link", "run.sh"]

    def test_whose_files_cannot_be_unpacked_fails_and_says_why(self, process, tmp_path):
        bad = tmp_path / "bad.tar.gz"
        bad.write_bytes(b"no archive")
        _, state = process.run(code=str(bad))
        assert state.exit.reason is Reason.START
        assert "unpacked" in state.exit.message

    def test_that_is_stopped_while_unpacking_never_runs(self, process, tmp_path):
        big, archive = tmp_path / "big", tmp_path / "big.tar.gz"
        with big.open("wb") as file:
            file.truncate(3 << 30)
        with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
            member = tarfile.TarInfo("big")
            member.size = 400 << 20
            with big.open("rb") as file:
                packed.addfile(member, file)
        spec = process.spec(cmd="echo ran", code=str(archive))
        handle = process.start(spec)
        keeper_of(process, spec.uuid)
        assert isinstance(process.state(handle), Pending)
        process.runner.stop(handle, False)
        assert process.ended(handle).exit.signal == 15
        assert (Path(spec.folder) / "log").read_bytes() == b""


class TestTree:
    def test_that_ignores_term_is_gone_after_the_grace(self, process):
        spec = process.spec(cmd=TREE)
        handle = process.start(spec)
        eventually(lambda: len(marked(spec.uuid)) >= 4, "the tree")
        process.runner.stop(handle, False)
        process.ended(handle)
        assert marked(spec.uuid) == []

    def test_is_killed_by_the_keeper_itself_when_the_engine_is_gone(self, process):
        spec = process.spec(cmd=TREE)
        handle = process.start(spec)
        eventually(lambda: len(marked(spec.uuid)) >= 4, "the tree")
        process.runner.stop(handle, False)
        process.runner.close()
        eventually(lambda: not marked(spec.uuid), "its end")
        process.reload()
        assert process.ended(handle).exit.signal == 9

    def test_is_ended_with_the_command_and_named(self, process):
        spec, state = process.run(cmd="nohup sleep 1000 & (setsid sh -c 'sleep 999' &); sleep 0.1; exit 2")
        assert state.exit.code == 2
        assert "sleep" in state.exit.stragglers
        assert marked(spec.uuid) == []

    def test_that_ends_by_itself_in_a_moment_is_no_straggler(self, process):
        spec, state = process.run(cmd="echo a > >(sleep 0.05; cat); exit 0")
        assert state.exit.stragglers == ()
        assert (Path(spec.folder) / "log").read_bytes() == b"a\n"

    def test_may_kill_its_own_group(self, process):
        _, state = process.run(cmd="kill -KILL 0")
        assert (state.exit.reason, state.exit.signal) == (Reason.SIGNALLED, 9)

    def test_of_hundreds_is_killed_while_it_grows(self, process):
        spec = process.spec(cmd="for i in $(seq 300); do (while :; do sleep 0.01; done) & done; wait", grace=0.1)
        handle = process.start(spec)
        eventually(lambda: len(marked(spec.uuid)) > 100, "the tree")
        process.runner.stop(handle, False)
        process.ended(handle)
        assert marked(spec.uuid) == []

    def test_of_fifty_jobs_at_once(self, process):
        specs = [process.spec(cmd=f"echo {number}; exit {number}") for number in range(50)]
        handles = [process.start(spec) for spec in specs]
        assert [process.ended(handle).exit.code for handle in handles] == list(range(50))
        assert [(Path(spec.folder) / "log").read_text() for spec in specs] == [f"{number}\n" for number in range(50)]


class TestDeaths:
    def test_of_the_keeper_kill_the_job_and_lose_it(self, process):
        spec = process.spec(cmd=TREE)
        handle = process.start(spec)
        eventually(lambda: len(marked(spec.uuid)) >= 4, "the tree")
        os.kill(keeper_of(process, spec.uuid), signal.SIGKILL)
        eventually(lambda: isinstance(process.state(handle), Missing), "the loss")
        assert marked(spec.uuid) == []
        assert process.reload().start(spec, None) == handle
        assert isinstance(process.state(handle), Missing)

    def test_of_the_server_leave_its_keepers_alone(self, process):
        spec = process.spec(cmd="sleep 0.5; echo done")
        handle = process.start(spec)
        process.running(handle)
        (server,) = servers(process)
        os.kill(server, signal.SIGKILL)
        _, other = process.run(cmd="exit 4")
        assert other.exit.code == 4
        assert process.ended(handle).exit.succeeded
        assert (Path(spec.folder) / "log").read_bytes() == b"done\n"

    def test_of_the_engine_end_the_server_once_no_job_is_left(self, process):
        handle = process.start(process.spec(cmd="sleep 0.5"))
        process.running(handle)
        process.runner.close()
        assert servers(process)
        eventually(lambda: not servers(process), "the server's leave")
        process.reload()
        assert process.ended(handle).exit.succeeded
        assert process.run()[1].exit.succeeded

    def test_wake_the_engine(self, process):
        process.running(process.start(process.spec(cmd="sleep 0.3")))
        process.woken.clear()
        started = time.monotonic()
        eventually(lambda: process.woken, "a hint")
        assert time.monotonic() - started < 1.0

    def test_two_engines_at_once_make_one_server(self, process):
        runners = [process.runner, *(process.reload() for _ in range(5))]
        threads = [threading.Thread(target=runner.check) for runner in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        eventually(lambda: len(servers(process)) == 1, "one server")


class TestStrangers:
    def test_a_forged_keeper_is_not_signalled(self, process):
        spec = process.spec(cmd="sleep 1000")
        handle = process.start(spec)
        process.running(handle)
        pid = keeper_of(process, spec.uuid)
        with subprocess.Popen(["sleep", "1000"]) as stranger:
            who = json.loads((private(process, spec.uuid) / "keeper.json").read_text())
            (private(process, spec.uuid) / "keeper.json").write_text(json.dumps(who | {"pid": stranger.pid}))
            other = process.reload()
            with pytest.raises(RunnerUnavailable):
                other.stop(handle, True)
            assert stranger.poll() is None
            stranger.kill()
        assert isinstance(process.state(handle), Running)
        os.kill(pid, signal.SIGUSR1)
        process.ended(handle)

    def test_nothing_is_signalled_after_a_reboot(self, make_process, tmp_path):
        process = make_process()
        spec = process.spec(cmd="sleep 1000")
        handle = process.start(spec)
        process.running(handle)
        boot_id = tmp_path / "boot_id"
        boot_id.write_text("another boot\n")
        rebooted = type(process.runner)(
            type(process.settings)(process.settings.data_dir, "0" * 32, (), None, {"boot_id": str(boot_id)}),
            lambda: None,
        )
        assert rebooted.poll([handle]) == {handle: Missing()}
        rebooted.stop(handle, True)
        rebooted.close()
        assert isinstance(process.state(handle), Running)

    def test_a_handle_of_nothing_is_missing(self, process):
        process.runner.check()
        boot = process.runner.boot_id
        assert process.state(json.dumps({"v": 1, "uuid": "a" * 32, "boot": boot})) == Missing()

    def test_only_marked_processes_are_killed(self):
        with subprocess.Popen(["sleep", "1000"], env={"POLYJOB_UUID": "b" * 31}) as stranger:
            kill_marked("b" * 32)
            assert stranger.poll() is None
            kill_marked("b" * 31)
            assert stranger.wait(10) == -signal.SIGKILL

    def test_an_unreadable_end_is_lost_and_no_success(self, process):
        spec = process.spec(cmd="exit 0")
        handle = process.start(spec)
        process.ended(handle)
        (private(process, spec.uuid) / "exit.json").write_text('{"reason": "exi')
        assert process.state(handle).exit.reason is Reason.LOST


def test_a_very_long_data_folder_works(make_process, tmp_path):
    folder = tmp_path
    while len(str(folder)) < 300:
        folder = folder / ("long" * 12)
    folder.mkdir(parents=True)
    assert make_process(folder / "data").run(cmd="exit 3")[1].exit.code == 3


def test_another_version_has_a_server_of_its_own(process, monkeypatch):
    handle = process.start(process.spec(cmd="sleep 1000"))
    monkeypatch.setattr(keeper_server, "VERSION", 999)
    newer = process.reload()
    assert isinstance(process.running(handle), Running)
    newer.stop(handle, True)
    process.ended(handle)


class TestAccount:
    @pytest.fixture
    def as_nobody(self, make_process, tmp_path):
        require_root()
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == 0 and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o011)
        process = make_process(job_user="nobody")
        for folder in (process.folder, process.folder / "jobs", process.folder / "builds"):
            folder.chmod(0o711)
        return process

    def run(self, process, **values):
        spec = process.spec(**values)
        Path(spec.folder).chmod(0o711)
        return spec, process.ended(process.start(spec))

    def test_runs_jobs_and_owns_only_their_files(self, as_nobody):
        cmd = f"id -un; echo e > /dev/stderr; touch a $POLYAXON_RUN_OUTPUTS_PATH/b; ls {as_nobody.folder}; echo $HOME"
        spec, state = self.run(as_nobody, cmd=cmd)
        log = (Path(spec.folder) / "log").read_text()
        assert log.startswith("nobody\ne\n")
        assert "Permission denied" in log
        assert state.exit.succeeded
        assert {(Path(spec.folder) / name).owner() for name in ("work/a", "outputs/b")} == {"nobody"}
        assert (Path(spec.folder) / "log").owner() == "root"

    def test_finds_its_code_as_its_own(self, as_nobody, tmp_path):
        code = tmp_path / "code.tar.gz"
        (tmp_path / "file").write_text("x")
        subprocess.run(["tar", "czf", str(code), "-C", str(tmp_path), "file"], check=True)
        spec, _ = self.run(as_nobody, cmd="stat -c %U file; echo more >> file", code=str(code))
        assert (Path(spec.folder) / "log").read_text() == "nobody\n"

    def test_is_killed_to_the_last_process(self, as_nobody):
        spec = as_nobody.spec(cmd=TREE)
        Path(spec.folder).chmod(0o711)
        handle = as_nobody.start(spec)
        eventually(lambda: len(marked(spec.uuid)) >= 4, "the tree")
        as_nobody.runner.stop(handle, False)
        as_nobody.ended(handle)
        assert marked(spec.uuid) == []

    def test_that_is_unknown_is_told(self, make_process):
        require_root()
        with pytest.raises(RunnerUnavailable, match="no account"):
            make_process(job_user="nosuchaccount").runner.check()


class TestBuild:
    def test_runs_its_steps_in_a_virtualenv_that_its_jobs_have(self, process, tmp_path):
        code = tmp_path / "code.tar.gz"
        for name in ("requirements.txt", "secret.py"):
            (tmp_path / name).write_text(f"# {name}\n")
        subprocess.run(["tar", "czf", str(code), "-C", str(tmp_path), "requirements.txt", "secret.py"], check=True)
        steps = ("python -c 'import sys; print(sys.prefix)'; ls; echo $STEP; cat", "pip --version; echo warn >&2")
        spec = process.build_spec(steps=steps, env={"STEP": "set"}, code=str(code), files=("requirements.txt",))
        log = io.BytesIO()
        artifact = process.runner.build(spec, log, lambda: False)
        lines = log.getvalue().decode().splitlines()
        assert lines[2:5] == [f"{spec.folder}/env", "requirements.txt", "set"]
        assert lines[-1] == "warn"
        job, _ = process.run(artifact, cmd="python -c 'import sys; print(sys.prefix)'; echo $STEP $VIRTUAL_ENV")
        expected = f"{spec.folder}/env\nset {spec.folder}/env\n"
        assert (Path(job.folder) / "log").read_text() == expected

    def test_without_steps_or_variables_makes_nothing(self, process):
        spec = process.build_spec(image="python:3")
        assert process.runner.build(spec, io.BytesIO(), lambda: False) is None
        assert list(Path(spec.folder).iterdir()) == []

    def test_that_takes_too_long_is_killed_whole(self, process):
        spec = process.build_spec(steps=("setsid sleep 1000 & sleep 1000",), timeout=5)
        with pytest.raises(BuildFailed, match="not done after the 5 s"):
            process.runner.build(spec, io.BytesIO(), lambda: False)
        assert marked(spec.uuid) == []

    def test_ends_with_the_engine_that_made_it(self, process):
        spec = process.build_spec(steps=("setsid sleep 1000 & sleep 1000",))
        code = (
            "import sys, json\n"
            "from runners import load\n"
            "from runners.base import BuildSpec, RunnerSettings\n"
            "runner = load('process', RunnerSettings(sys.argv[1], '0' * 32, ('PATH',)), lambda: None)\n"
            "spec = BuildSpec(sys.argv[2], '0' * 32, sys.argv[3], '0' * 64, None, (sys.argv[4],), {}, False)\n"
            "runner.build(spec, open('/dev/null', 'wb', 0), lambda: False)\n"
        )
        command = [sys.executable, "-c", code, str(process.folder), spec.uuid, spec.folder, spec.steps[0]]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as engine:
            eventually(lambda: len(marked(spec.uuid)) >= 3, "the step", 30)
            engine.kill()
        eventually(lambda: not marked(spec.uuid), "the build's end")
