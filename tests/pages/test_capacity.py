"""The form for slots and GPUs."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient

from polyjob.db.database import write
from polyjob.db.models import User
from polyjob.services import capacity
from polyjob.settings import Settings
from tests.pages.helpers import read

PATH = "/status/capacity"


@pytest.fixture
def admin(client: FlaskClient, user: User) -> FlaskClient:
    with write("test"):
        User.update(is_admin=True).where(User.id == user.id).execute()
    return client


def save(client: FlaskClient, **fields: str) -> int:
    csrf_token = re.search(r'name="csrf_token" value="(\w+)"', client.get(PATH).text)
    assert csrf_token
    sent = {"csrf_token": csrf_token.group(1)} | {name.replace("_", "-"): text for name, text in fields.items()}
    return client.post(PATH, data=sent, headers={"Origin": "http://localhost"}).status_code


def test_form_is_for_administrators(client: FlaskClient) -> None:
    read(client, PATH, 403)
    assert client.post(PATH).status_code == 403


def test_saved_capacity_is_shown_on_the_status_page(admin: FlaskClient, settings: Settings) -> None:
    assert PATH in read(admin, "/status").links
    assert save(admin, slots_fake="0", gpus="0, 3") == 303
    current = capacity.read(settings)
    assert (current.slots_of("fake"), current.gpus) == (0, (0, 3))
    text = " ".join(read(admin, "/status").text.split())
    assert "GPUs 0, 3 are not in the server's default." in text
    assert "no new job starts" in text
    assert "GPUs0 of 2" in text
    assert "Changed while the server ran: fake slots (default 2), GPUs (default none)" in text
    assert 'value="0, 3"' in admin.get(PATH).text


def test_empty_fields_restore_the_defaults(admin: FlaskClient, settings: Settings) -> None:
    save(admin, slots_fake="9", gpus="none")
    assert save(admin, slots_fake="", gpus="") == 303
    assert capacity.read_changes() == capacity.Changes()


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"slots_fake": "many"}, "slots-fake"), ({"slots_fake": "99999"}, "slots-fake"), ({"gpus": "0, x"}, "gpus")],
)
def test_error_is_shown_beside_its_field(admin: FlaskClient, fields: dict[str, str], name: str) -> None:
    csrf_token = re.search(r'name="csrf_token" value="(\w+)"', admin.get(PATH).text)
    assert csrf_token
    sent = {"csrf_token": csrf_token.group(1)} | {key.replace("_", "-"): text for key, text in fields.items()}
    answer = admin.post(PATH, data=sent, headers={"Origin": "http://localhost"})
    assert answer.status_code == 400
    assert f'id="{name}-error"' in answer.text
    assert capacity.read_changes() == capacity.Changes()
