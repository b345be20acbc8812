"""Files of jobs: uploads, outputs, temporary and working folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.base import (
    Exited,
    Missing,
    Pending,
    Reason,
)
from runners.common.trees import remove_tree
from runners.volumes import Volume
from tests.require import require
from tests.runners.harness import EXECUTABLE_BY_ALL, ProcessHarness, archive, as_nobody, folder_volume, wait_for
from tests.runners.process.helpers import log_of


class TestFiles:
    def test_upload_and_earlier_outputs_are_unpacked(self, process: ProcessHarness, tmp_path: Path) -> None:
        code = archive(
            tmp_path / "code.tar.gz",
            ("./", ""),
            ("./run.sh", {"text": "#!/bin/sh\necho ran\n", "mode": 0o4755}),
            ("./sub/", ""),
            ("./sub/deep.txt", "deep"),
            ("./link", {"link": "run.sh"}),
            ("./locked", {"text": "x", "mode": 0}),
        )
        inputs = archive(tmp_path / "inputs.tar.gz", ("outputs/", ""), ("outputs/a", "A"), ("outputs/b/c", "C"))
        _, log = process.run(
            "./run.sh; stat -c %a run.sh; readlink link; cat sub/deep.txt locked; echo;"
            " cd $POLYAXON_RUN_OUTPUTS_PATH; find . -type f | sort",
            upload=code,
            inputs=inputs,
        )
        assert log.decode().split() == ["ran", "755", "run.sh", "deepx", "./a", "./b/c"]

    def test_unpacked_files_stay_in_their_folder(self, process: ProcessHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "code.tar.gz", ("../out", "x"), ("a/../../out", "x"), ("/abs", "x"), ("in", "x"))
        spec = process.spec("find . -type f", upload=code)
        process.end(process.runner.start(spec, None))
        assert sorted(log_of(spec).split()) == ["./abs", "./in"]
        assert sorted(os.listdir(spec.folder)) == ["log", "log.times", "outputs", "work"]

    @pytest.mark.parametrize("content", [b"no archive", b"", b"\x1f\x8b\x08\x00 cut"])
    def test_unpacking_error_fails_the_start(self, process: ProcessHarness, tmp_path: Path, content: bytes) -> None:
        bad = tmp_path / "bad.tar.gz"
        bad.write_bytes(content)
        for fields in ({"upload": str(bad)}, {"inputs": str(bad)}, {"upload": str(tmp_path / "none")}):
            end, log = process.run("echo ran", **fields)
            assert end.reason is Reason.START
            assert end.message
            assert log == b""

    def test_truncated_upload_fails_the_start(self, process: ProcessHarness, tmp_path: Path) -> None:
        path = Path(
            archive(tmp_path / "code.tar.gz", *((f"file{number}", os.urandom(2000).hex()) for number in range(50)))
        )
        path.write_bytes(path.read_bytes()[:50_000])
        end, _ = process.run("echo ran", upload=str(path))
        assert end.reason is Reason.START
        assert "unpacked" in (end.message or "")

    def test_unpacking_does_not_count_as_cpu_time(self, process: ProcessHarness, tmp_path: Path) -> None:
        code = archive(tmp_path / "code.tar.gz", *((f"file{number}", "") for number in range(3000)))
        end, log = process.run("ls | wc -l; sleep 0", upload=code)
        assert log.split() == [b"3000"]
        assert (end.cpu_seconds or 0) < 0.1

    @pytest.mark.parametrize(("force", "number"), [(False, 15), (True, 9)])
    def test_job_can_be_stopped_while_its_files_are_unpacked(
        self, process: ProcessHarness, tmp_path: Path, force: bool, number: int
    ) -> None:
        pipe = tmp_path / "code.tar.gz"
        os.mkfifo(pipe)  # unpacking waits for it as long as nobody writes
        pipe_fd = os.open(pipe, os.O_RDWR)
        try:
            spec = process.spec("echo ran", upload=str(pipe))
            handle = process.runner.start(spec, None)
            time.sleep(0.1)
            assert isinstance(process.state(handle), Pending)
            process.runner.stop(handle, force)
            end = process.end(handle)
        finally:
            os.close(pipe_fd)
        assert (end.reason, end.signal, end.code) == (Reason.SIGNALLED, number, 128 + number)
        assert log_of(spec) == ""


class TestWorkingFolder:
    def test_command_starts_in_the_folder(self, process: ProcessHarness, tmp_path: Path) -> None:
        (tmp_path / "in here").mkdir()
        (tmp_path / "in here" / "tool").write_text("#!/bin/sh\necho $1\n")
        (tmp_path / "in here" / "tool").chmod(0o755)
        end, log = process.run("pwd; ./tool works; touch made", workdir=str(tmp_path / "in here"))
        assert (end.succeeded, log.decode()) == (True, f"{tmp_path}/in here\nworks\n")
        assert (tmp_path / "in here" / "made").exists()

    @pytest.mark.parametrize(("name", "reason"), [("none", "No such file or directory"), ("file", "Not a directory")])
    def test_unusable_folder_fails_the_start_and_is_named(
        self, process: ProcessHarness, tmp_path: Path, name: str, reason: str
    ) -> None:
        (tmp_path / "file").touch()
        end, log = process.run("echo ran", workdir=f"{tmp_path}/{name}")
        assert (end.reason, log) == (Reason.START, b"")
        assert f"cannot enter the working folder `{tmp_path}/{name}`: {reason}" in (end.message or "")

    def test_outputs_stay_in_the_folder_of_the_job(self, process: ProcessHarness, tmp_path: Path) -> None:
        spec = process.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f", workdir=str(tmp_path))
        process.end(process.runner.start(spec, None))
        assert os.listdir(f"{spec.folder}/outputs") == ["f"]


class TestVolumes:
    def test_variables_name_the_folders(self, process: ProcessHarness, tmp_path: Path) -> None:
        volumes = tuple(folder_volume(tmp_path, name, is_read_only=True)[0] for name in ("a", "b"))
        _, log = process.run('printf "%s\\n%s" "$POLYAXON_DATA_PATHS" "$POLYAXON_RUN_DATA_PATHS"', volumes=volumes)
        paths = [json.loads(line) for line in log.splitlines()]
        assert paths == [{"a": f"{tmp_path}/volumes/a", "b": f"{tmp_path}/volumes/b"}] * 2

    @pytest.mark.parametrize(("name", "reason"), [("none", "No such file or directory"), ("file", "Not a folder")])
    def test_unusable_folder_of_a_volume_fails_the_start(
        self, process: ProcessHarness, tmp_path: Path, name: str, reason: str
    ) -> None:
        (tmp_path / "file").touch()
        end, log = process.run("echo ran", volumes=(Volume("data", f"{tmp_path}/{name}"),))
        assert (end.reason, log) == (Reason.START, b"")
        assert end.message == f"The volume `data` cannot be used: {tmp_path}/{name}: {reason}"


class TestTemporaryFolder:
    def test_temporary_folder_is_private_and_removed_with_the_job(self, process: ProcessHarness) -> None:
        spec = process.spec("echo $TMPDIR; stat -c %a $TMPDIR; mktemp -d > /dev/null; mkdir -p -m 500 $TMPDIR/a/b")
        handle = process.runner.start(spec, None)
        process.end(handle)
        folder, mode = log_of(spec).split()
        assert spec.uuid in folder
        assert mode == "700"
        assert Path(folder).exists()
        process.runner.clean(handle)
        assert not Path(folder).exists()

    def test_temporary_folder_is_below_that_of_the_server(
        self, make_process: Callable[..., ProcessHarness], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        _, log = make_process(job_env=("PATH", "TMPDIR")).run("dirname $TMPDIR")
        assert log.decode().strip() == str(tmp_path)

    def test_job_can_choose_its_temporary_folder(self, process: ProcessHarness) -> None:
        assert process.run("echo $TMPDIR", env={"TMPDIR": "/var/tmp"})[1] == b"/var/tmp\n"

    @pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/")])
    def test_temporary_folder_of_another_account_is_not_used(
        self, process: ProcessHarness, make: Callable[[Path], None]
    ) -> None:
        spec = process.spec("echo $TMPDIR")
        folder = Path(f"/tmp/polyjob-{spec.uuid}")
        make(folder)
        handle = process.runner.start(spec, None)
        process.end(handle)
        assert log_of(spec) == "/tmp\n"
        process.runner.clean(handle)


def test_kernel_kills_jobs_before_the_server(process: ProcessHarness) -> None:
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    scores = "cat /proc/self/oom_score_adj; (cat /proc/self/oom_score_adj)"
    until_own = f"until [ $(cat /proc/$PPID/oom_score_adj) = {own} ]; do sleep 0.01; done"  # just after the fork
    spec = process.spec(f"{scores}; {until_own}; echo keeper")
    process.end(process.runner.start(spec, None))
    assert log_of(spec).split() == ["500", "500", "keeper"]


def test_job_may_remove_the_permissions_of_its_folder(
    make_process: Callable[..., ProcessHarness], public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", EXECUTABLE_BY_ALL)
    require("python3", Path(EXECUTABLE_BY_ALL).exists(), "no Python that every account can execute")

    def take_permissions() -> None:
        process = ProcessHarness(public / "own")
        try:
            for cmd in ("chmod 000 ..", "chmod 300 .. .", "chmod 000 ..; kill -9 $PPID"):
                spec = process.spec(cmd)
                handle = process.runner.start(spec, None)
                wait_for(lambda: isinstance(process.state(handle), Exited | Missing))  # noqa: B023
                assert "log" in os.listdir(spec.folder)
                remove_tree(Path(spec.folder))
                process.runner.clean(handle)
        finally:
            process.close()

    (public / "own").mkdir()
    as_nobody(take_permissions, public / "own")


@pytest.mark.parametrize("name", ["outputs", "work"])
@pytest.mark.parametrize(
    "lengths", [(0, 50_000_000), (1, 50_000_000, 1), (70_000, 50_000_000), (50_000_000, 1, 200_000, 65_537, 3)]
)
def test_holes_in_files_stay_holes(
    process: ProcessHarness, tmp_path: Path, name: str, lengths: tuple[int, ...]
) -> None:
    """`lengths`: lengths of data and zeros in turn."""
    content = b"".join((b"x" if not number % 2 else b"\0") * length for number, length in enumerate(lengths))
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo("outputs/f" if name == "outputs" else "f")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    spec = process.spec("true", **({"inputs": str(packed)} if name == "outputs" else {"upload": str(packed)}))
    assert process.end(process.runner.start(spec, None)).succeeded
    file = Path(spec.folder) / name / "f"
    assert file.read_bytes() == content
    assert file.stat().st_blocks * 512 <= sum(lengths[::2]) + 4 * 65_536


def test_sparse_members_of_a_tarball_stay_sparse(process: ProcessHarness, tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    folder.mkdir()
    with (folder / "f").open("wb") as file:
        file.seek(20 << 30)
        file.write(b"end")
    subprocess.run(["tar", "-C", tmp_path, "--format=gnu", "-czSf", tmp_path / "in.tar.gz", "outputs"], check=True)
    spec = process.spec("tail -c 3 $POLYAXON_RUN_OUTPUTS_PATH/f", inputs=str(tmp_path / "in.tar.gz"))
    assert process.end(process.runner.start(spec, None)).succeeded
    assert log_of(spec) == "end"
    assert (Path(spec.folder) / "outputs" / "f").stat().st_blocks * 512 < 1 << 20
