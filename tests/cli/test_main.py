"""The group of commands: help, documentation, exit codes and output errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from polyjob.cli import (
    ALIASES,
    COMMANDS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LOST_SERVER,
    JOB_COMMANDS,
    WITHOUT_SERVER_OPTIONS,
)
from tests.cli.helpers import Terminal, command, environment, finished_job, invoke, json_of, polyjob
from tests.e2e.conftest import ROOT, Server

GUIDE = (Path(ROOT) / "docs/command-line.md").read_text()
SHOWN_COMMANDS = [name for name, (_, line) in COMMANDS.items() if line]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    line = COMMANDS[name][1]
    assert not line or line.split()[0].strip(",").lower() in result.stdout.lower()


@pytest.mark.parametrize("name", SHOWN_COMMANDS)
def test_command_is_listed_in_help_and_guide(name: str) -> None:
    assert re.search(rf"^  {name}  ", invoke("--help").stdout, re.MULTILINE)
    assert re.search(rf"`polyjob {name}\b", GUIDE)


@pytest.mark.parametrize("name", SHOWN_COMMANDS)
def test_commands_that_talk_to_a_server_have_its_options(name: str) -> None:
    help_text = invoke(name, "--help").stdout
    assert ("--server NAME" in help_text) == (name not in WITHOUT_SERVER_OPTIONS)
    assert help_text.count("--server NAME") <= 1


def test_commands_that_create_or_maintain_print_json(server: Server) -> None:
    assert json_of(server, "projects", "create", "as-json", "--json")["unique_name"] == "root.as-json"
    assert json_of(server, "projects", "update", "as-json", "--public", "--json")["is_public"]
    assert json_of(server, "user", "create", "as-json", "--no-password", "--json")["username"] == "as-json"
    assert polyjob(server, "user", "delete", "as-json").returncode == 0
    assert isinstance(json_of(server, "gc", "--dry-run", "--json"), list)
    assert json_of(server, "abandon", "--json") == []


def test_hidden_commands_are_not_listed() -> None:
    listed = invoke("--help").stdout
    assert not [name for name in COMMANDS.keys() - set(SHOWN_COMMANDS) if f"  {name} " in listed]


def test_unknown_command_is_refused() -> None:
    assert invoke("nonsense").exit_code == 2
    assert "There is no command `stopp`. Did you mean `stop`?" in invoke("stopp").output


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_is_its_command(alias: str) -> None:
    assert f"{alias} = {ALIASES[alias]}" in " ".join(invoke("--help").stdout.split())
    assert invoke(alias, "--help").stdout.splitlines()[2:] == invoke(ALIASES[alias], "--help").stdout.splitlines()[2:]
    assert f"`{alias}`" in GUIDE


def test_misspelled_setting_is_reported() -> None:
    result = invoke("abandon", "--help", POLYJOB_DATADIR="/x", POLYJOB_SERVICE_HOST="10.0.0.1")
    assert (
        result.stderr == "polyjob: POLYJOB_DATADIR is not a setting and has no effect; did you mean POLYJOB_DATA_DIR?\n"
    )


@pytest.mark.parametrize("name", JOB_COMMANDS)
def test_help_of_job_commands_has_the_exit_codes(name: str) -> None:
    words = invoke(name, "--help").stdout.split()
    assert {f"{code}:" for code in (EXIT_LOST_SERVER, EXIT_FAILED, EXIT_INTERRUPTED)} <= set(words)
    assert ("124:" in words) == (name == "wait")


def test_guide_has_every_exit_code() -> None:
    table = GUIDE.partition("## Exit codes")[2]
    codes = set(re.findall(r"^\| (\d+) \|", table.partition("\n## ")[0], re.MULTILINE))
    assert codes == {"0", "1", "124", str(EXIT_LOST_SERVER), str(EXIT_FAILED), str(EXIT_INTERRUPTED)}


@pytest.mark.parametrize(("words", "code"), [(["run", "--nope"], 125), (["wait"], 125), (["ls", "--nope"], 2)])
def test_wrong_usage_of_job_commands_exits_with_125(words: list[str], code: int) -> None:
    result = invoke(*words)
    assert result.exit_code == code
    assert "Usage:" in result.output


def test_client_commands_import_no_server() -> None:
    code = (
        "import sys; from polyjob.cli import main; [main.get_command(None, name) for name in ('ls', 'run', 'doctor')]"
        "; print([name for name in ('flask', 'peewee', 'marshmallow', 'gunicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "--", "echo hi"], 125),
        (["run", "-d", "--", "true"], 125),
        (["logs", "JOB"], 1),
        (["logs", "-f", "JOB"], 1),
        (["ls"], 1),
        (["ls", "--json"], 1),
        (["show", "JOB"], 1),
        (["outputs", "-o", "-", "JOB"], 1),
        (["outputs", "JOB", "f"], 1),
        (["doctor"], 1),
        (["--help"], 1),
    ],
)
def test_full_output_disk_ends_the_command_with_one_line(
    server: Server, done_job: str, words: list[str], code: int
) -> None:
    arguments = [done_job if word == "JOB" else word for word in words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments), stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60,
            env=environment(server), cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, b"No space left on device" in done.stderr) == (code, True), done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_full_standard_error_does_not_change_the_exit_code(server: Server) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("run", "-d", "true"), stdout=subprocess.PIPE, stderr=full, stdin=subprocess.DEVNULL, timeout=60,
            env=environment(server), cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stdout.strip().isdigit()) == (0, True)


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [("run -- 'exit 5'", 5), ("run --step true -- 'exit 5'", 5), ("ls", 0), ("run -d -- true", 0), ("run -f -", 125)],
)
def test_closed_stream_counts_as_dev_null(server: Server, closed: str, words: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m polyjob {words} {closed}"], stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


def test_colour_is_only_for_terminals(server: Server) -> None:
    finished_job(server, "true")
    with Terminal(server, "ls", "-n", "1") as terminal:
        assert b"\x1b[" in terminal.read_until(b"true\r\n")
    assert b"\x1b" not in polyjob(server, "ls").stdout
