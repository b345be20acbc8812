"""The commands of the README, run in their order against a fresh server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Server
from tests.require import require

BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def tour() -> list[tuple[str, str]]:
    """The (command, expected output) of the tour; the output is empty where the README shows none."""
    text = (ROOT / "README.md").read_text().partition("## Five minutes")[2].partition("Kill the server")[0]
    steps = []
    for kind, body in BLOCK.findall(text):
        if kind == "sh":
            steps.append((body, ""))
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            steps.append((command, output))
    return steps


def pattern(output: str) -> str:
    """The regular expression of an output: an ellipsis stands for any text, blanks for any number of them."""
    words = (re.escape(word).replace("…", ".*") for word in output.split())
    return r"\s*" + r"\s+".join(words) + r"\s*"


def six(folder: Path) -> None:
    """A package that pip installs without a network."""
    info = "six-1.17.0.dist-info"
    with zipfile.ZipFile(folder / "six-1.17.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("six.py", "__version__ = '1.17.0'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: six\nVersion: 1.17.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"six.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_commands_of_the_readme_print_the_shown_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("jq", all(map(shutil.which, ("jq", "curl", "tar"))), "jq, curl or tar is missing")
    six(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    home = tmp_path / "home"
    (home / ".local/share/polyjob").mkdir(parents=True)
    (tmp_path / "data").symlink_to(home / ".local/share/polyjob")
    steps = tour()
    assert len(steps) > 12
    with Server(tmp_path, python=sys.executable) as server:  # its virtualenvs have pip
        lines = ["set -u"]
        for number, (command, _) in enumerate(steps):
            command = command.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
            lines += [f"echo '=== {number}'", f"{command} 2>/dev/null" if "\n" not in command else command]
        environment = {name: value for name, value in server.environment.items() if name != "POLYJOB_DATA_DIR"}
        environment |= {
            "HOME": str(home),
            "NO_COLOR": "1",
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        }
        environment.pop("XDG_DATA_HOME", None)
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=240, env=environment, cwd=ROOT
        )
    outputs = re.split(r"^=== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(outputs) == len(steps), done.stderr
    for (command, expected), output in zip(steps, outputs, strict=True):
        assert re.fullmatch(pattern(expected), output, re.DOTALL), f"$ {command}{output}\nthe README has:\n{expected}"
