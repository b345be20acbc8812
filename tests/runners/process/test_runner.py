"""The process runner: command, environment, files, log, account and exit of a job."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runners.base import (
    FENCE_LIFETIME_SECONDS,
    Missing,
    Reason,
    Resources,
    RunnerUnavailable,
    StartFailed,
)
from runners.process.environment import inherited_variables
from runners.process.runner import _parse_handle
from tests import capabilities
from tests.capabilities import without_capabilities
from tests.require import require_root
from tests.runners.harness import ProcessHarness, archive, processes_of, wait_for
from tests.runners.process.helpers import log_of

OF_THE_C_LIBRARY = 0b11 << 31
"""Signals 32 and 33, which the C library keeps to itself."""


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
            ("exec > /dev/null 2>&1; echo gone; sleep 0.1", b""),
            ("exec >&- 2>&-; sleep 0.1; exit 0", b""),
            ("echo a > >(sleep 0.05; cat); exit 0", b"a\n"),
            ("echo ünï", "ünï\n".encode()),
        ],
    )
    def test_log_has_every_byte_in_order(self, process: ProcessHarness, cmd: str, log: bytes) -> None:
        end, output = process.run(cmd)
        assert output == log
        assert end.code == 0
        assert end.stragglers == ()

    def test_log_accepts_a_line_of_megabytes(self, process: ProcessHarness) -> None:
        end, log = process.run("head -c 5000000 /dev/zero | tr '\\0' x")
        assert log == b"x" * 5_000_000
        assert end.succeeded

    def test_log_beyond_its_limit_ends_with_a_message(self, process: ProcessHarness) -> None:
        end, log = process.run("head -c 3000000 /dev/zero | tr '\\0' x; exit 4", log_limit=1000)
        assert log.startswith(b"x" * 1000 + b"\n")
        assert log.count(b"\n") == 2
        assert b"dropped 2999000 bytes" in log.splitlines()[-1]
        assert end.code == 4

    def test_log_of_exactly_its_limit_is_complete(self, process: ProcessHarness) -> None:
        assert process.run("printf 12345", log_limit=5)[1] == b"12345"

    def test_log_is_private(self, process: ProcessHarness) -> None:
        spec = process.spec("true")
        process.end(process.runner.start(spec, None))
        assert stat.S_IMODE((Path(spec.folder) / "log").stat().st_mode) == 0o600

    def test_log_grows_while_the_job_runs(self, process: ProcessHarness) -> None:
        spec = process.spec("echo first; sleep 1000")
        handle = process.runner.start(spec, None)
        wait_for(lambda: (Path(spec.folder) / "log").exists() and log_of(spec) == "first\n")
        process.runner.stop(handle, force=True)
        process.end(handle)


class TestFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        """A disk of one megabyte."""
        require_root()
        folder = tmp_path / "small"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_full_disk_does_not_stop_a_job_and_is_reported(self, small: Path) -> None:
        process = ProcessHarness(small)
        try:
            spec = process.spec("head -c 20000000 /dev/zero | tr '\\0' x; exit 6")
            handle = process.runner.start(spec, None)
            end = process.end(handle)
            assert (end.reason, end.code) == (Reason.EXITED, 6)
            assert "dropped" in (end.message or "") + log_of(spec)[-200:]
            process.runner.clean(handle)
        finally:
            process.close()

    def test_job_that_fills_the_disk_keeps_its_exit_code(self, small: Path) -> None:
        process = ProcessHarness(small)
        try:
            end, _ = process.run("cat /dev/zero > big 2> /dev/null; echo after; exit 5")
            assert (end.reason, end.code) == (Reason.EXITED, 5)
        finally:
            process.close()

    def test_full_disk_delays_starts_and_loses_no_job(self, small: Path) -> None:
        process = ProcessHarness(small)
        try:
            process.runner.check()
            spec = process.spec("echo ran")
            filler = small / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)
            try:
                handle = process.runner.start(spec, None)
            except RunnerUnavailable as error:
                assert "space" in str(error)
                filler.unlink()
                handle = process.runner.start(spec, None)
                assert process.end(handle).succeeded
            else:  # it had room for this much
                end = process.end(handle)
                assert end.succeeded or (end.reason is Reason.START and end.message and "space" in end.message)
        finally:
            process.close()


class TestCommand:
    @pytest.mark.parametrize(
        ("cmd", "code"),
        [("nosuchcommand", 127), ("/etc/passwd", 126), ("./text", 126), ("exit 300", 44), ("false; true", 0)],
    )
    def test_exit_code_is_that_of_the_shell(self, process: ProcessHarness, cmd: str, code: int) -> None:
        prepare = "printf '\\177ELFnonsense' > text; chmod 755 text; " if cmd == "./text" else ""
        end, log = process.run(prepare + cmd)
        assert end.code == code
        assert end.reason is Reason.EXITED
        if code > 100:
            assert log

    @pytest.mark.parametrize(("number", "name"), [(9, "KILL"), (11, "SEGV"), (13, "PIPE")])
    def test_exit_has_the_number_of_the_signal(self, process: ProcessHarness, number: int, name: str) -> None:
        end, _ = process.run(f"ulimit -c 0; kill -{name} $$")
        assert (end.reason, end.code, end.signal) == (Reason.SIGNALLED, 128 + number, number)

    def test_too_long_command_fails_the_start(self, process: ProcessHarness) -> None:
        end, _ = process.run(f"# {'x' * 200_000}")
        assert (end.reason, end.code) == (Reason.START, None)
        assert "too long" in (end.message or "")

    def test_command_of_a_hundred_kilobytes_runs(self, process: ProcessHarness) -> None:
        assert process.run(f"# {'x' * 100_000}\nexit 3")[0].code == 3

    @pytest.mark.parametrize(
        ("cmd", "env"),
        [
            ("echo a\0b", {}),
            ("true", {"A": "x\0y"}),
            ("true", {"A\0": "x"}),
            ("true", {"A=B": "x"}),
            ("true", {"": "x"}),
            ("echo \ud800", {}),
            ("true", {"A": "\ud800"}),
        ],
    )
    def test_invalid_text_is_refused(self, process: ProcessHarness, cmd: str, env: dict[str, str]) -> None:
        with pytest.raises(StartFailed):
            process.runner.start(process.spec(cmd, env=env), None)
        assert process.runner.inventory() == {}

    def test_exit_has_cpu_time_and_memory(self, process: ProcessHarness) -> None:
        program = "x = bytearray(60_000_000); x[::4096] = x[::4096]; sum(range(3_000_000))"
        end, _ = process.run(f"{sys.executable} -S -c '{program}'")
        assert 60_000_000 < (end.max_rss or 0) < 200_000_000
        assert 0.01 < (end.cpu_seconds or 0) < 10

    def test_cpu_time_excludes_the_keeper(self, process: ProcessHarness) -> None:
        end, _ = process.run("true")
        assert 0 < (end.max_rss or 0) < 30_000_000
        assert 0 <= (end.cpu_seconds or 0) < 0.1

    def test_command_has_a_clean_environment(self, process: ProcessHarness) -> None:
        spec = process.spec(
            "pwd; umask; readlink /proc/self/fd/0; ls /proc/self/fd | tr '\\n' ' '; echo; cat;"
            " grep -E 'Sig(Ign|Blk)' /proc/self/status; echo $POLYAXON_RUN_OUTPUTS_PATH; echo $POLYAXON_LOGS_PATH;"
            " cat $POLYAXON_LOGS_PATH | head -1; test -t 0 || echo no terminal"
        )
        process.end(process.runner.start(spec, None))
        lines = log_of(spec).splitlines()
        assert lines[:3] == [f"{spec.folder}/work", "0022", "/dev/null"]
        assert lines[3].split() == ["0", "1", "2", "3"]  # 3 is the folder that `ls` reads
        assert {int(line.split()[1], 16) & ~OF_THE_C_LIBRARY for line in lines[4:6]} == {0}
        assert lines[6:] == [
            f"{spec.folder}/outputs",
            f"{spec.folder}/log",
            f"{spec.folder}/work",
            "no terminal",
        ]

    def test_broken_pipe_ends_a_command(self, process: ProcessHarness) -> None:
        end, log = process.run("set -o pipefail; yes | head -1")
        assert (end.code, log) == (141, b"y\n")

    def test_command_sees_only_allowed_variables(
        self, make_process: Callable[..., ProcessHarness], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SECRET_KEY", "LC_X", "my_proxy", "EXTRA", "lc_x"):
            monkeypatch.setenv(name, "value")
        process = make_process(job_env=("PATH", "LC_*", "*_proxy"))
        _, log = process.run("env", env={"OWN": "1", "POLYJOB_UUID": "forged", "PYTHONUNBUFFERED": "0"})
        variables = dict(line.split("=", 1) for line in log.decode().splitlines())
        assert {"OWN": "1", "LC_X": "value", "my_proxy": "value", "PYTHONUNBUFFERED": "1"}.items() <= variables.items()
        assert variables["POLYJOB_UUID"] != "forged"
        assert not {"SECRET_KEY", "EXTRA", "lc_x"} & variables.keys()

    def test_command_has_a_path_if_the_server_has_none(
        self, make_process: Callable[..., ProcessHarness], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PATH")
        assert make_process().run("ls /")[0].succeeded

    def test_fifty_jobs_run_at_once(self, process: ProcessHarness) -> None:
        specs = [process.spec(f"sleep 0.2; echo {number}; exit {number}") for number in range(50)]
        with ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(lambda spec: process.runner.start(spec, None), specs))
        assert [process.end(handle).code for handle in handles] == list(range(50))
        assert [log_of(spec) for spec in specs] == [f"{number}\n" for number in range(50)]

    def test_start_and_end_of_a_job_wake_the_engine(self, process: ProcessHarness) -> None:
        handle = process.runner.start(process.spec("sleep 0.4"), None)
        process.state(handle)
        assert process.woken.wait(0.3), "it runs"
        process.state(handle)
        process.woken.clear()
        assert process.woken.wait(2), "it has ended"
        assert process.end(handle).succeeded


class TestAccount:
    @pytest.fixture
    def for_nobody(self, public: Path, make_process: Callable[..., ProcessHarness]) -> ProcessHarness:
        require_root()
        process = make_process(public, job_user="nobody")
        for folder in (process.data, process.data / "jobs", process.data / "builds"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)
        return process

    def test_account_runs_jobs_and_owns_only_their_files(self, for_nobody: ProcessHarness) -> None:
        spec = for_nobody.spec(
            f"id -un; echo e > /dev/stderr; touch a $POLYAXON_RUN_OUTPUTS_PATH/b; echo $HOME;"
            f" for folder in {for_nobody.data} {for_nobody.data}/process; do ls $folder 2>&1; done; cat ../log"
            f" || echo x > ../log || rm -f ../log; pwd"
        )
        Path(spec.folder).chmod(0o711)
        end = for_nobody.end(for_nobody.runner.start(spec, None))
        lines = log_of(spec).splitlines()
        assert lines[:3] == ["nobody", "e", "/nonexistent"]
        assert sum("ermission denied" in line for line in lines) == 5, lines
        assert lines[-1] == f"{spec.folder}/work"
        assert end.succeeded
        files = {name: (Path(spec.folder) / name).owner() for name in ("log", "work", "outputs", "work/a", "outputs/b")}
        assert files == {
            "log": "root",
            "work": "nobody",
            "outputs": "nobody",
            "work/a": "nobody",
            "outputs/b": "nobody",
        }

    def test_setuid_programs_give_no_rights(self, for_nobody: ProcessHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "code.tar.gz", ("file", "x"))
        Path(code).chmod(0o644)
        _, log = for_nobody.run(
            "grep NoNewPrivs /proc/self/status; echo x > $TMPDIR/own && stat -c %U $TMPDIR", upload=code
        )
        assert log.split() == [b"NoNewPrivs:", b"1", b"nobody"]

    def test_account_has_only_its_own_groups(self, for_nobody: ProcessHarness) -> None:
        _, log = for_nobody.run("id -u; id -G; grep -E 'Cap(Prm|Eff)' /proc/self/status")
        user, groups, *capabilities = log.decode().splitlines()
        assert user != "0"
        assert "0" not in groups.split()
        assert {int(line.split()[1], 16) for line in capabilities} == {0}

    def test_account_owns_the_upload(self, for_nobody: ProcessHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "code.tar.gz", ("file", "x"), ("sub/", ""))
        Path(code).chmod(0o600)
        end, log = for_nobody.run("stat -c %U file sub; echo more >> file", upload=code)
        assert log == b"nobody\nnobody\n"
        assert end.succeeded

    def test_command_has_default_signal_handlers(self, for_nobody: ProcessHarness) -> None:
        _, log = for_nobody.run("grep -E 'Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd | wc -l")
        *signals, files = log.decode().splitlines()
        assert {int(line.split()[1], 16) & ~OF_THE_C_LIBRARY for line in signals} == {0}
        assert files == "4"

    def test_working_folder_is_entered_as_the_account(self, for_nobody: ProcessHarness, public: Path) -> None:
        for name, mode in (("open", 0o755), ("closed", 0o700)):
            (public / name).mkdir()
            (public / name).chmod(mode)
        assert for_nobody.run("pwd; id -un", workdir=f"{public}/open")[1].decode() == f"{public}/open\nnobody\n"
        end, log = for_nobody.run("pwd", workdir=f"{public}/closed")
        assert (end.reason, log) == (Reason.START, b"")
        assert f"The account `nobody` cannot enter the working folder `{public}/closed`" in (end.message or "")

    def test_unexecutable_command_is_reported(self, for_nobody: ProcessHarness) -> None:
        end, _ = for_nobody.run(f"# {'x' * 200_000}")
        assert end.reason is Reason.START
        assert "too long" in (end.message or "")

    def test_stop_ends_all_processes_of_the_account(self, for_nobody: ProcessHarness) -> None:
        spec = for_nobody.spec("trap '' TERM; setsid sleep 1000 & sleep 1000; sleep 1000", grace=0.3)
        handle = for_nobody.runner.start(spec, None)
        wait_for(lambda: len(processes_of(spec.uuid)) >= 2)
        for_nobody.runner.stop(handle, force=False)
        for_nobody.end(handle)
        assert processes_of(spec.uuid) == []

    def test_unknown_account_is_reported(self, make_process: Callable[..., ProcessHarness]) -> None:
        with pytest.raises(RunnerUnavailable, match="no account"):
            make_process(job_user="nosuchaccount").runner.check()

    def test_account_needs_a_server_run_as_root(
        self, make_process: Callable[..., ProcessHarness], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = make_process(job_user="nobody")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(RunnerUnavailable, match="root"):
            process.runner.check()

    @pytest.mark.parametrize("name", ["CHOWN", "DAC_OVERRIDE", "FOWNER"])
    def test_account_needs_capabilities(self, make_process: Callable[..., ProcessHarness], name: str) -> None:
        process = make_process(job_user="nobody")
        expected = f"the server lacks CAP_{name}, which it needs to run jobs as `nobody`"
        with without_capabilities(getattr(capabilities, name)), pytest.raises(RunnerUnavailable) as error:
            process.runner.check()
        assert str(error.value) == expected


class TestFolder:
    def test_data_folder_can_have_a_very_long_path(
        self, make_process: Callable[..., ProcessHarness], tmp_path: Path
    ) -> None:
        folder = tmp_path
        while len(str(folder)) < 300:
            folder = folder / ("long" * 12)
        assert make_process(folder).run("exit 3")[0].code == 3

    def test_data_folder_can_have_any_name(self, make_process: Callable[..., ProcessHarness], tmp_path: Path) -> None:
        end, log = make_process(tmp_path / "with 'blanks' ünd \n more").run("pwd")
        assert end.succeeded
        assert log.count(b"\n") == 2

    def test_unusable_folder_is_reported(self, make_process: Callable[..., ProcessHarness], tmp_path: Path) -> None:
        process = make_process()
        (process.data / "process").write_text("in the way")
        for verb in (process.runner.check, lambda: process.runner.start(process.spec(), None)):
            with pytest.raises(RunnerUnavailable, match="cannot be used"):
                verb()
        (process.data / "process").unlink()

    def test_missing_folder_of_a_job_fails_the_start(self, process: ProcessHarness) -> None:
        spec = dataclasses.replace(process.spec(), folder=str(process.data / "nowhere" / "deep"))
        end = process.end(process.runner.start(spec, None))
        assert end.reason is Reason.START
        assert end.message


def test_partly_cleaned_job_does_not_start_again(process: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = process.spec("exit 0")
    handle = process.runner.start(spec, None)
    process.end(handle)
    removed, unlink = [], os.unlink

    def remove_one(path: Path) -> None:
        if removed:
            raise OSError(errno.EIO, "It dies here")
        removed.append(path)
        unlink(path)

    with monkeypatch.context() as patch, pytest.raises(RunnerUnavailable):
        patch.setattr(os, "unlink", remove_one)
        process.runner.clean(handle)
    assert len(removed) == 1
    assert (process.data / "process" / "jobs" / spec.uuid / "attempt").exists()
    process.runner.clean(handle)
    assert process.runner.inventory() == {}


def test_inventory_is_empty_before_the_first_job(process: ProcessHarness) -> None:
    assert process.runner.inventory() == {}
    assert process.runner.poll([]) == {}
    handle = process.runner.start(process.spec(), None)
    other = handle.replace(handle.split('"uuid": "')[1][:32], "0" * 32)
    assert process.state(other) == Missing()
    process.end(handle)


@pytest.mark.parametrize(
    ("hides_gpus", "resources", "log"),
    [
        (True, Resources(gpu=2, gpus=(0, 3)), b"0,3 PCI_BUS_ID\n"),
        (True, Resources(), b" PCI_BUS_ID\n"),
        (False, Resources(), b"unset unset\n"),
    ],
)
def test_job_sees_only_its_own_gpus(
    process: ProcessHarness, hides_gpus: bool, resources: Resources, log: bytes
) -> None:
    cmd = 'echo "${CUDA_VISIBLE_DEVICES-unset} ${CUDA_DEVICE_ORDER-unset}"'
    assert process.run(cmd, resources=resources, hides_gpus=hides_gpus)[1] == log


CREDENTIALS = {
    "PIP_INDEX_URL": ("https://ana:pa@ss@pypi.example.org/simple", "https://pypi.example.org/simple"),
    "PIP_EXTRA_INDEX_URL": (
        "https://t@a.example/x https://u:p@b.example/@c",
        "https://a.example/x https://b.example/@c",
    ),
    "https_proxy": ("http://ana:secret@proxy.example:3128", "http://proxy.example:3128"),
    "HTTP_PROXY": ("ana:secret@proxy.example:3128", "proxy.example:3128"),
    "no_proxy": ("localhost,10.0.0.0/8", "localhost,10.0.0.0/8"),
    "LC_ALL": ("de_DE@euro", "de_DE@euro"),
}
"""Variable → (as the server has it, as a job has it)."""


class TestCredentials:
    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, (value, _) in CREDENTIALS.items():
            monkeypatch.setenv(name, value)

    def test_credentials_in_urls_do_not_reach_jobs(self, make_process: Callable[..., ProcessHarness]) -> None:
        process = make_process(job_env=("PATH", "PIP_*", "*_proxy", "*_PROXY", "LC_*"))
        for name, (_, expected) in CREDENTIALS.items():
            assert inherited_variables(process.settings, None)[name] == expected

    def test_credentials_in_fully_named_variables_reach_jobs(self, make_process: Callable[..., ProcessHarness]) -> None:
        process = make_process(job_env=("PATH", "PIP_*", "https_proxy"))
        _, log = process.run("echo $https_proxy $PIP_INDEX_URL")
        assert log.decode().split() == [CREDENTIALS["https_proxy"][0], CREDENTIALS["PIP_INDEX_URL"][1]]

    def test_credentials_reach_build_steps(self, make_process: Callable[..., ProcessHarness]) -> None:
        process = make_process(job_env=("PATH", "PIP_*"))
        env = inherited_variables(process.settings, None, with_credentials=True)
        assert env["PIP_INDEX_URL"] == CREDENTIALS["PIP_INDEX_URL"][0]


def test_inventory_works_while_jobs_are_removed(process: ProcessHarness) -> None:
    folder = Path(process.runner.settings.data_dir) / "process" / "jobs" / ("a" * 32)
    process.run("true")

    def come_and_go() -> None:
        for _ in range(1000):
            folder.mkdir()
            (folder / "attempt").touch()
            (folder / "attempt").unlink()
            folder.rmdir()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        while not coming.done():
            process.runner.inventory()
        coming.result()


def test_fence_expires_after_its_lifetime(process: ProcessHarness) -> None:
    spec = process.spec("true")
    assert process.runner.prevent_start(spec.uuid) is None
    attempt = Path(process.runner.settings.data_dir) / "process" / "jobs" / spec.uuid / "attempt"
    assert process.runner.inventory() == {}
    os.utime(attempt, (0, time.time() - FENCE_LIFETIME_SECONDS - 1))
    (handle,) = process.runner.inventory().values()
    process.runner.clean(handle)
    assert not attempt.parent.exists()


def test_removal_that_died_before_its_last_step_is_completed(process: ProcessHarness) -> None:
    folder = process.runner.folder / "jobs" / ("a" * 32)
    folder.mkdir(parents=True)
    (handle,) = process.runner.inventory().values()
    process.runner.clean(handle)
    assert not folder.exists()


def test_memory_for_handles_is_bounded() -> None:
    tracemalloc.start()
    try:
        for number in range(20_000):
            _parse_handle(json.dumps({"v": 1, "uuid": f"{number:032x}", "boot": "b" * 36}))
        assert tracemalloc.get_traced_memory()[0] < 3 << 20
    finally:
        tracemalloc.stop()
