"""`backend` of jobs and builds, on a server with two runners."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from polyjob.settings import Settings

from .conftest import BASE, CONFIG, JOBS, Client, pointers

BUILDS = f"{BASE}/builds"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return dataclasses.replace(settings, runners=("fake", "process"))


@pytest.mark.parametrize(
    "body",
    [
        {"config": CONFIG, "backend": "process"},
        {"config": CONFIG | {"backend": "process"}},
        {"content": json.dumps(CONFIG | {"backend": "process"})},
        CONFIG | {"backend": "process"},
    ],
)
def test_answer_shows_the_chosen_runner(client: Client, body: dict[str, Any]) -> None:
    answer = client.post(JOBS, body)
    assert (answer.status_code, answer.json["backend"], answer.json["notes"]) == (201, "process", [])
    assert client.get(JOBS, query_string={"query": "backend:process"}).json["count"] == 1
    assert client.post(f"{JOBS}/1/restart", {}).json["backend"] == "process"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"config": CONFIG, "backend": "docker"}, "/backend"),
        ({"config": CONFIG | {"backend": "docker"}}, "/config/backend"),
        ({"content": json.dumps(CONFIG | {"backend": "docker"})}, "/content/backend"),
        (CONFIG | {"backend": "docker"}, "/backend"),
    ],
)
def test_runner_that_is_not_listed_is_refused(client: Client, body: dict[str, Any], pointer: str) -> None:
    answer = client.post(JOBS, body)
    assert pointers(answer) == [pointer]
    assert "it has: fake, process." in answer.json["errors"][0]["detail"]


def test_name_that_no_runner_has_is_noted(client: Client) -> None:
    job = client.submit(backend="native")
    assert job["backend"] == "fake"
    assert [note["kind"] for note in job["notes"]] == ["backend"]


def test_patch_of_a_queued_job_changes_its_runner(client: Client) -> None:
    client.submit()
    assert client.patch(f"{JOBS}/1", {"config": CONFIG | {"backend": "process"}}).json["backend"] == "process"
    assert pointers(client.patch(f"{JOBS}/1", {"config": CONFIG | {"backend": "docker"}})) == ["/config/backend"]


def test_clone_takes_a_backend_in_its_patch(client: Client) -> None:
    client.submit()
    patch = {"config": {"backend": "process"}}
    assert client.post(f"{JOBS}/1/restart", patch).json["backend"] == "process"
    assert pointers(client.post(f"{JOBS}/1/restart", {"config": {"backend": "docker"}})) == ["/config/backend"]


@pytest.mark.parametrize("body", [{"backend": "process"}, {"backend": "native"}, {}])
def test_build_has_a_backend(client: Client, body: dict[str, Any]) -> None:
    config = {"kind": "build", "build": {"image": "a", "build_steps": ["true"]}}
    build = client.post(BUILDS, {"config": config} | body)
    assert build.status_code == 201, build.text
    assert build.json["backend"] == ("process" if body.get("backend") == "process" else "fake")
    assert pointers(client.post(BUILDS, {"config": config, "backend": "docker"})) == ["/backend"]


def test_queue_position_counts_the_jobs_of_the_runner(client: Client) -> None:
    client.submit()
    client.submit(backend="process")
    job = client.get(f"{JOBS}/2").json
    assert job["queue_position"] == 1
    assert job["waiting"] == "Waiting for a free slot of the process runner; this job is next."
