"""The command line without a server: what options make of a config, names, exit codes, tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from polyjob.cli import COMMANDS, FAILED, LOST_SERVER, RUNNING, STOPPED, main
from polyjob.cli.client import Client, ServerError, UsageError, connect, fail, project_path, run_path
from polyjob.cli.data_dir import of_running_server
from polyjob.cli.log_follower import ending, exit_code, lasted
from polyjob.cli.origins import Origins
from polyjob.cli.output import ago, coloured, print_facts, print_json, print_table
from polyjob.cli.run import Duration, config_of, run
from polyjob.cli.streams import printable
from polyjob.errors import Invalid
from polyjob.jobconfig.loading import load_config
from polyjob.settings import read_settings

NOTHING = {
    "image": None, "steps": (), "variables": (), "params": (), "file": None, "upload": None, "name": None, "tags": (),
    "timeout": None, "cpu": None, "memory": None, "gpu": None,
}  # fmt: skip


def body(*command, **given):
    return config_of(command, Origins(), **(NOTHING | given))


def refusal(*command, **given):
    """The command's message about a body that the server refuses."""
    origins = Origins()
    sent = config_of(command, origins, **(NOTHING | given))
    with pytest.raises(Invalid) as refused:
        load_config(sent["config"])
    problems = [(problem.pointer, problem.detail) for problem in refused.value.problems]
    with pytest.raises(ServerError) as error, origins.explained():
        raise ServerError(400, "refused", problems)
    return str(error.value)


def invoke(*arguments, **environment):
    clean = {"POLYJOB_URL": None, "POLYJOB_TOKEN": None, "POLYJOB_PROJECT": None} | environment
    return CliRunner().invoke(main, arguments, env=clean)


class TestConfig:
    def test_one_word_is_shell_text_and_several_are_one_command(self):
        assert body("a && b")["config"]["run"] == {"cmd": "a && b"}
        assert body("python", "-c", 'print("a  b")')["config"]["run"] == {"cmd": """python -c 'print("a  b")'"""}

    def test_options_become_parts(self):
        made = body(
            "x", image="i", steps=("s", "t"), variables=("A=1=2", "B="), name="n", tags=("a",), timeout=2.5,
            params=("n=3", "s=three", "l=[1, 2]", "b=yes: no: x"),
        )  # fmt: skip
        assert made == {
            "config": {
                "run": {"cmd": "x"}, "build": {"image": "i", "build_steps": ["s", "t"]},
                "environment": {"env_vars": [["A", "1=2"], ["B", ""]]},
                "params": {"n": 3, "s": "three", "l": [1, 2], "b": "yes: no: x"}, "termination": {"timeout": 2.5},
            },
            "name": "n", "tags": ["a"],
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["2026-01-01", "no", "007", "NaN", ".inf", "{a: [", "1:30"])
    def test_parameters_are_read_as_the_server_reads_yaml(self, text):
        assert body("x", params=(f"p={text}",))["config"]["params"] == {"p": text}

    def test_files_are_read_as_the_server_reads_yaml(self, tmp_path):
        file = tmp_path / "job.yml"
        file.write_text("run: {cmd: x}\nenvironment: {env_vars: {COUNTRY: no, DAY: 2026-01-01}}\n")
        assert body(file=file)["config"]["environment"]["env_vars"] == {"COUNTRY": "no", "DAY": "2026-01-01"}

    def test_add_to_a_file(self, tmp_path):
        file = tmp_path / "job.yml"
        file.write_text("run: {cmd: old}\nbuild: {image: i, build_steps: [a]}\nenvironment: {env_vars: {X: 1}}\n")
        made = body(file=file, steps=("b",), variables=("Y=2",))["config"]
        assert made["run"] == {"cmd": "old"}
        assert made["build"] == {"image": "i", "build_steps": ["a", "b"]}
        assert made["environment"]["env_vars"] == [["X", "1"], ["Y", "2"]]
        assert body("new", file=file)["config"]["run"] == {"cmd": "new"}

    @pytest.mark.parametrize(
        ("arguments", "word", "content"),
        [(["run"], "no command", b""), (["run", "-e", "A", "--", "x"], "NAME=VALUE", b""),
         (["run", "-f", "FILE"], "no config", b"- a\n"), (["run", "-f", "FILE"], "cannot be read", b"{a: ["),
         (["run", "-f", "FILE"], "cannot be read", b"\xff\xfe\x01"), (["run", "-p", "a/b/c", "x"], "no project", b""),
         (["run", "-f", "FILE"], "nested too deep", b"[" * 5000)],
    )  # fmt: skip
    def test_that_cannot_be_is_said_with_code_125(self, arguments, word, content, tmp_path):
        file = tmp_path / "file.yml"
        file.write_bytes(content)
        result = invoke(*[str(file) if word == "FILE" else word for word in arguments])
        assert result.exit_code == 125
        assert word in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize(
        ("text", "options", "section"),
        [
            ("build: [a]", {"image": "i"}, "build"),
            ("build: python:3.11", {"steps": ("s",)}, "build"),
            ("environment: 3", {"variables": ("A=1",)}, "environment"),
            ("environment: 3", {"cpu": "1"}, "environment"),
            ("environment: {resources: 2}", {"memory": "1Gi"}, "environment"),
            ("params: [1]", {"params": ("a=1",)}, "params"),
            ("environment: {env_vars: prod}", {"variables": ("A=1",)}, "environment"),
            ("build: {build_steps: text}", {"steps": ("s",)}, "build"),
            ("termination: 5", {"timeout": 3.0}, "termination"),
        ],
    )
    def test_section_of_the_wrong_type_is_sent_unchanged(self, text, options, section, tmp_path):
        file = tmp_path / "job.yml"
        file.write_text(f"run: {{cmd: x}}\n{text}\n")
        assert body(file=file, **options)["config"][section] == body(file=file)["config"][section]


