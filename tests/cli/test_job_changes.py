"""Commands that archive, bookmark, tag, rename and open jobs."""

from __future__ import annotations

import pytest

from tests.cli.helpers import finished_job, json_of, polyjob
from tests.e2e.conftest import Server


@pytest.fixture(scope="module")
def job(server: Server) -> str:
    return finished_job(server, "true")


def listed(server: Server, job: str) -> bool:
    return bool(json_of(server, "ls", "-q", f"id:{job}", "--json"))


def test_archived_job_is_hidden_until_it_is_unarchived(server: Server, job: str) -> None:
    assert polyjob(server, "archive", job).returncode == 0
    assert not listed(server, job)
    assert polyjob(server, "unarchive", job).returncode == 0
    assert listed(server, job)


def test_bookmark_is_set_and_removed(server: Server, job: str) -> None:
    assert polyjob(server, "bookmark", job).returncode == 0
    assert server.job(int(job))["bookmarked"]
    assert polyjob(server, "bookmark", "--remove", job).returncode == 0
    assert not server.job(int(job))["bookmarked"]


def test_tags_are_added_and_removed(server: Server, job: str) -> None:
    for words, tags in ((["a", "b"], ["a", "b"]), (["c"], ["a", "b", "c"]), (["--remove", "a", "c"], ["b"])):
        assert polyjob(server, "tag", job, *words).returncode == 0
        assert server.job(int(job))["tags"] == tags


def test_renamed_job_is_found_by_its_new_name(server: Server, job: str) -> None:
    assert polyjob(server, "rename", job, "new-name").returncode == 0
    assert json_of(server, "show", "new-name", "--json")["id"] == int(job)
    assert polyjob(server, "rename", job, "a b").stderr.startswith(b"polyjob: NAME: ")


def test_missing_job_keeps_all_others_unchanged(server: Server, job: str) -> None:
    assert polyjob(server, "archive", job, "99999").returncode == 1
    assert listed(server, job)


def test_open_prints_the_address_of_the_page(server: Server, job: str) -> None:
    address = f"http://127.0.0.1:{server.port}"
    assert polyjob(server, "open").stdout.decode() == f"{address}\n"
    assert polyjob(server, "open", job).stdout.decode() == f"{address}/root/quick-start/jobs/{job}\n"


def test_audit_shows_the_changes_of_a_job(server: Server, job: str) -> None:
    polyjob(server, "tag", job, "audited")
    entries = json_of(server, "audit", job, "--json")
    assert {entry["user"] for entry in entries} == {"root"}
    assert entries[-1]["action"] == "create"
    assert f"root.quick-start.jobs.{job}" in polyjob(server, "audit", job).stdout.decode()
    assert len(json_of(server, "audit", "-n", "2", "--json")) == 2


def test_builds_are_listed(server: Server) -> None:
    assert polyjob(server, "run", "-p", "built", "--step", "true", "true").returncode == 0
    builds = json_of(server, "builds", "-p", "built", "--json")
    assert [build["last_status"] for build in builds] == ["succeeded"]
    assert "succeeded" in polyjob(server, "builds", "-p", "built").stdout.decode()
    assert polyjob(server, "builds", "-p", "built", "--query", "status:failed").stderr == b"No builds match.\n"
