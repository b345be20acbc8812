"""Shell completion."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import command, environment, invoke, polyjob
from tests.e2e.conftest import Server


def complete(server: Server, line: str, **more: str) -> list[str]:
    """Return the words that bash suggests at the end of the line."""
    words = line.split(" ")
    variables = {"_POLYJOB_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from polyjob.cli import main; main(prog_name='polyjob')"],
        env=environment(server, **variables, **more), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == b""
    return [each.partition(",")[2] for each in done.stdout.decode().splitlines() if each]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_calls_polyjob(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_POLYJOB_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_script_is_valid_for_bash(server: Server) -> None:
    script = subprocess.run(command("completion", "bash"), capture_output=True, env=environment(server), check=True)
    assert subprocess.run(["bash", "-n"], input=script.stdout, check=False).returncode == 0


def test_commands_and_options_are_completed(server: Server) -> None:
    assert complete(server, "polyjob st") == ["statuses", "stop"]
    assert "--follow" in complete(server, "polyjob logs --f")


def test_jobs_are_completed_by_number_and_name(server: Server) -> None:
    number = polyjob(server, "run", "-d", "-p", "complete", "--name", "zebra", "true").stdout.decode().strip()
    assert number in complete(server, "polyjob show ")
    assert complete(server, "polyjob stop zeb") == ["zebra"]


def test_jobs_of_the_named_server_are_completed(server: Server, tmp_path: Path) -> None:
    saved = tmp_path / "polyjob" / "config.toml"
    saved.parent.mkdir()
    token = (server.data_dir / "root-token").read_text().strip()
    saved.write_text(f'[servers.lab]\nurl = "http://127.0.0.1:{server.port}"\ntoken = "{token}"\n')
    polyjob(server, "run", "-d", "--name", "yak", "true")
    other = {"XDG_CONFIG_HOME": str(tmp_path), "POLYJOB_URL": "http://127.0.0.1:1"}
    assert complete(server, "polyjob --server lab show ya", **other) == ["yak"]
    assert complete(server, "polyjob show --server lab ya", **other) == ["yak"]
    assert complete(server, "polyjob show ya", **other) == []
    assert complete(server, "polyjob show --server l", **other) == ["lab"]


def test_missing_server_completes_nothing(server: Server) -> None:
    assert complete(server, "polyjob show ", POLYJOB_URL="http://127.0.0.1:1") == []
