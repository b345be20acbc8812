"""Commands that list, show, stop and delete jobs."""

from __future__ import annotations

import re

import click
import pytest

from tests.cli.helpers import Terminal, json_of, polyjob
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
    assert "named" in text and "exit code  4" in text and "command    echo x; exit 4" in text
    assert "runner     process" in text


@pytest.mark.parametrize("option", ["--query", "-q"])
def test_ls_filters_jobs(server: Server, named_job: str, option: str) -> None:
    assert [job["id"] for job in json_of(server, "ls", option, "name:named", "--json")] == [int(named_job)]


def test_ls_shows_reason_and_command(server: Server, named_job: str) -> None:
    lines = polyjob(server, "ls", "-q", "name:named").stdout.decode().splitlines()
    assert lines[0].split() == ["ID", "STATUS", "REASON", "NAME", "SUBMITTED", "DURATION", "COMMAND"]
    assert lines[1].startswith(f"{named_job.ljust(2)}  failed  exit code 4  named")
    assert lines[1].endswith("  echo x; exit 4")


def test_ls_lists_jobs_of_all_projects(server: Server, named_job: str) -> None:
    number = int(polyjob(server, "run", "-d", "-p", "elsewhere", "true").stdout)
    assert [job["id"] for job in json_of(server, "ls", "--json")][:2] == [number, int(named_job)]
    assert [job["id"] for job in json_of(server, "ls", "-p", "elsewhere", "--json")] == [number]
    assert "  elsewhere  " in polyjob(server, "ls").stdout.decode()
    missing = polyjob(server, "ls", "-p", "nowhere")
    assert (missing.returncode, b"There is no project `root/nowhere`" in missing.stderr) == (1, True)


def test_table_fits_the_terminal(server: Server) -> None:
    number = int(polyjob(server, "run", "-d", "true", "x" * 200).stdout)
    with Terminal(server, "ls", "-q", f"id:{number}") as terminal:
        output = terminal.read_until("…".encode())
    assert max(len(line) for line in click.unstyle(output.decode()).splitlines()) <= 80


def test_job_is_found_by_number_and_name_in_any_project(server: Server) -> None:
    number = polyjob(server, "run", "-d", "-p", "far", "--name", "find-me", "true").stdout.decode().strip()
    for name in (number, "find-me", "far/find-me", f"root/far/{number}"):
        assert json_of(server, "show", name, "--json")["id"] == int(number)
    assert json_of(server, "show", "-p", "far", "find-me", "--json")["id"] == int(number)


@pytest.mark.parametrize(("name", "message"), [("99999", "no job 99999"), ("nobody", "no job named `nobody`")])
def test_missing_job_is_named(server: Server, name: str, message: str) -> None:
    assert message in polyjob(server, "show", name).stderr.decode()


def test_job_whose_name_is_ambiguous_needs_a_project(server: Server) -> None:
    for project in ("first", "second"):
        polyjob(server, "run", "-d", "-p", project, "--name", "twice", "true")
    assert b"Several jobs are named `twice`: root." in polyjob(server, "show", "twice").stderr
    assert polyjob(server, "show", "-p", "first", "twice").returncode == 0


def test_unknown_sort_field_names_the_option(server: Server) -> None:
    message = polyjob(server, "ls", "--sort", "craeted_at").stderr.decode()
    assert "--sort: Unknown sort field" in message and "Did you mean `created_at`?" in message


def test_ls_lists_all_jobs(server: Server, named_job: str) -> None:
    assert "named" in polyjob(server, "ls", "--all", NO_COLOR="1").stdout.decode()


def test_ls_of_nothing_says_so(server: Server) -> None:
    assert polyjob(server, "ls", "--query", "name:nothing").stderr == b"No jobs match.\n"


def test_statuses_are_the_history_of_a_job(server: Server, named_job: str) -> None:
    assert [row["status"] for row in json_of(server, "statuses", named_job, "--json")][-1] == "failed"
    assert b"exit code 4" in polyjob(server, "statuses", named_job).stdout


def test_logs_are_followed_and_cut(server: Server) -> None:
    number = str(server.submit("seq 5; sleep 0.5; echo last")["id"])
    followed = polyjob(server, "logs", "-f", number)
    assert followed.stdout == b"1\n2\n3\n4\n5\nlast\n"
    assert b"succeeded" in followed.stderr
    assert polyjob(server, "logs", number).stdout == followed.stdout
    assert polyjob(server, "logs", "-n", "2", number).stdout == b"5\nlast\n"
    assert polyjob(server, "logs", "-f", "-n", "1", number).stdout == b"last\n"


def test_logs_show_the_time_of_each_line(server: Server) -> None:
    number = str(server.submit("echo one; sleep 0.3; printf two")["id"])
    followed = polyjob(server, "logs", "-f", "--times", number).stdout
    line = re.compile(r"(20\d\d-\d\d-\d\dT[\d:]{8}\.\d{3}Z) (\w+)")
    first, last = map(line.fullmatch, followed.decode().splitlines())
    assert first and last and (first[2], last[2]) == ("one", "two")
    assert first[1] < last[1]
    assert polyjob(server, "logs", "--times", number).stdout == followed
    assert polyjob(server, "logs", "--times", "-n", "1", number).stdout == last[0].encode()


def test_jobs_are_stopped_and_deleted(server: Server) -> None:
    numbers = [str(server.submit("sleep 600")["id"]) for _ in range(2)]
    assert polyjob(server, "stop", "--wait", *numbers).returncode == 0
    assert [server.job(int(number))["last_status"] for number in numbers] == ["stopped", "stopped"]
    assert polyjob(server, "delete", *numbers).returncode == 0
    assert polyjob(server, "show", numbers[0]).returncode == 1
