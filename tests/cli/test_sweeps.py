"""`polyjob run --sweep`, `ls --group` and `stop --group`."""

from __future__ import annotations

import pytest

from polyjob.cli.errors import UsageError
from polyjob.cli.sweeps import parse_sweep
from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


def test_values_are_lists_and_ranges():
    assert parse_sweep(("lr=0.1,1e-3", "seed=1..3", "mode=a, b", "x=-2..-1,9")) == {
        "lr": [0.1, 0.001], "seed": [1, 2, 3], "mode": ["a", "b"], "x": [-2, -1, 9],
    }  # fmt: skip


@pytest.mark.parametrize("text", ["lr", "lr=", "=1", "lr=1,,2", "n=3..1", "n=1..1000"])
def test_unusable_values_are_refused(text: str):
    with pytest.raises(UsageError, match="--sweep"):
        parse_sweep((text,))


def test_sweep_runs_each_combination_and_waits(server: Server) -> None:
    sweep = ["--sweep", "a=1,2", "--sweep", "b=x,y", "--group", "both"]
    done = polyjob(server, "run", "--clean", *sweep, "echo {{ a }}{{ b }}; test {{ a }} != 2 || exit 3")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"4 jobs are queued as the group both" in done.stderr
    jobs = json_of(server, "ls", "--group", "both", "--sort", "created_at", "--json")
    outputs = [polyjob(server, "logs", str(job["id"])).stdout for job in jobs]
    assert sorted(outputs) == [b"1x\n", b"1y\n", b"2x\n", b"2y\n"]


def test_group_is_stopped_at_once(server: Server) -> None:
    done = polyjob(server, "run", "-d", "--clean", "--sweep", "n=1..3", "--group", "long", "sleep 6{{ n }}")
    numbers = done.stdout.decode().split()
    assert len(numbers) == 3
    assert polyjob(server, "stop", "--wait", "--group", "long").returncode == 0
    jobs = json_of(server, "ls", "--group", "long", "--json")
    assert {job["last_status"] for job in jobs} == {"stopped"}
    assert sorted(str(job["id"]) for job in jobs) == sorted(numbers)


def test_param_that_the_command_does_not_name_causes_a_warning(server: Server) -> None:
    done = polyjob(server, "run", "-d", "--clean", "--sweep", "lr=1", "true")
    assert b"The command has no {{ lr }}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--group", "x", "true"], b"`--group` needs `--sweep`"),
        (["run", "--sweep", "lr=[1]", "echo {{ lr }}"], b"--sweep lr: Not a list of numbers"),
        (["run", "--sweep", "lr=1", "--name", "n", "echo {{ lr }}"], b"--name: The jobs of a sweep"),
        (["stop", "--group", "none"], b"There are no jobs in the group `none`"),
        (["stop"], b"Name jobs, or a group"),
        (["stop", "1", "--group", "x"], b"Name jobs, or a group"),
    ],
)
def test_wrong_use_is_refused(server: Server, arguments: list[str], message: bytes) -> None:
    done = polyjob(server, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
