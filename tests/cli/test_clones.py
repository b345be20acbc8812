"""`polyjob restart`, `resume` and `copy`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.helpers import finished_job, json_of, polyjob
from tests.e2e.conftest import Server


@pytest.fixture(scope="module")
def number(server: Server) -> str:
    return finished_job(server, 'echo "$V"; echo more >> $POLYAXON_RUN_OUTPUTS_PATH/f')


def test_variable_is_added(server: Server, number: str) -> None:
    assert polyjob(server, "restart", number, "-e", "V=new").stdout == b"new\n"


def test_other_variables_are_kept(server: Server) -> None:
    done = polyjob(server, "run", "-d", "-e", "A=1", "-e", "B=2", "--", "echo $A $B")
    number = done.stdout.decode().strip()
    assert polyjob(server, "wait", number).returncode == 0
    assert polyjob(server, "restart", number, "-e", "B=3").stdout == b"1 3\n"


def test_resume_continues_with_the_outputs(server: Server, number: str, tmp_path: Path) -> None:
    patch = tmp_path / "patch.yml"
    patch.write_text("run: {cmd: 'cat $POLYAXON_RUN_OUTPUTS_PATH/f'}\n")
    assert polyjob(server, "resume", number, "-f", str(patch)).stdout == b"more\n"


def test_options_add_to_the_patch(server: Server, number: str, tmp_path: Path) -> None:
    patch = tmp_path / "patch.yml"
    patch.write_text("run: {cmd: 'echo $V $W'}\nenvironment: {env_vars: {V: 1}}\n")
    assert polyjob(server, "restart", number, "-f", str(patch), "-e", "W=2").stdout == b"1 2\n"


def test_detached_copy_prints_its_number(server: Server, number: str) -> None:
    copied = polyjob(server, "copy", "-d", number).stdout.decode().strip()
    assert json_of(server, "show", copied, "--json")["cloning_strategy"] == "copy"
    assert polyjob(server, "wait", copied).returncode == 0


def test_command_is_replaced(server: Server, number: str) -> None:
    assert polyjob(server, "restart", number, "--cmd", "echo other").stdout == b"other\n"


def test_empty_command_is_refused_by_its_option(server: Server, number: str) -> None:
    refused = polyjob(server, "restart", number, "--cmd", "")
    assert refused.returncode == 125
    assert b"--cmd" in refused.stderr
