"""Volumes in requests, and the list of them."""

from __future__ import annotations

import pytest

from polyjob.setting_values import read_volumes

from .conftest import CONFIG, JOBS, pointers


@pytest.fixture(autouse=True)
def _volumes(settings):
    object.__setattr__(settings, "volumes", read_volumes("data=/srv/data:ro models=/srv/models:rw"))


def environment(**parts):
    return CONFIG | {"environment": parts}


def test_every_user_sees_the_volumes(client):
    assert client.get("/api/v1/cluster/volumes").json["results"] == [
        {"name": "data", "is_read_only": True, "paths": {"fake": "/volumes/data"}},
        {"name": "models", "is_read_only": False, "paths": {"fake": "/volumes/models"}},
    ]


def test_list_is_paginated(client):
    page = client.get("/api/v1/cluster/volumes?limit=1&offset=1").json
    assert (page["count"], [row["name"] for row in page["results"]]) == (2, ["models"])


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ({"data_refs": ["data", "x"]}, "/data_refs/1"),
        ({"persistence": {"data": ["x"]}}, "/persistence/data/0"),
        ({"data_refs": ["/srv/data"]}, "/data_refs/0"),
        ({"data_refs": ["data", "models", "data"]}, "/data_refs/2"),
        ({"data_refs": "data"}, "/data_refs"),
        ({"data_refs": [1]}, "/data_refs/0"),
        ({"data_refs": {"data": "/srv"}}, "/data_refs"),
        ({"persistence": ["data"]}, "/persistence"),
        ({"data_refs": ["data"], "persistence": {"data": ["models"]}}, "/data_refs"),
        ({"persistence": {"data": ["data"], "outputs": "o"}}, "/persistence/outputs"),
    ],
)
def test_invalid_volumes_are_problems_of_their_field(client, settings, parts, pointer):
    runner = "process" if "outputs" in str(parts) else "fake"
    object.__setattr__(settings, "runner", runner)
    response = client.post(JOBS, {"config": environment(**parts)})
    assert (response.status_code, pointers(response)) == (400, [f"/config/environment{pointer}"])


@pytest.mark.parametrize("parts", [{"data_refs": ["data"]}, {"persistence": {"data": ["data"]}}])
def test_clone_keeps_the_volumes(client, parts):
    job = client.submit(environment=parts)
    assert client.post(f"{JOBS}/{job['id']}/restart").json["config"]["environment"] == parts


def test_clone_of_a_job_whose_volume_was_removed_is_refused(client, settings):
    job = client.submit(environment={"data_refs": ["data"]})
    object.__setattr__(settings, "volumes", ())
    response = client.post(f"{JOBS}/{job['id']}/restart")
    assert (response.status_code, pointers(response)) == (400, ["/config/environment/data_refs/0"])


def test_new_config_of_a_queued_job_is_checked(client):
    job = client.submit()
    response = client.patch(f"{JOBS}/{job['id']}", {"config": environment(data_refs=["x"])})
    assert pointers(response) == ["/config/environment/data_refs/0"]
