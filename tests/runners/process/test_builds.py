"""Builds of the process runner: what steps find, what is left of them, and that none outlives its engine.

A virtualenv takes seconds to make, so each test looks at much. `plain` makes builds without one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from runners.base import ArtifactMissing, BuildFailed, BuildSpec, RunnerUnavailable
from runners.process import builds
from tests.require import require, require_root
from tests.runners.harness import EXECUTABLE_BY_ALL, ProcessHarness, archive, as_nobody, processes_of, wait_for

ENDLESS = "setsid sleep 1000 & sleep 1000"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The making of the virtualenv is left out: a step tests the step."""
    supervise = builds._Build._supervise

    def without_venv(self: object, argv: list[str], env: dict[str, str], number: int | None = None) -> int:
        return 0 if number is None else supervise(self, argv, env, number)  # type: ignore[arg-type]

    monkeypatch.setattr(builds._Build, "_supervise", without_venv)


def build(process: ProcessHarness, spec: BuildSpec) -> tuple[str | None, list[str]]:
    """(artifact, lines of the log)."""
    log = io.BytesIO()
    artifact = process.runner.build(spec, log, lambda: False)
    return artifact, log.getvalue().decode().splitlines()


def test_build_steps_and_jobs_share_a_virtualenv(process: ProcessHarness, tmp_path: Path) -> None:
    code = archive(
        tmp_path / "code.tar.gz", ("./requirements.txt", "# none\n"), ("deep/er.txt", "x"), ("secret.py", "secret")
    )
    spec = process.build_spec(
        "python -c 'import sys; print(sys.prefix)'; find . -type f | sort; echo $STEP; cat; umask",
        "ls -l /proc/self/fd | wc -l; echo the end >&2; echo kept > $VIRTUAL_ENV/marker",
        env={"STEP": "set"},
        upload=code,
        requirement_files=("requirements.txt", "deep/er.txt", "none.txt"),
    )
    artifact, lines = build(process, spec)
    first = lines.index(f"{spec.folder}/env")
    assert lines[first + 1 : first + 4] == ["./deep/er.txt", "./requirements.txt", "set"]
    assert lines[-1] == "the end"
    assert artifact
    assert json.loads(artifact)["v"] == 1
    assert sorted(os.listdir(spec.folder)) == ["env", "work"]
    end, log = process.run("python -c 'import sys; print(sys.prefix)'; echo $STEP; cat $VIRTUAL_ENV/marker", artifact)
    assert log.decode().split() == [f"{spec.folder}/env", "set", "kept"]
    assert end.succeeded
    _, own = process.run("echo $STEP", artifact, env={"STEP": "the job's own"})
    assert own == b"the job's own\n"


def test_build_without_steps_and_variables_has_no_artifact(process: ProcessHarness) -> None:
    spec = process.build_spec()
    assert build(process, spec) == (None, [])
    assert os.listdir(spec.folder) == []


@pytest.mark.usefixtures("plain")
def test_build_dies_with_its_engine_and_can_run_again(process: ProcessHarness) -> None:
    spec = process.build_spec(f"[ -e {process.folder}/second ] && exit 0; {ENDLESS}")
    program = (
        "import sys\n"
        "from runners.base import BuildSpec, RunnerSettings\n"
        "from runners.process.runner import ProcessRunner\n"
        "settings = RunnerSettings(sys.argv[1], 'a' * 32, ('PATH',), options={'python': sys.argv[5]})\n"
        "runner = ProcessRunner(settings, lambda: None)\n"
        "spec = BuildSpec(sys.argv[2], 'a' * 32, sys.argv[3], 'b' * 64, None, (sys.argv[4],), {}, False)\n"
        "runner.build(spec, open('/dev/null', 'wb', 0), lambda: False)\n"
    )
    root = Path(builds.__file__).parents[2]
    arguments = [str(process.data), spec.uuid, spec.folder, spec.build_steps[0], process.settings.options["python"]]
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, cwd=root) as engine:
        wait_for(lambda: len([pid for pid in processes_of(spec.uuid) if b"sleep" in name_of(pid)]) == 2, 60)
        engine.kill()
    (process.folder / "second").touch()
    artifact, _ = build(process, spec)
    assert artifact
    wait_for(lambda: not processes_of(spec.uuid))


