"""The commands of the README and the docs, which run in their order against a fresh server."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyjob.server import greeting
from polyjob.server.bootstrap import create_first_user
from tests.docs.blocks import COMMENT, PAGES, ROOT, SHELLS, Block, blocks_of
from tests.e2e.conftest import Server
from tests.fast_python import python_with_borrowed_pip
from tests.require import require

PAGE_SECONDS = 120
COMMAND = re.compile(r"^(\$ |(curl|docker|kubectl|make|pip|polyaxon|ssh) |polyjob (?!is running))", re.MULTILINE)
WILDCARDS = {
    "…": ".*",
    r"\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)": r"\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)",
    r"\b[0-9a-f]{32,}\b": r"[0-9a-f]{32,}",
    r"just now|\b\d+ s ago": r"(?:just now|\d+ (?:s|min) ago)",
    r"\b\d[\d.]* m?s\b": r"\d[\d.]* (?:m?s|min)(?: \d+ s)?",
    r"\b(?:jobs|builds)[./]\d+": r"(?:jobs|builds)[./]\d+",
    r'"id": \d+': r'"id":\s*\d+',
}
"""Parts of a shown output, and what stands there in another run: an ellipsis stands for any text."""
WILDCARD = re.compile("|".join(f"({part})" for part in WILDCARDS))
BEGINNING = """
set -u
exec 2>&1
curl() { command curl --fail-with-body "$@"; }
API=http://127.0.0.1:8000/api/v1
AUTH="Authorization: token $(cat ~/.local/share/polyjob/root-token)"
P=$API/root/quick-start
next_job() { echo $(($(curl -s -H "$AUTH" "$API/projects/jobs?sort=-id&limit=1" | jq '.results[0].id // 0') + 1)); }
"""
"""The beginning of each page's script: the variables that the page on the API sets, and helpers for comments."""


def pattern(output: str) -> str:
    """Return the regular expression of a shown output. Any white space stands for any other; in JSON, also for none."""
    output = output.strip()
    between = r"\s*" if output.startswith(("{", "[")) else r"\s+"
    text, end = "", 0
    for match in WILDCARD.finditer(output):
        assert match.lastindex is not None
        text += _literal(output[end : match.start()], between) + list(WILDCARDS.values())[match.lastindex - 1]
        end = match.end()
    return rf"\s*{text + _literal(output[end:], between)}\s*"


def _literal(text: str, between: str) -> str:
    return re.sub(r"\s+", lambda _: between, re.sub(r"[^\s\w]", lambda match: re.escape(match[0]), text))


def numbered(command: str) -> str:
    """Replace `jobs/7` in a command by `jobs/` and the variable `jobs_7`, if that is set."""
    return re.sub(r"\b(jobs|builds|tokens)/(\d+)", r"\1/${\1_\2-\2}", command)


def six(folder: Path) -> None:
    """Write a package that pip installs without a network."""
    info = "six-1.17.0.dist-info"
    with zipfile.ZipFile(folder / "six-1.17.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("six.py", "__version__ = '1.17.0'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: six\nVersion: 1.17.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"six.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all pages, with the data folder that the command line looks in."""
    require("jq", all(map(shutil.which, ("jq", "curl", "tar"))), "jq, curl or tar is missing")
    folder = tmp_path_factory.mktemp("docs")
    six(folder)
    data_dir = folder / "home/.local/share/polyjob"
    data_dir.mkdir(parents=True)
    (folder / "data").symlink_to(data_dir)
    (folder / "volume").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.delenv("XDG_DATA_HOME", raising=False)
        with Server(folder, python=python_with_borrowed_pip(folder), volumes=f"data={folder}/volume:ro") as started:
            yield started


def run_in_shell(script: str, server: Server, folder: Path) -> str:
    """Run a script in bash, and return what it prints. Ends it and its children after a time limit."""
    with subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in server.environment.items() if not name.startswith("POLYJOB_")},
        cwd=folder,
        start_new_session=True,
    ) as shell:
        try:
            return shell.communicate(timeout=PAGE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            return shell.communicate()[0] + f"\nnot done after {PAGE_SECONDS} s"


def script_of(blocks: list[Block]) -> str:
    """Return a script that runs blocks, with a line `=== N` before each step. It ends if a command of `sh` fails."""
    lines, number = [BEGINNING], 0
    for block in blocks:
        lines += ["set -e", block.commands_before, "set +e"]
        for command, output in block.steps():
            lines += [f"echo '=== {number}'", *(["set -e"] if output is None else []), numbered(command), "set +e"]
            number += 1
    return "\n".join([*lines, "echo '=== end'"])


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.runs for block in blocks_of(page))], ids=lambda page: page.name
)
def test_commands_of_a_page_print_the_shown_output(page: Path, server: Server, tmp_path: Path) -> None:
    shutil.copy(ROOT / "README.md", tmp_path)
    blocks = [block for block in blocks_of(page) if block.runs]
    steps = [(block.place, *step) for block in blocks for step in block.steps()]
    address = f"127.0.0.1:{server.port}"
    printed = run_in_shell(script_of(blocks).replace("127.0.0.1:8000", address), server, tmp_path)
    outputs = re.split(r"^=== \w+\n", printed, flags=re.MULTILINE)[1:]
    wrong = [
        f"{place}: $ {command}\n{output}\nnot\n{shown}"
        for (place, command, shown), output in zip(steps, outputs, strict=False)
        if shown is not None and not re.fullmatch(pattern(shown.replace("127.0.0.1:8000", address)), output, re.DOTALL)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(outputs) == len(steps) + 1, f"{steps[len(outputs) - 1][0]}: a command failed:\n{printed[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_name_their_language(page: Path) -> None:
    blocks = blocks_of(page)
    assert len(re.findall("^```", page.read_text(), re.MULTILINE)) == 2 * len(blocks)
    for block in blocks:
        assert block.language, block.place
        assert block.language in SHELLS or not COMMAND.search(block.text), f"{block.place} has commands"
        assert block.language != "console" or block.text.startswith("$ "), block.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_comments_belong_to_shell_blocks(page: Path) -> None:
    used = [text for block in blocks_of(page) for text in (block.reason_not_to_run, block.commands_before) if text]
    assert len(COMMENT.findall(page.read_text())) == len(used)
    assert all(block.language in SHELLS or not block.reason_not_to_run for block in blocks_of(page))


def test_readme_shows_the_greeting(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create_first_user(settings)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(greeting, "_account", lambda: "ana")
    monkeypatch.setattr(greeting, "_polyjob", lambda settings: ["/home/ana/polyjob/.venv/bin/polyjob"])
    lines = greeting.greeting(dataclasses.replace(settings, runner="process", port=8000))
    text = "\n".join(lines).replace(str(settings.data_dir), "/home/ana/.local/share/polyjob")
    shown = next(block.text for block in blocks_of(ROOT / "README.md") if block.text.startswith("polyjob is running"))
    assert re.fullmatch(pattern(shown), text, re.DOTALL), text
