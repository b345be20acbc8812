"""Follows and waits end when the client loses its access."""

from __future__ import annotations

import threading

import pytest

from polyjob.auth import users
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.db.models import Job, Project, Token, User
from polyjob.logs import follow
from polyjob.logs.follow import AccessRevoked
from polyjob.statuses import Status
from polyjob.storage.store import Store

from .conftest import BASE, CONFIG, JOBS, Client, move_job, now, publish, write


def is_bobs_token():
    return Token.user == User.get(User.username == "bob")


def revoke(admin):
    with write("test"):
        Token.delete().where(is_bobs_token()).execute()


def expire(admin):
    with write("test"):
        Token.update(expires_at=now()).where(is_bobs_token()).execute()


def archive_project(admin):
    """Archive only the row: the real operation also stops the jobs, which ends the follow normally."""
    with write("test"):
        Project.update(archived_at=now()).execute()


REVOCATIONS = {
    "the token is revoked": revoke,
    "the token expires": expire,
    "the user is deactivated": lambda admin: admin.post("/api/v1/users/deactivate/bob"),
    "the project is made private": lambda admin: admin.patch(BASE, {"is_public": False}),
    "the project is archived": archive_project,
}


@pytest.fixture
def other(app, client, settings, monkeypatch, watcher):
    """A client of Bob, who may read the running job."""
    monkeypatch.setattr(follow, "ACCESS_CHECK_SECONDS", 0.1)
    publish()
    client.submit()
    store = Store(settings.data_dir)
    job = Job.get_by_id(1)
    store.make_job_folder(job.uuid)
    store.job_log(job.uuid).write_bytes(b"begun\n")
    bound = after(30, watcher.close)
    yield Client(app, users.create_token(users.create("bob"), "test")[1])
    bound.cancel()


def open_stream(client, query):
    return client.http.get(f"{JOBS}/1/logs?follow={query}", headers=client.headers, buffered=False)


def after(seconds, revoke_access):
    timer = threading.Timer(seconds, revoke_access)
    timer.start()
    return timer


@pytest.mark.parametrize("query", ["true", "sse"])
@pytest.mark.parametrize("revoke_access", REVOCATIONS.values(), ids=REVOCATIONS)
def test_revoked_access_interrupts_the_follow(other, admin, revoke_access, query, watcher):
    response = open_stream(other, query)
    timer = after(0.3, lambda: revoke_access(admin))
    read = b""
    with pytest.raises(AccessRevoked):
        for chunk in response.iter_encoded():
            read += chunk
    timer.join()
    assert b"begun" in read
    response.close()
    assert len(watcher) == 0
    assert other.get(f"{JOBS}/1/logs").status_code in (401, 404)


def test_follow_with_access_continues_to_the_end(other, admin):
    response = open_stream(other, "true")
    timer = after(0.5, lambda: move_job(1, Status.STOPPED))
    assert b"".join(response.iter_encoded()) == b"begun\n"
    timer.join()


def test_ended_session_interrupts_the_follow(app, client, other):
    browser = app.test_client()
    link = create_sign_in_link(User.get(User.username == "bob"))
    assert browser.get(f"/sign-in/{link}").status_code in (200, 302, 303)
    response = browser.get(f"{JOBS}/1/logs?follow=true", buffered=False)
    assert response.status_code == 200

    def end_sessions():
        with write("test"):
            User.update(session_version=User.session_version + 1).where(User.username == "bob").execute()

    timer = after(0.3, end_sessions)
    with pytest.raises(AccessRevoked):
        list(response.iter_encoded())
    timer.join()


def test_credentials_are_checked_again_after_a_wait(other, admin):
    timer = after(0.3, lambda: revoke(admin))
    response = other.get(f"{JOBS}/1?wait=1")
    timer.join()
    assert response.status_code == 401
    assert CONFIG["run"]["cmd"] not in response.text
