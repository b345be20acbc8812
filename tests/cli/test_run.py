"""`polyjob run` and `polyjob wait`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polyjob.cli.caller import Caller
from polyjob.cli.origins import Origins
from polyjob.cli.run import job_body, run
from tests.cli.helpers import invoke, polyjob, popen
from tests.e2e.conftest import JOBS, Server, eventually

NO_OPTIONS: dict[str, Any] = {
    "image": None, "build_steps": (), "env_vars": (), "params": (), "file": None, "upload": None, "name": None,
    "backend": None, "tags": (), "timeout": None, "retries": None, "after": (), "notify": None,
    "cpu": None, "memory": None, "gpu": None, "volumes": (), "secrets": (), "inputs_from": (),
}  # fmt: skip


def body(*command: str, caller: Caller | None = None, **options: Any) -> dict[str, Any]:
    origins, options = Origins(), NO_OPTIONS | options
    config = origins.read(options["file"]) if options["file"] else {}
    return job_body(command, config, caller, origins, **options)


class TestBody:
    def test_one_word_is_shell_text(self) -> None:
        assert body("a && b")["config"]["run"] == {"cmd": "a && b"}

    def test_several_words_are_one_command(self) -> None:
        assert body("python", "-c", 'print("a  b")')["config"]["run"] == {"cmd": """python -c 'print("a  b")'"""}

    def test_options_become_fields(self) -> None:
        assert body(
            "x", image="i", build_steps=("s", "t"), env_vars=("A=1=2", "B="), name="n", tags=("a",), timeout=2.5,
            retries=3, notify="https://h/", params=("n=3", "s=three", "l=[1, 2]", "b=yes: no: x"), cpu="2", gpu="1",
            volumes=("data",),
        ) == {
            "config": {
                "run": {"cmd": "x"}, "build": {"image": "i", "build_steps": ["s", "t"]},
                "environment": {
                    "env_vars": [["A", "1=2"], ["B", ""]],
                    "resources": {"cpu": {"limits": "2"}, "gpu": {"limits": "1"}},
                    "data_refs": ["data"],
                },
                "params": {"n": 3, "s": "three", "l": [1, 2], "b": "yes: no: x"},
                "termination": {"timeout": 2.5, "max_retries": 3},
            },
            "name": "n", "tags": ["a"], "notify": "https://h/",
        }  # fmt: skip

    def test_file_is_parsed_as_the_server_parses_yaml(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yml"
        file.write_text("run: {cmd: x}\nenvironment: {env_vars: {COUNTRY: no, DAY: 2026-01-01}}\n")
        assert body(file=file)["config"]["environment"]["env_vars"] == {"COUNTRY": "no", "DAY": "2026-01-01"}

    def test_options_add_to_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yml"
        file.write_text("run: {cmd: old}\nbuild: {image: i, build_steps: [a]}\nenvironment: {env_vars: {X: 1}}\n")
        config = body(file=file, build_steps=("b",), env_vars=("Y=2",))["config"]
        assert config["run"] == {"cmd": "old"}
        assert config["build"] == {"image": "i", "build_steps": ["a", "b"]}
        assert config["environment"]["env_vars"] == [["X", "1"], ["Y", "2"]]
        assert body("new", file=file)["config"]["run"] == {"cmd": "new"}

    @pytest.mark.parametrize(
        ("words", "message", "content"),
        [
            (["run"], "no command", b""),
            (["run", "-e", "A", "--", "x"], "NAME=VALUE", b""),
            (["run", "-f", "FILE"], "is not a config", b"- a\n"),
            (["run", "-f", "FILE"], "cannot be read", b"{a: ["),
            (["run", "-f", "FILE"], "cannot be read", b"\xff\xfe\x01"),
            (["run", "-p", "a/b/c", "x"], "is not a project", b""),
            (["run", "-f", "FILE"], "nested too deep", b"[" * 5000),
        ],
    )
    def test_invalid_input_exits_with_125(self, words: list[str], message: str, content: bytes, tmp_path: Path) -> None:
        file = tmp_path / "file.yml"
        file.write_bytes(content)
        result = invoke(*[str(file) if word == "FILE" else word for word in words])
        assert result.exit_code == 125
        assert message in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "command", "detach"),
    [(["ls", "-d"], ("ls", "-d"), False), (["-d", "ls", "-q"], ("ls", "-q"), True),
     (["python", "t.py", "--epochs", "3"], ("python", "t.py", "--epochs", "3"), False),
     (["-d", "--", "-x"], ("-x",), True), (["x", "--", "y"], ("x", "--", "y"), False)],
)  # fmt: skip
def test_options_end_at_the_first_word_of_the_command(words: list[str], command: tuple[str, ...], detach: bool) -> None:
    context = run.make_context("run", list(words))
    assert (context.params["command"], context.params["detach"]) == (command, detach)


class TestRun:
    def test_output_and_exit_code_are_those_of_the_job(self, server: Server) -> None:
        done = polyjob(server, "run", "--", r"printf 'a\377\000\r\n'; echo b >&2; exit 7")
        assert (done.returncode, done.stdout) == (7, b"a\xff\x00\r\nb\n")
        assert re.search(rb"jobs\.\d+ failed after [^:]+: exit code 7\n", done.stderr)

    def test_arguments_with_blanks_arrive_unchanged(self, server: Server) -> None:
        done = polyjob(server, "run", "--", sys.executable, "-c", 'print("a  b")')
        assert (done.returncode, done.stdout) == (0, b"a  b\n")

    def test_signal_has_an_exit_code(self, server: Server) -> None:
        assert polyjob(server, "run", "--", "kill -9 $$").returncode == 137

    def test_failed_build_has_an_exit_code(self, server: Server) -> None:
        done = polyjob(server, "run", "--step", "echo making >&2; exit 3", "--", "echo never")
        assert (done.returncode, done.stdout) == (125, b"")
        assert b"making" in done.stderr
        assert b"step 1 ended with exit code 3" in done.stderr
        assert b"Waiting for build" not in done.stderr

    def test_build_log_is_on_the_standard_error(self, server: Server) -> None:
        arguments = ["run", "--step", "echo making", "-e", "X=1 2", "--", "echo $X"]
        first, second = polyjob(server, *arguments), polyjob(server, *arguments)
        assert (first.stdout, second.stdout) == (b"1 2\n", b"1 2\n")
        assert b"making" in first.stderr
        assert b"making" not in second.stderr

    def test_folder_is_uploaded_to_a_new_project(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("code\n")
        (tmp_path / "b.log").write_text("no\n")
        (tmp_path / ".gitignore").write_text("*.log\n")
        done = polyjob(server, "run", "-p", "uploaded", "-u", str(tmp_path), "--", "cat a.txt; ls")
        assert (done.returncode, done.stdout) == (0, b"code\na.txt\n")
        assert b"Created the project root.uploaded." in done.stderr
        assert b"Uploaded 2 files" in done.stderr


def is_connected(pid: int) -> bool:
    """Return whether the process has an open socket."""
    with contextlib.suppress(OSError):
        return any(os.readlink(file).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


class TestWait:
    def test_exit_code_is_that_of_the_job(self, server: Server) -> None:
        done = polyjob(server, "run", "-d", "--", "exit 4")
        number = done.stdout.decode().strip()
        assert number.isdecimal()
        assert polyjob(server, "wait", number).returncode == 4
        assert polyjob(server, "wait", "--timeout", "0", number).returncode == 4

    def test_timeout_has_an_exit_code(self, server: Server) -> None:
        number = str(server.submit("sleep 600")["id"])
        done = polyjob(server, "wait", "--timeout", "0.1", number)
        assert (done.returncode, b"is still" in done.stderr) == (124, True)
        assert polyjob(server, "stop", number).returncode == 0

    @pytest.mark.parametrize(("trap", "code"), [("true", 143), ("trap 'exit 7' TERM", 7), ("trap 'exit 0' TERM", 125)])
    def test_stopped_job_keeps_its_exit_code(self, server: Server, trap: str, code: int) -> None:
        number = server.submit(f"{trap}; touch $POLYAXON_RUN_OUTPUTS_PATH/ready; while :; do sleep 0.1; done")["id"]
        eventually(lambda: b"ready" in server.call("GET", f"{JOBS}/{number}/outputs/tree").body)
        assert server.call("POST", f"{JOBS}/{number}/stop").status == 200
        done = polyjob(server, "wait", str(number))
        assert (done.returncode, b"stopped" in done.stderr) == (code, True)

    def test_ctrl_c_ends_only_the_waiting(self, server: Server) -> None:
        number = str(server.submit("sleep 600")["id"])
        # A shell that starts the tests in the background makes them ignore INT.
        with popen(server, "wait", number, prefix=("env", "--default-signal=INT")) as process:
            try:
                eventually(lambda: is_connected(process.pid))
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
        assert (process.returncode, b"Traceback" in err) == (130, False)
        assert server.job(int(number))["last_status"] == "running"
        assert polyjob(server, "stop", number).returncode == 0


class TestRetries:
    COMMAND = 'test -e "{0}" && exit 0; touch "{0}"; echo tried; exit 3'

    def test_run_and_wait_follow_the_retries(self, server: Server, tmp_path: Path) -> None:
        done = polyjob(server, "run", "--retries", "2", self.COMMAND.format(tmp_path / "tried"))
        assert (done.returncode, done.stdout) == (0, b"tried\n")
        number = re.search(rb"jobs\.(\d+) failed after [^:]+: exit code 3", done.stderr)
        assert number is not None, done.stderr
        assert polyjob(server, "wait", number[1].decode()).returncode == 0
        shown = polyjob(server, "show", str(int(number[1]) + 1)).stdout.decode()
        assert f"1 of 2 of #{number[1].decode()}" in shown

    def test_run_exits_with_the_code_of_the_last_retry(self, server: Server) -> None:
        assert polyjob(server, "run", "--retries", "1", "exit 4").returncode == 4


class TestAfter:
    def test_job_waits_for_the_success_of_another(self, server: Server) -> None:
        first = polyjob(server, "run", "-d", "-q", "exit 5").stdout.decode().strip()
        done = polyjob(server, "run", "--after", first, "echo never")
        assert done.returncode == 125
        assert re.search(rb"upstream_failed: Job #%d failed" % int(first), done.stderr)
        done = polyjob(server, "run", "--after", f"{first}:failure", "echo cleaned")
        assert (done.returncode, done.stdout) == (0, b"cleaned\n")

    def test_waiting_job_is_listed_as_such(self, server: Server) -> None:
        first = polyjob(server, "run", "-d", "-q", "sleep 1000").stdout.decode().strip()
        held = polyjob(server, "run", "-d", "-q", "--after", first, "true").stdout.decode().strip()
        lines = polyjob(server, "ls").stdout.decode().splitlines()
        assert any(line.split()[:3] == [held, "queued", "waits"] for line in lines)
        polyjob(server, "stop", first)
        assert polyjob(server, "wait", held).returncode == 125
        assert b"was stopped, and this job waited for it to succeed" in polyjob(server, "statuses", held).stdout

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("12:sunrise", b"`sunrise` is not an end of a job; use success, failure or end."),
            ("99999", b"--after: There is no job `99999`"),
        ],
    )
    def test_wrong_dependency_names_the_option(self, server: Server, option: str, message: bytes) -> None:
        done = polyjob(server, "run", "--after", option, "true")
        assert done.returncode != 0
        assert message in done.stderr
