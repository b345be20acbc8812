"""Where `polyjob run` runs a job: in the caller's folder and environment, or not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from polyjob.cli.caller import CALLER_VARIABLES, Caller, is_on_this_machine
from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from tests.cli.helpers import invoke, json_of, polyjob
from tests.e2e.conftest import Server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a virtualenv whose only program prints its folder, its arguments and three variables."""
    program = tmp_path / ".venv" / "bin" / "train"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$PWD|$*|$VIRTUAL_ENV|$SECRET|$LANG"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def in_place(server: Server, place: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a command in the folder with its virtualenv activated; return exit code, output and messages."""

    def run(*words: str, **more: str) -> tuple[int, str, str]:
        shell = {
            "VIRTUAL_ENV": f"{place}/.venv", "PATH": f"{place}/.venv/bin:{os.environ['PATH']}",
            "SECRET": "s3cret", "LANG": "C.UTF-8",
        }  # fmt: skip
        done = polyjob(server, *words, cwd=place, **(shell | more))
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


Run = Callable[..., tuple[int, str, str]]


class TestThisMachine:
    def test_job_has_the_folder_and_the_virtualenv_of_the_caller(self, in_place: Run, place: Path) -> None:
        code, out, _ = in_place("run", "train", "--epochs", "3", "-d")
        assert (code, out) == (0, f"{place}|--epochs 3 -d|{place}/.venv||C.UTF-8\n")

    def test_named_variable_is_taken_over(self, in_place: Run, place: Path) -> None:
        assert in_place("run", "-e", "SECRET", "-e", "LANG=C", "train")[1] == f"{place}||{place}/.venv|s3cret|C\n"

    def test_taken_over_values_are_shown_and_kept_by_a_restart(
        self, in_place: Run, server: Server, place: Path
    ) -> None:
        number = in_place("run", "-d", "train")[1].strip()
        environment = json_of(server, "show", number, "--json")["config"]["environment"]
        assert environment["workdir"] == str(place)
        assert {name for name, _ in environment["env_vars"]} <= set(CALLER_VARIABLES)
        assert f"folder     {place}\n" in in_place("show", number, NO_COLOR="1")[1]
        assert polyjob(server, "restart", number).stdout.decode() == f"{place}||{place}/.venv||C.UTF-8\n"

    def test_clean_restart_has_an_empty_folder(self, in_place: Run, server: Server) -> None:
        number = in_place("run", "-d", "-e", "A=1", "echo $A $VIRTUAL_ENV; ls -A")[1].strip()
        assert polyjob(server, "wait", number).returncode == 0
        assert polyjob(server, "restart", "--clean", number).stdout == b"1\n"
        assert polyjob(server, "restart", "--clean", "-e", "A=2", number).stdout == b"2\n"

    def test_clean_job_has_an_empty_folder(self, in_place: Run) -> None:
        code, out, _ = in_place("run", "--clean", "-p", "clean", "echo $VIRTUAL_ENV; ls -A")
        assert (code, out) == (0, "\n")

    def test_uploaded_folder_is_a_copy(self, in_place: Run, place: Path) -> None:
        code, out, _ = in_place("run", "-p", "copied", "-u", f"{place}/.venv", "touch new; ls; echo $VIRTUAL_ENV")
        assert (code, out) == (0, f"bin\nnew\n{place}/.venv\n")
        assert not (place / ".venv" / "new").exists()
        assert in_place("run", "-p", "copied", "pwd")[1] == f"{place}\n"

    def test_missing_folder_is_named(self, in_place: Run, place: Path) -> None:
        (place / "job.yml").write_text(f"environment: {{workdir: {place}/none}}\n")
        code, out, err = in_place("run", "-f", "job.yml", "pwd")
        assert (code, out) == (125, "")
        assert f"`{place}/none`: No such file or directory" in err

    def test_narrow_token_is_refused_with_the_way_out(self, in_place: Run, server: Server) -> None:
        token = polyjob(server, "token", "create", "narrow", "--scope", "submit").stdout.decode().strip()
        code, _, err = in_place("run", "train", POLYJOB_TOKEN=token)
        assert (code, "--clean" in err) == (125, True)
        assert in_place("run", "--clean", "pwd", POLYJOB_TOKEN=token)[0] == 0


class TestOtherMachine:
    def test_job_runs_elsewhere_and_a_message_says_so(self, in_place: Run, server: Server, place: Path) -> None:
        remote = {"POLYJOB_URL": f"http://127.0.0.1:{server.port}", "POLYJOB_TOKEN": server.token}
        code, out, err = in_place("run", "-p", "remote", "pwd", **remote)
        assert (code, out == f"{place}\n") == (0, False)
        assert "not uploaded; `-u .`" in err
        for words in (["--clean"], ["-q"], ["-u", f"{place}/.venv"]):
            assert "not uploaded" not in in_place("run", "-p", "remote", *words, "true", **remote)[2]

    @pytest.mark.parametrize("runner", ["docker", "kubernetes"])
    def test_containers_do_not_have_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
    ) -> None:
        (tmp_path / "address").write_text("http://127.0.0.1:1\n")
        client = Client("http://127.0.0.1:1", None, is_local=True)
        monkeypatch.setenv("POLYJOB_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("POLYJOB_RUNNERS", f"process,{runner}")
        assert is_on_this_machine(client, None)
        assert is_on_this_machine(client, "native")
        assert not is_on_this_machine(client, runner)

    def test_unreadable_data_folder_is_not_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POLYJOB_DATA_DIR", str(tmp_path / "none"))
        assert not is_on_this_machine(Client("http://127.0.0.1:1", None, is_local=True), None)


class TestCapture:
    def test_only_listed_variables_are_captured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        shell = {"PATH": "/bin", "CONDA_PREFIX": "/conda", "AWS_SECRET_ACCESS_KEY": "x", "HOME": "/home/ana"}
        assert Caller.capture(shell) == Caller(str(tmp_path), (("PATH", "/bin"), ("CONDA_PREFIX", "/conda")))
        assert Caller.capture({}, with_folder=False) == Caller("", ())

    def test_deleted_folder_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(UsageError, match="was deleted"):
            Caller.capture({})

    def test_values_that_are_not_utf8_are_named(self) -> None:
        with pytest.raises(UsageError, match="`PATH` is not UTF-8"):
            Caller.capture({"PATH": os.fsdecode(b"/caf\xe9")})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run -e NO_SUCH_VARIABLE true", "this shell has no variable `NO_SUCH_VARIABLE`; use NAME=VALUE"),
        ("run -f job.yml -u . true", "would not run in the upload"),
    ],
)
def test_unusable_options_are_explained(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yml").write_text("environment: {workdir: /srv}\n")
    result = invoke(*shlex.split(words), POLYJOB_DATA_DIR=str(tmp_path))
    assert (result.exit_code, result.stdout) == (125, "")
    assert message in result.stderr
