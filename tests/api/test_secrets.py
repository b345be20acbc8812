"""Secrets of projects and of the server in the API."""

from __future__ import annotations

import json

import pytest

from polyjob.auth import members, users
from polyjob.auth.roles import Role
from polyjob.db.models import Audit, Job, Secret
from polyjob.services import job_secrets
from polyjob.storage.secret_box import KEY_FILE

from .conftest import BASE, CONFIG, JOBS, Client, pointers

SECRETS = f"{BASE}/secrets"
VALUE = "correct horse"


def store(client, name="TOKEN", value=VALUE, path=SECRETS):
    response = client.put(f"{path}/{name}", {"value": value})
    assert response.status_code == 200, response.text
    return response.json


def config_with(*names):
    return {"config": CONFIG | {"environment": {"secret_refs": list(names)}}}


@pytest.fixture
def admin(app):
    return Client(app, users.create_token(users.create("root", is_admin=True), "t")[1])


@pytest.fixture
def submitter(app, project):
    user = users.create("eve")
    members.set_role(project, "eve", Role.SUBMIT)
    return Client(app, users.create_token(user, "t")[1])


def test_secret_is_listed_without_its_value(client):
    stored = store(client)
    assert stored.keys() == {"name", "scope", "user", "created_at", "updated_at"}
    assert (stored["name"], stored["scope"], stored["user"]) == ("TOKEN", "project", "ana")
    assert client.get(SECRETS).json["results"] == [stored]


def test_value_is_nowhere_in_plain_text(client, settings):
    store(client)
    client.post(JOBS, config_with("TOKEN"))
    stored = b"".join(path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file())
    assert VALUE.encode() not in stored
    assert VALUE not in json.dumps([client.get(path).json for path in (SECRETS, JOBS, f"{JOBS}/1", f"{JOBS}/1/audit")])


def test_value_is_replaced(client, submitter, project):
    first = store(client)
    members.set_role(project, "eve", Role.MANAGE)
    second = store(submitter, value="battery staple")
    assert (second["created_at"], second["user"]) == (first["created_at"], "eve")
    assert second["updated_at"] > first["updated_at"]
    assert Secret.select().count() == 1


def test_changes_are_audited_without_values(client):
    store(client), store(client), client.delete(f"{SECRETS}/TOKEN")
    entries = [(row.action, row.kind, row.target, row.details) for row in Audit.select().where(Audit.kind == "secret")]
    assert entries == [(verb, "secret", "ana.demo.secrets.TOKEN", None) for verb in ("create", "update", "delete")]


@pytest.mark.parametrize("name", ["token", "A-B", "1A", "Ä", "A" * 101, "POLYAXON_X", "POLYJOB_UUID", "PATH", "CUDA_X"])
def test_invalid_name_is_refused(client, name):
    assert pointers(client.put(f"{SECRETS}/{name}", {"value": VALUE})) == ["/name"]


@pytest.mark.parametrize(
    "value", [None, 7, "", "short", " short ", "ab\ncd\nefgh\n", "x" * 32_769, "with\0nul", ["a", "b"]]
)
def test_invalid_value_is_refused_and_not_repeated(client, value):
    response = client.put(f"{SECRETS}/TOKEN", {"value": value})
    assert pointers(response) == ["/value"]
    assert "short" not in response.text and "xxxxxxx" not in response.text
    assert Secret.select().count() == 0


def test_missing_value_is_refused(client):
    assert pointers(client.put(f"{SECRETS}/TOKEN", {})) == ["/value"]
    assert client.put(f"{SECRETS}/TOKEN", ["value"]).status_code == 400


def test_number_of_secrets_is_limited(client, admin, monkeypatch):
    monkeypatch.setattr(job_secrets, "MAX_SECRETS", 1)
    store(client), store(client)
    assert client.put(f"{SECRETS}/OTHER", {"value": VALUE}).status_code == 409
    store(admin, path="/api/v1/cluster/secrets")


def test_unusable_key_file_is_reported(client, settings):
    (settings.data_dir / KEY_FILE).write_text("nonsense")
    response = client.put(f"{SECRETS}/TOKEN", {"value": VALUE})
    assert response.status_code == 503
    assert "does not contain a key" in response.json["detail"]


def test_submitters_see_names_and_change_nothing(client, submitter):
    store(client)
    assert [row["name"] for row in submitter.get(SECRETS).json["results"]] == ["TOKEN"]
    assert submitter.put(f"{SECRETS}/TOKEN", {"value": VALUE}).status_code == 403
    assert submitter.delete(f"{SECRETS}/TOKEN").status_code == 403


def test_secrets_of_the_server_are_for_administrators(client, admin):
    server = "/api/v1/cluster/secrets"
    assert client.get(server).status_code == client.put(f"{server}/TOKEN", {"value": VALUE}).status_code == 403
    stored = store(admin, path=server)
    assert stored["scope"] == "server"
    store(client, "OTHER")
    assert [(row["name"], row["scope"]) for row in client.get(SECRETS).json["results"]] == [
        ("OTHER", "project"), ("TOKEN", "server"),
    ]  # fmt: skip
    assert [row["name"] for row in admin.get(server).json["results"]] == ["TOKEN"]
    assert client.delete(f"{SECRETS}/TOKEN").status_code == 404
    assert client.post(JOBS, config_with("TOKEN", "OTHER")).status_code == 201
    assert admin.delete(f"{server}/TOKEN").status_code == 204
    assert client.post(JOBS, config_with("TOKEN")).status_code == 400


def test_missing_secret_cannot_be_deleted(client):
    assert client.delete(f"{SECRETS}/TOKEN").status_code == 404


def test_unknown_secret_of_a_job_is_named(client, project):
    store(client)
    response = client.post(JOBS, config_with("TOKEN", "GONE", "lower"))
    assert pointers(response) == ["/config/environment/secret_refs/1", "/config/environment/secret_refs/2"]
    assert "There is no secret `GONE`; store it with `polyjob secret set GONE`." in response.text
    assert "There is no secret `lower`; a name has up to 100 capital letters" in response.text
    assert Job.select().count() == 0


@pytest.mark.parametrize("value", [7, "TOKEN", [7], {"TOKEN": 1}, [""]])
def test_malformed_names_are_refused(client, value):
    config = CONFIG | {"environment": {"secret_refs": value}}
    assert pointers(client.post(JOBS, {"config": config}))[0].startswith("/config/environment/secret_refs")


def test_number_of_secrets_of_a_job_is_limited(client):
    names = [f"TOKEN_{number}" for number in range(21)]
    assert pointers(client.post(JOBS, config_with(*names))) == ["/config/environment/secret_refs"]


def test_changed_and_cloned_jobs_need_existing_secrets(client):
    store(client)
    assert client.post(JOBS, config_with("TOKEN")).status_code == 201
    assert pointers(client.patch(f"{JOBS}/1", config_with("GONE"))) == ["/config/environment/secret_refs/0"]
    client.delete(f"{SECRETS}/TOKEN")
    assert pointers(client.post(f"{JOBS}/1/restart")) == ["/config/environment/secret_refs/0"]


def test_secret_of_another_project_is_unknown(client):
    client.post("/api/v1/projects", {"name": "other"})
    store(client, path="/api/v1/ana/other/secrets")
    assert client.post(JOBS, config_with("TOKEN")).status_code == 400
