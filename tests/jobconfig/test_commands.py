"""Shell texts of a config: folded commands, line ends, and lists of commands in every supported shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.cli.origins import Origins
from polyjob.cli.run import job_body
from polyjob.errors import Invalid
from polyjob.jobconfig.commands import literal_command, normalize_command, shell_text
from polyjob.jobconfig.validation import load_build_config, load_config
from polyjob.pages.forms import Form
from polyjob.pages.job_form import read_job

NO_OPTIONS = {"file": None, "image": None, "build_steps": (), "env_vars": (), "params": (), "cpu": None, "memory": None}
NO_OPTIONS |= {"gpu": None, "backend": None, "timeout": None, "name": None, "tags": ()}
NO_OPTIONS |= {"retries": None, "after": (), "inputs_from": (), "notify": None, "volumes": (), "secrets": ()}


def stored_command(cmd):
    return load_config({"run": {"cmd": cmd}})["run"]["cmd"]


def from_text(text):
    return read_job_create({"content": text}).attributes["config"]["run"]["cmd"]


def run(shell, text):
    """Return (the output of the shell, its exit code)."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    ended = subprocess.run([*shell, "-c", text], capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout, ended.returncode


class TestFoldedCommands:
    @pytest.mark.parametrize(
        ("cmd", "expected"),
        [
            ('printf "<%s>" --a=1 \\ --b=2', 'printf "<%s>" --a=1 --b=2'),
            ("true && \\ echo hi", "true && echo hi"),
            ("python x.py --a=1\\ --b=2", "python x.py --a=1 --b=2"),
            ("python x.py \\  \\   --a", "python x.py --a"),
            ("python x.py --a \\", "python x.py --a"),
            ("a \\ b\n", "a b"),
            ("cat my\\ file", "cat my file"),
            (["a \\ b", "c"], ["a b", "c"]),
        ],
    )
    def test_continued_lines_are_joined(self, cmd, expected):
        assert stored_command(cmd) == expected

    @pytest.mark.parametrize(
        "cmd",
        [
            "a \\\n  b",
            "cat my\\ file\necho b",
            "\ncat my\\ file",
            "find . -exec ls {} \\;",
            "echo \\\\ b",
            "printf 'a\\n' b",
            "grep 'a  b' c",
            "echo a  b",
        ],
    )
    def test_other_commands_keep_every_character(self, cmd):
        assert stored_command(cmd) == cmd

    @pytest.mark.parametrize("style", ["", "> ", ">- "])
    def test_folded_yaml_is_one_command(self, style):
        first, indent = ("\n    ", "    ") if style else ("", "    ")
        text = f'run:\n  cmd: {style}{first}printf "<%s>" --a=1 \\\n{indent}--b=2 \\\n{indent}--c\n'
        assert from_text(text) == 'printf "<%s>" --a=1 --b=2 --c'

    def test_literal_block_is_joined_by_the_shell(self):
        cmd = from_text('run:\n  cmd: |\n    printf "<%s>" --a=1 \\\n      --b=2\n')
        assert run(["bash"], cmd) == ("<--a=1><--b=2>", 0)

    def test_params_are_rendered_after_the_fold(self):
        body = {"content": "params: {p: 'a\\ b'}\nrun:\n  cmd: x \\\n    --p={{ p }}\n"}
        assert read_job_create(body).attributes["config"]["run"]["cmd"] == "x --p=a\\ b"

    @given(st.text(alphabet="a\\ \n\r\t'\"", min_size=1))
    def test_normalizing_is_idempotent(self, text):
        once = normalize_command(text)
        assert normalize_command(once) == once

    @given(st.text(alphabet="a\\ \n\r\t'\"", min_size=1))
    def test_literal_command_is_not_changed(self, text):
        assert normalize_command(literal_command(text)).removeprefix("\n") == text.removeprefix("\n")

    @pytest.mark.parametrize(
        "words", [("printf", "<%s>", "a\\ b", "c"), ("printf", "%s", "a\r\nb", "x\\"), ("printf '<%s>' my\\ file",)]
    )
    def test_arguments_of_polyjob_run_arrive_unchanged(self, words):
        cmd = read_job_create(job_body(words, {}, None, Origins(), **NO_OPTIONS)).attributes["config"]["run"]["cmd"]
        expected = words[0] if len(words) == 1 else None
        written = run(["bash"], shell_text(cmd))
        assert written == run(["bash"], expected) if expected else written == run_directly(words)

    def test_command_of_the_web_form_arrives_unchanged(self):
        _, sent = read_job(Form({"cmd": "printf '<%s>' my\\ file"}))
        assert run(["bash"], sent.attributes["config"]["run"]["cmd"]) == ("<my file>", 0)


