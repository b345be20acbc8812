"""ETags: a poll without changes returns 304."""

from __future__ import annotations

import pytest

from polyjob.db.database import database
from polyjob.db.models import Build, User
from polyjob.services.transitions import transition, update_columns
from polyjob.statuses import Status

from .conftest import BASE, JOBS, move_job, write


def poll(client, path, tag=None):
    response = client.get(path, headers={"If-None-Match": tag} if tag else {})
    assert response.status_code in (200, 304)
    assert response.headers["Cache-Control"] == "private, no-cache"
    if response.status_code == 304:
        assert response.data == b""
        assert response.headers["ETag"] == tag
    return response.headers["ETag"]


CHANGES = {
    "a status": lambda client: move_job(1, Status.SCHEDULED),
    "a description": lambda client: client.patch(f"{JOBS}/1", {"description": "new"}),
    "a bookmark": lambda client: client.post(f"{JOBS}/1/bookmark"),
    "a stop": lambda client: client.post(f"{JOBS}/1/stop"),
    "the project's name": lambda client: (
        client.patch(BASE, {"name": "demo2"}) and client.patch("/api/v1/ana/demo2", {"name": "demo"})
    ),
}


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/1", f"{JOBS}/1/statuses", f"{BASE}/builds"])
def test_unchanged_response_is_a_304(client, path):
    client.submit()
    tag = poll(client, path)
    assert tag.startswith('W/"')
    assert poll(client, path, tag) == tag
    assert client.get(path, headers={"If-None-Match": f'"x", {tag}'}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/1"])
@pytest.mark.parametrize("what", ["a status", "a description", "a bookmark", "a stop"])
def test_every_change_changes_the_etag(client, path, what):
    client.submit()
    tag = poll(client, path)
    CHANGES[what](client)
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_created_and_deleted_jobs_change_the_list_etag(client):
    tags = [poll(client, JOBS)]
    for act in (
        client.submit,
        client.submit,
        lambda: client.post(f"{JOBS}/1/archive"),
        lambda: client.post(f"{JOBS}/1/restore"),
        lambda: client.delete(f"{JOBS}/2"),
    ):
        act()
        tags.append(poll(client, JOBS))
    assert len(set(tags)) == len(tags)


def test_queue_position_changes_the_etag(client):
    client.submit(), client.submit()
    tag = poll(client, f"{JOBS}/2")
    assert client.get(f"{JOBS}/2").json["queue_position"] == 2
    move_job(1, Status.STOPPED)
    response = client.get(f"{JOBS}/2", headers={"If-None-Match": tag})
    assert (response.status_code, response.json["queue_position"]) == (200, 1)


def test_awaited_build_changes_the_etag(client):
    client.submit(build={"image": "a"})
    from polyjob.db.models import Job
    from polyjob.services.build_reuse import find_or_create

    with write("test"):
        build, _ = find_or_create(Job.get_by_id(1))
    move_job(1, Status.SCHEDULED, Status.BUILDING, build=build.id)
    tag = poll(client, f"{JOBS}/1")
    with write("test"):
        transition(build, Status.SCHEDULED)
    response = client.get(f"{JOBS}/1", headers={"If-None-Match": tag})
    assert response.json["waiting"].endswith("which is scheduled.")


def test_etags_differ_by_user_and_query(client, admin):
    client.submit()
    assert poll(client, f"{JOBS}/1") != poll(admin, f"{JOBS}/1")
    assert poll(client, f"{JOBS}?limit=1") != poll(client, f"{JOBS}?limit=2")


def test_304_does_not_read_the_list(client, monkeypatch):
    for _ in range(5):
        client.submit()
    tag = poll(client, JOBS)
    statements = []
    original = database.execute_sql
    monkeypatch.setattr(
        database, "execute_sql", lambda sql, *args, **options: statements.append(sql) or original(sql, *args, **options)
    )
    assert client.get(JOBS, headers={"If-None-Match": tag}).status_code == 304
    assert not [sql for sql in statements if 'FROM "job"' in sql]
    assert User.select().count() == 1


def test_deleted_original_changes_the_etag_of_a_clone(client):
    client.submit()
    client.post(f"{JOBS}/1/restart")
    tag, listed = poll(client, f"{JOBS}/2"), poll(client, JOBS)
    from polyjob.db.models import Job

    with write("test"):
        Job.delete().where(Job.id == 1).execute()
    response = client.get(f"{JOBS}/2", headers={"If-None-Match": tag})
    assert (response.status_code, response.json["original"]) == (200, None)
    assert client.get(JOBS, headers={"If-None-Match": listed}).status_code == 200


def test_note_on_the_awaited_build_changes_the_etag(client):
    build = {"image": "a", "build_steps": ["true"]}
    client.submit(build=build)
    client.post(f"{BASE}/builds", {"config": {"version": 1, "kind": "build", "build": build}})
    move_job(1, Status.SCHEDULED, Status.BUILDING, build=1)
    tag = poll(client, f"{JOBS}/1")
    with write("test"):
        update_columns(Build.get(), notes=[{"kind": "retry", "text": "The build is tried again"}])
    assert "tried again" in client.get(f"{JOBS}/1").json["waiting"]
    assert poll(client, f"{JOBS}/1", tag) != tag
