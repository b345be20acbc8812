"""Sweeps: one request submits a job for each combination of values."""

from __future__ import annotations

import pytest

from polyjob.db.models import Job
from polyjob.services import submission
from polyjob.services.sweeps import MAX_SWEEP_JOBS
from tests.api.conftest import JOBS

URL = f"{JOBS}/sweep"
BODY = {"run": {"cmd": "train --lr {{ lr }} --seed {{ seed }}"}, "sweep": {"lr": [0.1, 0.2], "seed": [1, 2, 3]}}


def pointers(response) -> list[str]:
    assert response.status_code == 400, response.text
    return list(dict.fromkeys(error["pointer"] for error in response.json["errors"]))


def test_each_combination_becomes_a_job(client):
    response = client.post(URL, json=BODY)
    assert response.status_code == 201
    assert [job["params"] for job in response.json["jobs"]] == [
        {"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2, 3)
    ]
    assert [job.command for job in Job.select().order_by(Job.id)][:2] == [
        "train --lr 0.1 --seed 1", "train --lr 0.1 --seed 2",
    ]  # fmt: skip


def test_jobs_of_a_sweep_are_listed_by_their_group(client):
    client.post(JOBS, json={"run": {"cmd": "true"}})
    client.post(URL, json=BODY | {"group": "grid", "tags": ["mine"]})
    listed = client.get(JOBS, query_string={"query": "tags:grid"}).json
    assert listed["count"] == 6
    assert listed["results"][0]["tags"] == ["mine", "grid"]


def test_group_has_a_name_of_its_own(client):
    groups = {client.post(URL, json=BODY).json["group"] for _ in range(2)}
    assert len(groups) == 2 and all(group.startswith("sweep-") for group in groups)


def test_group_that_exists_is_refused(client):
    client.post(URL, json=BODY | {"group": "grid"})
    assert pointers(client.post(URL, json=BODY | {"group": "grid"})) == ["/group"]
    assert Job.select().count() == 6


def test_other_params_of_the_body_are_kept(client):
    body = {"run": {"cmd": "echo {{ a }} {{ b }}"}, "params": {"a": 1}, "sweep": {"b": [2]}}
    assert client.post(URL, json=body).json["jobs"][0]["params"] == {"a": 1, "b": 2}


def test_repeated_request_submits_nothing(client):
    headers = {"Idempotency-Key": "once"}
    first, second = (client.post(URL, json=BODY, headers=headers) for _ in range(2))
    assert second.json == first.json
    assert Job.select().count() == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sweep": None}, ["/sweep"]),
        ({"sweep": {}}, ["/sweep"]),
        ({"sweep": [1]}, ["/sweep"]),
        ({"sweep": {"lr": 1, "a/b": []}}, ["/sweep/lr", "/sweep/a~1b"]),
        ({"sweep": {"lr": [{}], "seed": [None]}}, ["/sweep/lr", "/sweep/seed"]),
        ({"sweep": {"lr": list(range(MAX_SWEEP_JOBS)), "seed": [1, 2]}}, ["/sweep"]),
        ({"sweep": {"lr": [1]}}, ["/run/cmd"]),
        ({"description": "x" * 100_000, "sweep": {"lr": list(range(200)), "seed": [1]}}, ["/sweep"]),
        ({"group": "a b"}, ["/group"]),
        ({"group": 7}, ["/group"]),
        ({"name": "x"}, ["/name"]),
        ({"params": 7}, ["/params"]),
        ({"after": [99]}, ["/after/0/job"]),
        ({"run": None}, ["/content"]),
    ],
)
def test_bad_sweep_submits_nothing_and_names_the_field(client, changes, expected):
    assert pointers(client.post(URL, json=BODY | changes)) == expected
    assert Job.select().count() == 0


def test_job_that_cannot_be_inserted_takes_the_others_along(client, monkeypatch):
    inserted = []

    def insert_three(*arguments, **options):
        inserted.append(1)
        if len(inserted) == 3:
            raise OSError("disk")
        return original(*arguments, **options)

    original = submission.insert_job
    monkeypatch.setattr(submission, "insert_job", insert_three)
    with pytest.raises(OSError, match="disk"):
        client.post(URL, json=BODY)
    assert Job.select().count() == 0
