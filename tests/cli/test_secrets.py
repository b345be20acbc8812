"""`polyjob secret` and `run --secret`, against a real server."""

from __future__ import annotations

from tests.cli.helpers import Terminal, json_of, polyjob
from tests.e2e.conftest import Server

VALUE = b"correct horse"


def test_job_receives_a_stored_secret(server: Server) -> None:
    stored = polyjob(server, "secret", "set", "TOKEN", data=VALUE + b"\n")
    assert (stored.returncode, stored.stdout) == (0, b"")
    assert b"polyjob run --secret TOKEN" in stored.stderr and VALUE not in stored.stderr
    command = 'test ${#TOKEN} = 13 && printf "corr"; sleep 0.2; printf "ect horse, %s\\n" "$TOKEN"'
    ended = polyjob(server, "run", "-q", "--secret", "TOKEN", command)
    assert (ended.returncode, ended.stdout) == (0, b"***, ***\n")
    job = json_of(server, "show", "--json", json_of(server, "ls", "--json")[0]["unique_name"])
    assert job["config"]["environment"]["secret_refs"] == ["TOKEN"]
    assert VALUE.decode() not in str(job)
    (row,) = json_of(server, "secret", "list", "--json")
    assert (row["name"], row["scope"], row["user"]) == ("TOKEN", "project", "root")
    assert polyjob(server, "secret", "rm", "TOKEN").returncode == 0
    refused = polyjob(server, "run", "--secret", "TOKEN", "true")
    assert refused.returncode == 125
    assert b"--secret: There is no secret `TOKEN`; store it with `polyjob secret set TOKEN`." in refused.stderr


def test_help_shows_one_name_of_the_list(server: Server) -> None:
    shown = polyjob(server, "secret", "--help").stdout.split()
    assert b"ls" in shown and b"list" not in shown


def test_secret_of_the_server_is_used_in_every_project(server: Server) -> None:
    assert polyjob(server, "secret", "set", "--all-projects", "SHARED", data=VALUE).returncode == 0
    assert polyjob(server, "run", "-q", "-p", "other", "--secret", "SHARED", "echo $SHARED").stdout == b"***\n"
    assert polyjob(server, "secret", "rm", "--all-projects", "SHARED").returncode == 0


def test_refused_value_is_not_repeated(server: Server) -> None:
    for value in (b"tiny", b"\xff\xfe"):
        refused = polyjob(server, "secret", "set", "--all-projects", "OTHER", data=value)
        assert refused.returncode == 1
        assert b"value" in refused.stderr and value not in refused.stderr


def test_terminal_asks_for_the_value_without_showing_it(server: Server) -> None:
    with Terminal(server, "secret", "set", "--all-projects", "TYPED") as terminal:
        shown = terminal.read_until(b"Value of TYPED: ")
        terminal.type(VALUE + b"\n")
        shown += terminal.read_until(b"confirmation: ")
        terminal.type(VALUE + b"\n")
        shown += terminal.read_until(b"Stored TYPED.")
    assert terminal.exit_code == 0
    assert b"horse" not in shown
    assert polyjob(server, "run", "-q", "--secret", "TYPED", "echo ${#TYPED} $TYPED").stdout == b"13 ***\n"
