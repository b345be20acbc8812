"""Commands that list, show, stop and delete jobs."""

from __future__ import annotations

import pytest

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


@pytest.fixture(scope="module")
def named_job(server: Server) -> str:
    done = polyjob(server, "run", "-d", "--name", "named", "--tag", "t", "--", "echo x; exit 4")
    number = done.stdout.decode().strip()
    assert polyjob(server, "wait", number).returncode == 4
    return number


def test_show_prints_a_job(server: Server, named_job: str) -> None:
    view = json_of(server, "show", named_job, "--json")
    assert (view["name"], view["tags"], view["exit_code"]) == ("named", ["t"], 4)
    text = polyjob(server, "show", f"root.quick-start.jobs.{named_job}").stdout.decode()
    assert "named" in text and "exit code  4" in text


@pytest.mark.parametrize("option", ["--query", "-q"])
def test_ls_filters_jobs(server: Server, named_job: str, option: str) -> None:
    assert [job["id"] for job in json_of(server, "ls", option, "name:named", "--json")] == [int(named_job)]


def test_ls_lists_all_jobs(server: Server, named_job: str) -> None:
    assert "named" in polyjob(server, "ls", "--all", NO_COLOR="1").stdout.decode()


def test_ls_of_nothing_says_so(server: Server) -> None:
    assert polyjob(server, "ls", "--query", "name:nothing").stderr == b"No jobs match.\n"


def test_statuses_are_the_history_of_a_job(server: Server, named_job: str) -> None:
    assert [row["status"] for row in json_of(server, "statuses", named_job, "--json")][-1] == "failed"
    assert b"exit-code(4)" in polyjob(server, "statuses", named_job).stdout


def test_logs_are_followed_and_cut(server: Server) -> None:
    number = str(server.submit("seq 5; sleep 0.5; echo last")["id"])
    followed = polyjob(server, "logs", "-f", number)
    assert followed.stdout == b"1\n2\n3\n4\n5\nlast\n"
    assert b"succeeded" in followed.stderr
    assert polyjob(server, "logs", number).stdout == followed.stdout
    assert polyjob(server, "logs", "-n", "2", number).stdout == b"5\nlast\n"
    assert polyjob(server, "logs", "-f", "-n", "1", number).stdout == b"last\n"


def test_jobs_are_stopped_and_deleted(server: Server) -> None:
    numbers = [str(server.submit("sleep 600")["id"]) for _ in range(2)]
    assert polyjob(server, "stop", "--wait", *numbers).returncode == 0
    assert [server.job(int(number))["last_status"] for number in numbers] == ["stopped", "stopped"]
    assert polyjob(server, "delete", *numbers).returncode == 0
    assert polyjob(server, "show", numbers[0]).returncode == 1
