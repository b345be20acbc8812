"""What is watched is watched no longer than whoever watches may see it."""

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

from .conftest import BASE, CONFIG, JOBS, Client, bring, now, publish, write


def of_bob():
    return Token.user == User.get(User.username == "bob")


def revoke(admin):
    with write("test"):
        Token.delete().where(of_bob()).execute()


def let_it_run_out(admin):
    with write("test"):
        Token.update(expires_at=now()).where(of_bob()).execute()


def archive(admin):
    """The rows' part of it; the verb also stops the jobs, which ends the follow in order."""
    with write("test"):
        Project.update(archived_at=now()).execute()


TAKEN_AWAY = {
    "the key is revoked": revoke,
    "the key runs out": let_it_run_out,
    "the user is locked out": lambda admin: admin.post("/api/v1/users/deactivate/bob"),
    "the project is made private": lambda admin: admin.patch(BASE, {"is_public": False}),
    "the project is archived": archive,
}


@pytest.fixture
def other(app, client, settings, monkeypatch, watcher):
    """Bob, who may read the job that runs."""
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


def after(seconds, act):
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


@pytest.mark.parametrize("query", ["true", "sse"])
@pytest.mark.parametrize("act", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
def test_a_follow_breaks_off(other, admin, act, query, watcher):
    answer = open_stream(other, query)
    timer = after(0.3, lambda: act(admin))
    read = b""
    with pytest.raises(AccessRevoked):
        for chunk in answer.iter_encoded():
            read += chunk
    timer.join()
    assert b"begun" in read
    answer.close()
    assert len(watcher) == 0
    assert other.get(f"{JOBS}/1/logs").status_code in (401, 404)


def test_a_follow_of_whom_nothing_is_taken_from_goes_on(other, admin):
    answer = open_stream(other, "true")
    timer = after(0.5, lambda: bring(1, Status.STOPPED))
    assert b"".join(answer.iter_encoded()) == b"begun\n"
    timer.join()


def test_a_browser_that_is_signed_out_elsewhere_is_sent_away(app, client, other):
    browser = app.test_client()
    link = create_sign_in_link(User.get(User.username == "bob"))
    assert browser.get(f"/sign-in/{link}").status_code in (200, 302, 303)
    answer = browser.get(f"{JOBS}/1/logs?follow=true", buffered=False)
    assert answer.status_code == 200

    def end_sessions():
        with write("test"):
            User.update(session_version=User.session_version + 1).where(User.username == "bob").execute()

    timer = after(0.3, end_sessions)
    with pytest.raises(AccessRevoked):
        list(answer.iter_encoded())
    timer.join()


def test_who_waits_for_the_end_is_asked_again_who_they_are(other, admin):
    timer = after(0.3, lambda: revoke(admin))
    answer = other.get(f"{JOBS}/1?wait=1")
    timer.join()
    assert answer.status_code == 401
    assert CONFIG["run"]["cmd"] not in answer.text