def name_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return b""


@pytest.mark.usefixtures("plain")
class TestSteps:
    def test_failed_step_is_named(self, process: ProcessHarness) -> None:
        for steps, step, code in (
            (("true", "exit 7", "touch never"), 2, 7),
            (("false; true",), 1, 1),
            (("nosuchcommand",), 1, 127),
            (("kill -9 $$",), 1, 137),
        ):
            spec = process.build_spec(*steps)
            with pytest.raises(BuildFailed) as caught:
                build(process, spec)
            assert (caught.value.build_step, caught.value.exit_code) == (step, code)
            assert f"step {step} " in str(caught.value)
            assert not (Path(spec.folder) / "work/never").exists()

    def test_build_steps_leave_no_process(self, process: ProcessHarness) -> None:
        spec = process.build_spec("(setsid sleep 1000 &)", "nohup sleep 1000 & true")
        build(process, spec)
        assert processes_of(spec.uuid) == []

    @pytest.mark.parametrize("step", [ENDLESS, f"trap '' TERM; {ENDLESS}; sleep 1000"])
    def test_step_beyond_the_time_limit_is_killed(self, process: ProcessHarness, step: str) -> None:
        spec = process.build_spec("true", step, timeout=0.5)
        with pytest.raises(BuildFailed, match=r"not done within .* 0\.5 s") as caught:
            build(process, spec)
        assert caught.value.build_step == 2
        assert processes_of(spec.uuid) == []

    def test_cancelled_step_is_killed(self, process: ProcessHarness) -> None:
        spec = process.build_spec(ENDLESS)
        cancelled_at = time.monotonic() + 0.3
        with pytest.raises(BuildFailed, match="cancelled"):
            process.runner.build(spec, io.BytesIO(), lambda: time.monotonic() > cancelled_at)
        assert time.monotonic() - cancelled_at < 10
        assert processes_of(spec.uuid) == []

    def test_megabytes_of_output_are_logged(self, process: ProcessHarness) -> None:
        log = io.BytesIO()
        process.runner.build(process.build_spec("head -c 5000000 /dev/zero | tr '\\0' x"), log, lambda: False)
        assert log.getvalue().endswith(b"x" * 5_000_000)

    def test_step_continues_beyond_the_log_limit(self, process: ProcessHarness) -> None:
        spec = process.build_spec("head -c 5000000 /dev/zero | tr '\\0' x", log_limit=100_000)
        artifact, lines = build(process, spec)
        assert artifact
        assert "dropped" in lines[-1]

    def test_step_continues_if_its_log_cannot_be_written(self, process: ProcessHarness) -> None:
        class Full(io.RawIOBase):
            def write(self, data: object) -> int:
                raise OSError(28, "No space left on device")

        assert process.runner.build(process.build_spec("echo x"), cast(BinaryIO, Full()), lambda: False)

    def test_build_steps_have_allowed_variables_and_empty_input(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_KEY", "value")
        _, lines = build(process, process.build_spec("cat; env; umask; ls /proc/self/fd | wc -l", env={"OWN": "1"}))
        assert "OWN=1" in lines
        assert not [line for line in lines if line.startswith("SECRET_KEY")]
        assert lines[-1] == "4"

    def test_repeated_build_finds_no_earlier_files(self, process: ProcessHarness) -> None:
        spec = process.build_spec("ls . $VIRTUAL_ENV; touch left $VIRTUAL_ENV/left")
        artifact, _ = build(process, spec)
        again, lines = build(process, spec)
        assert again == artifact
        assert "left" not in lines

    @pytest.mark.parametrize("content", [b"", b"no archive", None])
    def test_unusable_upload_fails_the_build(
        self, process: ProcessHarness, tmp_path: Path, content: bytes | None
    ) -> None:
        code = tmp_path / "code.tar.gz"
        if content is not None:
            code.write_bytes(content)
        with pytest.raises((BuildFailed, RunnerUnavailable)):
            build(process, process.build_spec("true", upload=str(code), requirement_files=("requirements.txt",)))

    def test_unusable_folder_is_reported(self, process: ProcessHarness) -> None:
        spec = process.build_spec("true")
        Path(spec.folder).rmdir()
        Path(spec.folder).write_text("a file in the way")
        with pytest.raises(RunnerUnavailable):
            build(process, spec)

    @pytest.mark.parametrize(
        ("step", "env"),
        [("echo a\0b", {}), ("true", {"A": "x\0y"}), ("true", {"A=B": "x"}), (f": {'x' * 200_000}", {})],
    )
    def test_too_long_step_fails_the_build(self, process: ProcessHarness, step: str, env: dict[str, str]) -> None:
        with pytest.raises(BuildFailed):
            build(process, process.build_spec(step, env=env))


ATTACKER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
folder, target, own = (text.encode() for text in sys.argv[1:])
names = [b"requirements.txt", b"setup.sh", *(b"d%d" % number for number in range(20))]
os.mkdir(own)
os.chdir(own)
print("ready", flush=True)
while True:
    for name in names:
        path = folder + b"/" + name
        try:
            os.symlink(target, name)
        except FileExistsError:
            pass
        if libc.renameat2(-100, name, -100, path, 2):
            continue
        try:
            os.unlink(name)
        except OSError:
            pass
"""
"""Exchanges entries of a folder for links to a target, over and over, as the account that jobs run as."""


@pytest.mark.usefixtures("plain")
class TestAttacks:
    """A job of the build's account exchanges files of the build for links while root prepares or clears the build."""

    @pytest.fixture
    def for_nobody(self, public: Path, make_process: Callable[..., ProcessHarness]) -> ProcessHarness:
        require_root()
        process = make_process(public, job_user="nobody")
        for folder in (process.data, process.data / "builds"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)
        return process

    @contextlib.contextmanager
    def attack(self, folder: Path, target: Path, public: Path) -> Iterator[None]:
        own = Path(tempfile.mkdtemp(dir=public))
        own.chmod(0o777)
        command = [EXECUTABLE_BY_ALL, "-I", "-c", ATTACKER, str(folder), str(target), str(own / "links")]
        require("python3", Path(command[0]).exists(), "no Python that every account can execute")
        with subprocess.Popen(command, user=65534, group=65534, extra_groups=[], stdout=subprocess.PIPE) as attacker:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"ready\n"
            try:
                yield
            finally:
                attacker.kill()

    def test_no_file_of_root_is_given_away(self, for_nobody: ProcessHarness, public: Path, tmp_path: Path) -> None:
        secret = public / "secret"
        secret.write_bytes(b"root's")
        code = archive(tmp_path / "code.tar.gz", ("requirements.txt", "x"), ("setup.sh", "x"))
        spec = for_nobody.build_spec("true", upload=code, requirement_files=("requirements.txt", "setup.sh"))
        with self.attack(Path(spec.folder) / "work", secret, public):
            for _ in range(30):
                with contextlib.suppress(RunnerUnavailable, BuildFailed):
                    for_nobody.runner.build(spec, io.BytesIO(), lambda: True)
                assert secret.stat().st_uid == 0

    @pytest.mark.parametrize("name", ["work", "env"])
    def test_no_mode_is_changed_outside(self, for_nobody: ProcessHarness, public: Path, name: str) -> None:
        tree = public / "tree"
        for number in range(20):
            (tree / f"d{number}").mkdir(parents=True, mode=0o755)
        spec = for_nobody.build_spec('for n in $(seq 20); do mkdir -p "$VIRTUAL_ENV/d$n/in" "d$n/in"; done')
        for _ in range(5):
            artifact, _ = build(for_nobody, spec)
            assert artifact
            with (
                self.attack(Path(spec.folder) / name, tree, public),
                contextlib.suppress(RunnerUnavailable, BuildFailed),
            ):
                for_nobody.runner.build(spec, io.BytesIO(), lambda: True)
            assert {stat.S_IMODE(path.stat().st_mode) for path in (tree, *tree.iterdir())} == {0o755}


@pytest.mark.usefixtures("plain")
def test_dropping_a_build_removes_read_only_folders(public: Path, make_process: Callable[..., ProcessHarness]) -> None:
    """Go's module cache is read-only, for instance."""
    process = make_process(public)
    spec = process.build_spec("cd $VIRTUAL_ENV; mkdir -p pkg/mod/y; touch pkg/mod/f; chmod -R a-w pkg; chmod 0 pkg/mod")
    build(process, spec)
    as_nobody(lambda: process.runner.remove_artifact(f"{spec.folder}/env"), public)
    assert not (Path(spec.folder) / "env").exists()


def test_removal_of_a_virtualenv_can_pause(process: ProcessHarness, tmp_path: Path) -> None:
    env = tmp_path / "builds" / "env"
    for package in range(30):
        folder = env / "lib" / f"package{package}"
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.py").touch()
    steps = process.runner.remove_artifact_in_steps(str(env))
    next(steps)
    cast("Generator[None]", steps).close()
    assert env.exists()
    assert len(list(process.runner.remove_artifact_in_steps(str(env)))) >= 30
    assert not env.exists()
    assert list(process.runner.remove_artifact_in_steps(str(env))) == []


class TestPython:
    @pytest.fixture
    def recorder(self, tmp_path: Path) -> str:
        """A program that prints how it is called, in place of a Python."""
        path = tmp_path / "recorder"
        path.write_text('#!/bin/sh\necho called with "$@"; mkdir -p "$4/bin"; ln -s "$0" "$4/bin/python"\n')
        path.chmod(0o755)
        return str(path)

    def test_python_of_the_setting_creates_the_virtualenv_in_isolation(
        self, make_process: Callable[..., ProcessHarness], recorder: str
    ) -> None:
        process = make_process(options={"python": recorder})
        spec = process.build_spec("readlink $VIRTUAL_ENV/bin/python")
        _, lines = build(process, spec)
        assert f"called with -I -m venv {spec.folder}/env" in lines
        assert recorder in lines

    def test_python_can_be_a_name_on_the_path(
        self, make_process: Callable[..., ProcessHarness], recorder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", f"{Path(recorder).parent}:{os.environ['PATH']}")
        process = make_process(options={"python": "recorder"})
        assert f"Creating a virtualenv with {recorder}" in build(process, process.build_spec("true"))[1]

    def test_missing_python_is_named(self, make_process: Callable[..., ProcessHarness]) -> None:
        process = make_process(options={"python": "/missing/python3.6"})
        with pytest.raises(RunnerUnavailable, match=r"POLYJOB_PYTHON=/missing/python3\.6"):
            build(process, process.build_spec("true"))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda python: python.unlink(), "its Python is missing"),
            (lambda python: python.chmod(0o644), "its Python is missing"),
            (lambda python: python.write_text("#!/bin/sh\n# an upgrade\n"), "its Python was changed"),
        ],
    )
    def test_missing_or_changed_python_makes_the_build_stale(
        self,
        make_process: Callable[..., ProcessHarness],
        recorder: str,
        change: Callable[[Path], None],
        reason: str,
    ) -> None:
        process = make_process(options={"python": recorder})
        artifact, _ = build(process, process.build_spec("true"))
        assert process.run("command -v python", artifact)[1].endswith(b"/env/bin/python\n")
        change(Path(recorder))
        with pytest.raises(ArtifactMissing, match=reason):
            process.runner.start(process.spec(), artifact)

    def test_python_chosen_by_a_step_belongs_to_the_build(
        self, make_process: Callable[..., ProcessHarness], recorder: str
    ) -> None:
        process = make_process(options={"python": recorder})
        artifact, _ = build(process, process.build_spec("ln -sfn /bin/sh $VIRTUAL_ENV/bin/python"))
        assert process.run("true", artifact)[0].succeeded
        assert json.loads(artifact or "")["python"].startswith(os.path.realpath("/bin/sh"))

    def test_temporary_python_has_no_identity(self, make_process: Callable[..., ProcessHarness], recorder: str) -> None:
        """Otherwise each of its jobs would find it missing and build again."""
        process = make_process(options={"python": recorder})
        step = "cp /bin/sh $TMPDIR/python; ln -sfn $TMPDIR/python $VIRTUAL_ENV/bin/python"
        artifact, _ = build(process, process.build_spec(step))
        assert json.loads(artifact or "")["python"] is None
        assert process.run("true", artifact)[0].succeeded