RUN = "run: {cmd: x}\n"
LIMITS = RUN + "environment: {resources: {cpu: {limits: %s}}}"
VARIABLES = RUN + "environment: {env_vars: %s}"
REFUSED = {
    "section of the file": ("build: [a]\n" + RUN, {"image": "i"}, "FILE: build: Not an object"),
    "list of the file": (RUN + "build: {build_steps: text}", {"steps": ("s",)}, "FILE: build.build_steps: "),
    "item of the file": (RUN + "build: {build_steps: ['', b]}", {"steps": ("s",)}, "FILE: build.build_steps.0: "),
    "item of the option": (RUN + "build: {build_steps: [a]}", {"steps": ("",)}, "--step: "),
    "list of the option": (RUN, {"steps": ("a", "")}, "--step: "),
    "pair of the file": (VARIABLES % "[[1 2, x]]", {"variables": ("A=1",)}, "FILE: environment.env_vars.0: "),
    "key of the file": (VARIABLES % "{A: 1, 1 2: x}", {"variables": ("B=1",)}, "FILE: environment.env_vars.1 2: "),
    "key of the option": (VARIABLES % "{A: 1}", {"variables": ("1 2=x",)}, "--env: "),
    "resource of the file": (LIMITS % "z", {"memory": "1Gi"}, "FILE: environment.resources.cpu.limits: "),
    "resource of the option": (LIMITS % "1", {"cpu": "z"}, "--cpu: "),
    "param of the file": (RUN + "params: {a b: 1}", {"params": ("c=1",)}, "FILE: params.a b: "),
    "param of the option": (RUN + "params: {a: 1}", {"params": ("b c=1",)}, "--param: "),
    "image of the option": (RUN + "build: {image: ok}", {"image": "a b"}, "--image: "),
    "image of the file": (RUN + "build: {image: a b}", {"steps": ("s",)}, "FILE: build.image: "),
    "missing in the file": ("build: {image: i}", {"image": "j"}, "FILE: run: "),
    "unknown in the file": (RUN + "a/b: 1", {"cpu": "1"}, "FILE: a/b: "),
    "template of the file": ("run: {cmd: 'x {{ y }}'}\nparams: {a: 1}", {"params": ("b=2",)}, "FILE: run.cmd: "),
    "timeout of the file": (RUN + "termination: {timeout: -1}", {"cpu": "1"}, "FILE: termination.timeout: "),
}  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize(("text", "options", "start"), REFUSED.values(), ids=REFUSED)
    def test_file_or_option_at_fault_is_named(self, text, options, start, tmp_path):
        file = tmp_path / "job.yml"
        file.write_text(text)
        assert refusal(file=file, **options).startswith(start.replace("FILE", str(file)))

    @pytest.mark.parametrize(
        ("command", "options", "start"),
        [(("x {{ y }}",), {"params": ("a=1",)}, "COMMAND: "), (("x",), {"gpu": "z"}, "--gpu: ")],
    )
    def test_option_is_named_without_a_file(self, command, options, start):
        assert refusal(*command, **options).startswith(start)

    def test_each_fault_names_its_own_origin(self, tmp_path):
        file = tmp_path / "job.yml"
        file.write_text(RUN + "environment: {resources: {memory: {limits: z}}}\nzzz: 1\n")
        lines = refusal(file=file, cpu="z").splitlines()
        starts = ["--cpu: ", f"{file}: environment.resources.memory.limits: ", f"{file}: zzz: "]
        assert sorted(lines) == sorted(line for start in starts for line in lines if line.startswith(start))
        assert len(lines) == 3


