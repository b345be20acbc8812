"""`polyjob schedule`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyjob.cli import schedules
from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


def test_schedule_is_added_shown_run_paused_and_removed(server: Server, tmp_path: Path) -> None:
    options = ("--tz", "Europe/Berlin", "--missed", "once", "-p", "nights", "--name", "nightly", "--tag", "a")
    added = polyjob(server, "schedule", "add", "0 3 * * *", *options, "--", "pwd", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    number = added.stdout.decode().strip()
    assert b"root.nights.schedules." in added.stderr
    view = json_of(server, "schedule", "show", number, "-p", "nights", "--json")
    assert (view["cron"], view["timezone"], view["missed"]) == ("0 3 * * *", "Europe/Berlin", "once")
    assert (view["job"]["name"], view["job"]["tags"]) == ("nightly", ["a"])
    ran = polyjob(server, "schedule", "run", number, "-p", "nights", "-q")
    assert (ran.returncode, ran.stdout.decode()) == (0, f"{tmp_path}\n")
    listed = polyjob(server, "schedule", "ls", "-p", "nights").stdout
    assert b"0 3 * * * Europe/Berlin" in listed
    assert b"succeeded" in listed
    assert b"succeeded" in polyjob(server, "schedule", "show", number, "-p", "nights").stdout
    assert polyjob(server, "schedule", "pause", number, "-p", "nights").returncode == 0
    assert b"paused" in polyjob(server, "schedule", "ls", "-p", "nights").stdout
    assert b"runs next" in polyjob(server, "schedule", "resume", number, "-p", "nights").stderr
    assert polyjob(server, "schedule", "rm", number, "-p", "nights").returncode == 0
    missing = polyjob(server, "schedule", "show", number, "-p", "nights")
    assert (missing.returncode, f"There is no schedule {number}" in missing.stderr.decode()) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0 0 31 2 *", "--", "true"], "CRON: `0 0 31 2 *` never fires"),
        (["-p", "nights", "0 3 * *", "--", "true"], "CRON: A cron expression has five fields"),
        (["0 3 * * *", "--tz", "Mars", "true"], "--tz: `Mars` is not a time zone"),
        (["--at", "2020-01-01", "--", "true"], "--at: 2020-01-01 00:00:00 UTC is in the past"),
        (["0 3 * * *", "--cpu", "x", "--", "true"], "--cpu: "),
        (["0 3 * * *"], "There is no command"),
    ],
)
def test_refusal_names_the_option(server: Server, arguments: list[str], message: str) -> None:
    result = polyjob(server, "schedule", "add", *arguments, TZ="UTC")
    assert result.returncode == 1
    assert message in result.stderr.decode()


def test_one_time_schedule_is_added_as_json(server: Server) -> None:
    result = polyjob(server, "schedule", "add", "--at", "2999-01-01T12:00", "--json", "--", "true", TZ="Europe/Berlin")
    document = json.loads(result.stdout)
    assert document["next_at"] == "2999-01-01T11:00:00.000000+00:00"
    assert polyjob(server, "schedule", "rm", str(document["id"])).returncode == 0


def test_timezone_of_this_machine_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert schedules.local_timezone() == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    monkeypatch.setattr(schedules, "LOCAL_TIME", tmp_path / "localtime")
    assert schedules.local_timezone() == "Europe/Berlin"
    monkeypatch.setattr(schedules, "LOCAL_TIME", tmp_path / "missing")
    assert schedules.local_timezone() is None