def run_directly(words):
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return ended.stdout, ended.returncode


class TestLineEnds:
    @pytest.mark.parametrize("cmd", ["if true; then\r\necho a\r\nfi\r\n", ["if true\r\nthen echo a\r\nfi"]])
    def test_carriage_returns_before_line_feeds_are_dropped(self, cmd):
        assert run(["bash"], shell_text(stored_command(cmd))) == ("a\n", 0)

    def test_build_steps_get_line_feeds(self):
        steps = ["a\r\nb", "c"]
        for document in ({"build": {"build_steps": steps}}, {"build_steps": steps}):
            loaded = load_build_config({"kind": "build"} | document)
            assert loaded["build"]["build_steps"] == ["a\nb", "c"]
        assert load_config({"run": {"cmd": "x"}, "build": {"build_steps": steps}})["build"]["build_steps"][0] == "a\nb"


@pytest.mark.parametrize("shell", [["bash"], ["dash"], ["busybox", "sh"]], ids=lambda shell: shell[0])
class TestLists:
    @pytest.mark.parametrize(
        ("cmd", "written", "code"),
        [
            (["echo a  # first", "exit 7"], "a\n", 7),
            (["# prepare", "echo b", "exit 7"], "b\n", 7),
            (["cat <<E\nx\nE", "echo b; exit 7"], "x\nb\n", 7),
            (["sleep 0 &", "echo b"], "b\n", 0),
            (["echo a;", " echo b \n"], "a\nb\n", 0),
            (["false", "echo b"], "", 1),
            (["(exit 5)", "echo b"], "", 5),
            (["echo a; false", "echo b"], "a\n", 1),
            (["false; true", "echo b"], "b\n", 0),
            (["cd /", "X='it''s'", 'echo "$X" "$PWD"'], "its /\n", 0),
            (['f() { echo "$1"; }', "f 'a  b'", 'f "\'"'], "a  b\n'\n", 0),
            (["echo 'open", "echo b"], "", 2),
            (["if true", "then echo b; fi"], "", 2),
            (["echo }", "echo ')'", "echo {"], "}\n)\n{\n", 0),
            ([")", "echo b"], "", 2),
            (["-x", "echo b"], "", 127),
            (["set -e", "false; true", "echo b"], "", 1),
            (["false || true", "! false", "echo $?"], "0\n", 0),
            (["trap 'echo bye' EXIT", "exit 3"], "bye\n", 3),
            (["true \\", "echo b"], "b\n", 0),
            (["echo one"], "one\n", 0),
            (["exec sh -c 'exit 9'", "echo b"], "", 9),
            (["export A=1", "sh -c 'echo $A'"], "1\n", 0),
        ],
    )
    def test_each_item_is_a_separate_command(self, shell, cmd, written, code):
        assert run(shell, shell_text(stored_command(cmd))) == (written, code)


def test_size_of_a_list_counts_as_shell_text():
    assert stored_command(["x" * 100_000, "y"])
    with pytest.raises(Invalid):
        stored_command(["'" * 60_000, "y"])