class TestNames:
    @pytest.fixture
    def client(self):
        client = Client("http://x", "k", True)
        client._me = "ana"
        return client

    @pytest.mark.parametrize(
        ("name", "path"),
        [("demo", "/ana/demo"), ("bob/demo", "/bob/demo"), ("bob.demo", "/bob/demo"), (None, "/ana/quick-start")],
    )
    def test_of_projects(self, client, name, path, monkeypatch):
        monkeypatch.delenv("POLYJOB_PROJECT", raising=False)
        assert project_path(client, name) == path
        monkeypatch.setenv("POLYJOB_PROJECT", "eva/set")
        assert project_path(client, None) == "/eva/set"

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("7", "/ana/demo/jobs/7"),
            ("other/7", "/ana/other/jobs/7"),
            ("bob/other/7", "/bob/other/jobs/7"),
            ("bob.other.jobs.7", "/bob/other/jobs/7"),
        ],
    )
    def test_of_jobs(self, client, name, path):
        assert run_path(client, name, "demo") == path

    @pytest.mark.parametrize(
        ("name", "path"),
        [("jobs.demo.jobs.7", "/jobs/demo/jobs/7"), ("builds/demo/7", "/builds/demo/jobs/7"),
         ("builds.jobs.jobs.7", "/builds/jobs/jobs/7"), ("jobs/7", "/ana/jobs/jobs/7")],
    )  # fmt: skip
    def test_users_and_projects_may_be_called_jobs_or_builds(self, client, name, path):
        assert run_path(client, name, "demo") == path

    @pytest.mark.parametrize("name", ["x", "a/b/c/7", "a.b.builds.7", "-1", ""])
    def test_that_are_none(self, client, name):
        with pytest.raises(UsageError, match="`"):
            run_path(client, name, "demo")

    def test_are_names_and_no_addresses(self, client):
        assert project_path(client, "a?b#c") == "/ana/a%3Fb%23c"


@pytest.mark.parametrize(
    ("status", "end", "code", "expected"),
    [("succeeded", {"reason": "exited"}, 0, 0), ("failed", {"reason": "exited"}, 7, 7),
     ("failed", {"signal": 9}, None, 137), ("failed", {"reason": "oom", "signal": 9}, 137, 137),
     ("failed", {"reason": "lost"}, None, 125), ("failed", {"reason": "build"}, None, 125),
     ("stopped", {"signal": 15}, 143, 143), ("stopped", None, None, 125),
     ("stopped", {"reason": "exited"}, 0, 125), ("stopped", {"reason": "exited"}, 7, 7),
     ("failed", {"reason": "timeout"}, 0, 125), ("failed", {"reason": "timeout", "signal": 15}, 143, 143),
     ("skipped", None, None, 125), ("upstream_failed", None, None, 125)],
)  # fmt: skip
def test_exit_codes(status, end, code, expected):
    assert exit_code({"last_status": status, "exit": end, "exit_code": code}) == expected


