"""Names of projects, jobs and builds."""

from __future__ import annotations

import pytest

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.cli.names import project_path, run_path


@pytest.fixture
def client() -> Client:
    client = Client("http://x", "k", is_local=True)
    client._me = "ana"
    return client


@pytest.mark.parametrize(
    ("name", "path"),
    [("demo", "/ana/demo"), ("bob/demo", "/bob/demo"), ("bob.demo", "/bob/demo"), (None, "/ana/quick-start")],
)
def test_project_has_a_path(client: Client, name: str | None, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYJOB_PROJECT", raising=False)
    assert project_path(client, name) == path


def test_default_project_is_a_variable(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYJOB_PROJECT", "eva/set")
    assert project_path(client, None) == "/eva/set"


def test_default_project_limits_the_search_for_a_job(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYJOB_PROJECT", "eva/set")
    assert run_path(client, "7", None) == "/eva/set/jobs/7"
    assert run_path(client, "7", "demo") == "/ana/demo/jobs/7"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("7", "/ana/demo/jobs/7"),
        ("other/7", "/ana/other/jobs/7"),
        ("bob/other/7", "/bob/other/jobs/7"),
        ("bob.other.jobs.7", "/bob/other/jobs/7"),
    ],
)
def test_job_has_a_path(client: Client, name: str, path: str) -> None:
    assert run_path(client, name, "demo") == path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("jobs.demo.jobs.7", "/jobs/demo/jobs/7"),
        ("builds/demo/7", "/builds/demo/jobs/7"),
        ("builds.jobs.jobs.7", "/builds/jobs/jobs/7"),
        ("jobs/7", "/ana/jobs/jobs/7"),
    ],
)
def test_users_and_projects_may_be_called_jobs(client: Client, name: str, path: str) -> None:
    assert run_path(client, name, "demo") == path


@pytest.mark.parametrize("name", ["x y", "a/b/c/7", "-1", ""])
def test_malformed_job_is_refused(client: Client, name: str) -> None:
    with pytest.raises(UsageError, match="is not a job; use a number"):
        run_path(client, name, "demo")


def test_build_is_not_a_job(client: Client) -> None:
    with pytest.raises(UsageError, match=r"^`a.b.builds.7` is not a job\.$"):
        run_path(client, "a.b.builds.7", None)
    assert run_path(client, "a.b.builds.7", None, "builds") == "/a/b/builds/7"


@pytest.mark.parametrize("name", ["a/b/c", "a//b", "/"])
def test_malformed_project_is_refused(client: Client, name: str) -> None:
    with pytest.raises(UsageError, match="is not a project"):
        project_path(client, name)


def test_characters_of_urls_are_escaped(client: Client) -> None:
    assert project_path(client, "a?b#c") == "/ana/a%3Fb%23c"
