"""The secrets of a project on the page with its settings, and those of the server."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from polyjob.db.database import write
from polyjob.db.models import Project, Secret, User
from polyjob.services import job_secrets
from polyjob.settings import Settings
from polyjob.storage import secret_box
from tests.pages.helpers import read
from tests.pages.test_members import SETTINGS, send

VALUE = "correct\nhorse battery"


def test_secret_is_stored_and_removed(client: FlaskClient, project: Project, settings: Settings) -> None:
    stored = send(client, SETTINGS, f"{SETTINGS}/secrets", secret="TOKEN", value=VALUE.replace("\n", "\r\n"))
    assert stored.status_code == 303
    assert secret_box.decrypt(settings.data_dir, Secret.get().value) == VALUE
    page = read(client, SETTINGS)
    assert "TOKEN" in page.text and "horse" not in page.text
    assert send(client, SETTINGS, f"{SETTINGS}/secrets/TOKEN/remove").status_code == 303
    assert Secret.select().count() == 0


def test_refused_secret_shows_the_errors_and_no_value(client: FlaskClient, project: Project) -> None:
    for name, value, message in (
        ("lower", "a long value", "is not the name of a secret"),
        ("TOKEN", "tiny", "at least 6 characters"),
    ):
        page = send(client, SETTINGS, f"{SETTINGS}/secrets", secret=name, value=value)
        assert page.status_code == 400
        assert message in page.text and f'value="{name}"' in page.text
        assert value not in page.text


def test_secret_of_the_server_is_listed_and_cannot_be_removed(
    client: FlaskClient, project: Project, user: User, settings: Settings
) -> None:
    job_secrets.set_secret(None, user, "SHARED", "a long value", settings.data_dir)
    page = read(client, SETTINGS)
    assert "all projects" in page.text
    assert "/secrets/SHARED/remove" not in client.get(SETTINGS).text
    assert send(client, SETTINGS, f"{SETTINGS}/secrets/SHARED/remove").status_code == 404


SERVER_SECRETS = "/status/secrets"


@pytest.fixture
def admin(client: FlaskClient, user: User) -> FlaskClient:
    with write("test"):
        User.update(is_admin=True).where(User.id == user.id).execute()
    return client


def test_administrator_stores_and_removes_a_secret_of_the_server(admin: FlaskClient, settings: Settings) -> None:
    assert SERVER_SECRETS in admin.get("/status").text
    assert send(admin, SERVER_SECRETS, SERVER_SECRETS, secret="SHARED", value=VALUE).status_code == 303
    secret = Secret.get()
    assert secret.project_id is None and secret_box.decrypt(settings.data_dir, secret.value) == VALUE
    page = read(admin, SERVER_SECRETS)
    assert "SHARED" in page.text and "horse" not in page.text
    refused = send(admin, SERVER_SECRETS, SERVER_SECRETS, secret="lower", value="a long value")
    assert refused.status_code == 400
    assert "is not the name of a secret" in refused.text and "a long value" not in refused.text
    assert send(admin, SERVER_SECRETS, f"{SERVER_SECRETS}/SHARED/remove").status_code == 303
    assert Secret.select().count() == 0


def test_server_page_has_no_secrets_of_projects(
    admin: FlaskClient, project: Project, user: User, settings: Settings
) -> None:
    job_secrets.set_secret(project, user, "OWN", "a long value", settings.data_dir)
    assert "OWN" not in read(admin, SERVER_SECRETS).text
    assert send(admin, SERVER_SECRETS, f"{SERVER_SECRETS}/OWN/remove").status_code == 404


def test_server_page_is_for_administrators(client: FlaskClient, project: Project) -> None:
    assert client.get(SERVER_SECRETS).status_code == 403
    assert send(client, SETTINGS, SERVER_SECRETS, secret="SHARED", value=VALUE).status_code == 403
    assert Secret.select().count() == 0