def test_an_end_is_told_in_a_line():
    job = {"unique_name": "a.b.jobs.1", "last_status": "failed", "started_at": None}
    assert click.unstyle(ending(job, {"message": "exit-code(7)"})) == "a.b.jobs.1 failed: exit-code(7)"
    job |= {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T01:02:03+00:00"}
    assert lasted(job) == "1 h 02 min"
    assert lasted(job | {"finished_at": "2026-01-01T00:02:03+00:00"}) == "2 min 03 s"


def test_tables_stand_in_columns(capsys):
    print_table(["A", "LONG"], [[coloured("x"), "y"], ["xxx", ""]])
    assert [click.unstyle(line) for line in capsys.readouterr().out.splitlines()] == ["A    LONG", "x    y", "xxx"]
    print_facts([("one", 1), ("longer", None), ("two", "x")])
    assert [click.unstyle(line) for line in capsys.readouterr().out.splitlines()] == ["one  1", "two  x"]
    assert ago(None) == ""
    assert ago("2020-01-01T00:00:00+00:00") == "2020-01-01"


@pytest.mark.parametrize("name", RUNNING)
def test_help_of_commands_that_return_the_job_code_has_the_codes(name):
    words = invoke(name, "--help").stdout.split()
    assert {f"{code}:" for code in (LOST_SERVER, FAILED, STOPPED)} <= set(words)
    assert ("124:" in words) == (name == "wait")


def test_guide_has_every_exit_code():
    table = (Path(__file__).parents[2] / "docs/command-line.md").read_text().partition("### Exit codes")[2]
    codes = set(re.findall(r"^\| (\d+) \|", table.partition("## ")[0], re.MULTILINE))
    assert codes == {"0", "1", "124", str(LOST_SERVER), str(FAILED), str(STOPPED)}


def test_every_command_has_help():
    for name, (_, line) in COMMANDS.items():
        result = invoke(name, "--help")
        assert result.exit_code == 0, name
        assert not line or line.split()[0].strip(",").lower() in result.stdout.lower(), name
    listed = invoke("--help").stdout
    assert "doctor" in listed
    assert "helper" not in listed
    assert invoke("nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code"), [(["ls"], 1), (["run", "--", "x"], 125), (["wait", "1"], 125), (["doctor"], 1)]
)
def test_without_a_server_one_line_says_how_to_start_one(arguments, code, tmp_path):
    result = invoke(*arguments, POLYJOB_DATA_DIR=str(tmp_path), POLYJOB_PORT="1")
    assert result.exit_code == code
    assert "polyjob serve" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    named = invoke("ls", POLYJOB_URL="127.0.0.1:1")
    assert "POLYJOB_URL" in named.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [(["ls"], 1), (["run", "x"], 125), (["doctor"], 1), (["token", "link"], 1)]
)
def test_a_setting_that_is_wrong_is_said(arguments, code):
    result = invoke(*arguments, POLYJOB_SLOTS="x")
    assert "POLYJOB_SLOTS" in result.stderr
    assert result.exit_code == code


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://[::"])
def test_an_address_that_is_none_is_said(address):
    result = invoke("ls", POLYJOB_URL=address)
    assert (result.exit_code, "not the address of a server" in result.stderr) == (1, True)


def test_a_key_that_is_none_is_said_without_it():
    result = invoke("ls", POLYJOB_URL="http://127.0.0.1:1", POLYJOB_TOKEN="secret\nkey")
    assert result.exit_code == 1
    assert "POLYJOB_TOKEN holds no key" in result.stderr
    assert "secret" not in result.stderr