@pytest.mark.usefixtures("plain")
def test_build_may_remove_the_permissions_of_its_folder(
    make_process: Callable[..., ProcessHarness], public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", EXECUTABLE_BY_ALL)
    require("python3", Path(EXECUTABLE_BY_ALL).exists(), "no Python that every account can execute")

    def build_and_run() -> None:
        process = ProcessHarness(public / "own")
        try:
            spec = process.build_spec("chmod 000 $VIRTUAL_ENV . $(dirname $VIRTUAL_ENV)")
            for _ in range(2):
                artifact, _ = build(process, spec)
                assert process.run("true", artifact)[0].succeeded
        finally:
            process.close()

    (public / "own").mkdir()
    as_nobody(build_and_run, public / "own")


WHEEL = """
import zipfile
with zipfile.ZipFile("polyjobtest-1-py3-none-any.whl", "w") as wheel:
    info = "polyjobtest-1.dist-info"
    wheel.writestr("polyjobtest.py", "print(__file__)")
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: polyjobtest\\nVersion: 1\\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(f"{info}/RECORD", f"polyjobtest.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
"""


def test_packages_are_installed_into_the_virtualenv_despite_pip_settings(
    make_process: Callable[..., ProcessHarness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, home = tmp_path / "away", tmp_path / "home"
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(
        f"[global]\nuser = true\ntimeout = 77\n[install]\ntarget = {away}\nprefix = {away}\nroot = {away}\n"
    )
    for name, value in {"HOME": home, "PIP_USER": 1, "PIP_TARGET": away, "PIP_ROOT": away, "PIP_RETRIES": 7}.items():
        monkeypatch.setenv(name, str(value))
    process = make_process(job_env=("PATH", "HOME", "PIP_*"), options={"python": sys.executable})
    install = "python -m pip install -q --no-index --no-deps ./polyjobtest-1-py3-none-any.whl"
    spec = process.build_spec(
        f"python - <<'E'\n{WHEEL}\nE", install, "python -m pip config list; python -c 'import polyjobtest'"
    )
    _, lines = build(process, spec)
    assert lines[-1].startswith(f"{spec.folder}/env/lib/")
    assert "global.timeout='77'" in lines
    assert ":env:.retries='7'" in lines
    assert not away.exists()


@pytest.mark.parametrize(
    "name", ["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON_VERSION", "PIP_dry_run"]
)
def test_pip_settings_of_the_server_are_overridden(name: str) -> None:
    server = {"PATH": "/bin", name: "1", "PIP_INDEX_URL": "https://pypi.example.org", "PIP_REQUIRE_VIRTUALENV": "1"}
    remaining = {"PIP_INDEX_URL", "PIP_REQUIRE_VIRTUALENV"}
    env = builds.Artifact("/env").apply_to(server)
    assert {key for key in env if key.startswith("PIP_")} == remaining | {"PIP_USER"}
    assert env["PIP_USER"] == "0"
    assert builds.Artifact("/env", {name: "own"}).apply_to(server)[name] == "own"
    assert builds.Artifact().apply_to(server) == server


def test_virtualenv_comes_before_the_path_of_the_job() -> None:
    own = {"PATH": "/caller/bin", "VIRTUAL_ENV": "/caller", "PIP_TARGET": "/own"}
    env = builds.Artifact("/env", {"A": "build", "PATH": "/build"}).apply_to({"PATH": "/bin"}, own)
    assert (env["PATH"], env["VIRTUAL_ENV"]) == ("/env/bin:/caller/bin", "/env")
    assert (env["A"], env["PIP_TARGET"]) == ("build", "/own")
    assert builds.Artifact().apply_to({"PATH": "/bin"}, own)["PATH"] == "/caller/bin"
