"""Signing in by a link."""

from __future__ import annotations

import time

import pytest
from flask.testing import FlaskClient

from polyjob.app import create_app
from polyjob.db.models import Project, User
from polyjob.settings import Settings
from tests.pages.helpers import make_job, make_link, read, sign_in, url


def test_a_visitor_is_told_how_to_sign_in(visitor: FlaskClient, project: Project) -> None:
    job = make_job(project, name="hidden")
    for path in ("/", "/ana/demo", url(job)):
        page = read(visitor, path, 401)
        assert "link" in page.text
        assert "hidden" not in page.text


def test_a_link_signs_its_user_in_once(visitor: FlaskClient, settings: Settings, user: User) -> None:
    key = make_link(user)
    answer = visitor.get(f"/sign-in/{key}")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "ana" in read(visitor, "/").text
    another = create_app(settings).test_client()
    assert "already used" in read(another, f"/sign-in/{key}", 410).text
    read(another, "/", 401)


@pytest.mark.parametrize(("hours", "status"), [(3, 200), (-3, 200), (-24 * 15, 401)])
def test_a_session_outlives_a_step_of_the_clock(
    visitor: FlaskClient, user: User, monkeypatch: pytest.MonkeyPatch, hours: int, status: int
) -> None:
    moment = time.time() + hours * 3600
    with monkeypatch.context() as then:
        then.setattr("itsdangerous.timed.time.time", lambda: moment)
        sign_in(visitor, user)
    read(visitor, "/", status)


def test_an_unknown_or_expired_link_signs_nobody_in(visitor: FlaskClient, user: User) -> None:
    for key in ("nonsense", make_link(user, minutes=-1)):
        read(visitor, f"/sign-in/{key}", 410)
        read(visitor, "/", 401)


def test_a_look_ahead_does_not_use_the_link_up(visitor: FlaskClient, user: User) -> None:
    key = make_link(user)
    assert visitor.head(f"/sign-in/{key}").status_code == 200
    assert visitor.get(f"/sign-in/{key}", headers={"Sec-Purpose": "prefetch;prerender"}).status_code == 503
    read(visitor, "/", 401)
    assert visitor.get(f"/sign-in/{key}").status_code == 303