def test_commands_that_only_speak_http_load_no_server():
    code = (
        "import sys; from polyjob.cli import main; [main.get_command(None, name) for name in ('ls', 'run', 'doctor')]"
    )
    code += "; print([name for name in ('flask', 'peewee', 'marshmallow', 'gunicorn') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(found.stdout.replace("'", '"')) == []


@pytest.mark.parametrize(("arguments", "code"), [(["run", "--nope"], 125), (["wait"], 125), (["ls", "--nope"], 2)])
def test_wrong_usage_of_what_runs_a_job_is_no_code_of_a_job(arguments: list[str], code: int) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert "Usage:" in result.output


@pytest.mark.parametrize("seconds", ["1e400", "-1"])
def test_a_time_that_is_none_is_named(seconds: str) -> None:
    result = CliRunner().invoke(main, ["run", "--timeout", seconds, "--", "x"])
    assert result.exit_code == 125
    assert "--timeout" in result.output


@pytest.mark.parametrize("path", ["", "/", "/api/v1", "/api/v1/"])
def test_the_address_may_be_that_of_the_api(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYJOB_URL", f"gpu-box:8000{path}")
    assert connect().url == "http://gpu-box:8000"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("45s", 45),
        ("30m", 1800),
        ("1h", 3600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1h 30min", 5400),
    ],
)
def test_duration_takes_seconds_and_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "1m1h", "-5", "11000d"])
def test_duration_refuses_what_is_not_a_time(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "command", "detach"),
    [(["ls", "-d"], ("ls", "-d"), False), (["-d", "ls", "-q"], ("ls", "-q"), True),
     (["python", "t.py", "--epochs", "3"], ("python", "t.py", "--epochs", "3"), False),
     (["-d", "--", "-x"], ("-x",), True), (["x", "--", "y"], ("x", "--", "y"), False)],
)  # fmt: skip
def test_options_end_at_the_first_word_of_the_command(words: list[str], command: tuple[str, ...], detach: bool) -> None:
    context = run.make_context("run", list(words))
    assert (context.params["command"], context.params["detach"]) == (command, detach)


CONTROLS = ["a\nb", "a\x1b[31mb", "a\x1b]52;c;x\x07b", "a\x9b31mb", "a\rb", "a\u202eb", "a\u2028b", "a\x7fb"]


@pytest.mark.parametrize("text", CONTROLS)
def test_control_characters_are_escaped_everywhere(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A"], [[text], [coloured(text)]])
    print_facts([("fact", text), ("list", [text])])
    print_json({"a": text})
    job = {"unique_name": "a.b.jobs.1", "last_status": "failed", "started_at": None}
    click.echo(ending(job, {"message": text}))
    with pytest.raises(SystemExit):
        fail(text.replace("\n", "").replace("\r", "").replace("\u2028", ""))
    captured = capsys.readouterr()
    shown = click.unstyle(captured.out + captured.err)
    assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"]
    assert shown.count("\n") == 10


def test_printable_keeps_ordinary_text() -> None:
    assert printable("naïve 日本語 €") == "naïve 日本語 €"


HOLD_THE_LOCK = """
import sys, pathlib
from polyjob.engine_link import EngineLock
lock = EngineLock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_commands_beside_a_server_use_its_settings(tmp_path: Path) -> None:
    mine = read_settings({"POLYJOB_KEEP_DAYS": "1"}, data_dir=tmp_path)
    assert of_running_server(mine) is None
    engine = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"POLYJOB_KEEP_DAYS": "7", "POLYJOB_CACHE_LIMIT": "3G", "POLYJOB_DATA_DIR": "/elsewhere"},
    )
    with engine:
        assert engine.stdout is not None and engine.stdout.readline() == b"held\n"
        found = of_running_server(mine)
        assert engine.stdin is not None
        engine.stdin.close()
    assert found is not None
    assert (found.keep_days, found.cache_limit, found.data_dir) == (7, 3 << 30, tmp_path)
