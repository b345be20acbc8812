"""Who one is, and keys for passwords."""

from __future__ import annotations

import datetime

import pytest

from polyjob import users
from polyjob.api import credentials as logins
from polyjob.api.limits import FailureLimit, Throttled
from polyjob.clock import now
from polyjob.models import Token

from .conftest import pointers

LOGIN = "/api/v1/users/token/"


@pytest.fixture(autouse=True)
def fresh_limits(monkeypatch):
    monkeypatch.setattr(logins, "_by_account", FailureLimit())
    monkeypatch.setattr(logins, "_by_address", FailureLimit(logins.FREE_TRIES_OF_ADDRESS))


@pytest.fixture
def eva(data_dir):
    return users.create("eva", "secret word", email="eva@localhost")


def test_whoami(client, admin):
    assert client.get("/api/v1/users/").json == {"username": "ana", "email": None, "is_superuser": False}
    assert admin.get("/api/v1/users/").json["is_superuser"] is True


@pytest.mark.parametrize("form", [True, False])
def test_login_gives_a_key_that_works_for_a_month(nobody, eva, form):
    sent = {"username": "eva", "password": "secret word"}
    answer = nobody.post(LOGIN, data=sent) if form else nobody.post(LOGIN, sent)
    assert answer.status_code == 200
    key = answer.json["token"]
    headers = {"Authorization": f"token {key}"}
    assert nobody.get("/api/v1/users", headers=headers).json["email"] == "eva@localhost"
    life = Token.get(Token.user == eva).expires_at - now()
    assert datetime.timedelta(days=29) < life <= datetime.timedelta(days=30)


def test_login_does_not_mind_a_bad_key(nobody, eva):
    answer = nobody.post(LOGIN, {"username": "eva", "password": "secret word"}, headers={"Authorization": "token None"})
    assert answer.status_code == 200


@pytest.mark.parametrize(("username", "password"), [("eva", "wrong"), ("nobody", "secret word"), ("ana", "x")])
def test_wrong_credentials_are_nobodys(nobody, eva, username, password):
    answer = nobody.post(LOGIN, {"username": username, "password": password})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Token"
    assert answer.json["detail"] == "Unable to log in with provided credentials."
    assert [error["detail"] for error in answer.json["errors"]] == ["Unable to log in with provided credentials."]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, ["/username", "/password"]),
        ({"username": "eva"}, ["/password"]),
        ({"username": 3, "password": "x"}, ["/username"]),
    ],
)
def test_what_is_missing_is_named(nobody, eva, sent, expected):
    assert pointers(nobody.post(LOGIN, sent)) == expected


def test_failures_slow_the_next_tries_down(nobody, eva):
    for _ in range(5):
        assert nobody.post(LOGIN, {"username": "eva", "password": "wrong"}).status_code == 401
    answer = nobody.post(LOGIN, {"username": "eva", "password": "secret word"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "throttled" in answer.json["detail"]
    assert Token.select().where(Token.user == eva).count() == 0


class TestFailureLimit:
    def test_waits_longer_each_time(self, monkeypatch):
        clock = [1000.0]
        monkeypatch.setattr("polyjob.api.limits.time.monotonic", lambda: clock[0])
        limit = FailureLimit(free=2, window=100)
        waits = []
        for _ in range(5):
            try:
                limit.check("a")
            except Throttled as error:
                waits.append(error.retry_after)
                clock[0] += error.retry_after
                limit.check("a")
            limit.failed("a")
        assert waits == sorted(waits)
        assert len(waits) == 3
        assert waits[-1] > 2 * waits[0] - 1

    def test_counts_each_key_by_itself_and_forgets(self, monkeypatch):
        clock = [1000.0]
        monkeypatch.setattr("polyjob.api.limits.time.monotonic", lambda: clock[0])
        limit = FailureLimit(free=1, window=100)
        limit.failed("a", "b")
        limit.check("c")
        with pytest.raises(Throttled):
            limit.check("c", "a")
        limit.succeeded("a")
        limit.check("a")
        clock[0] += 101
        limit.check("b")

    def test_keeps_a_bounded_number_of_keys(self, monkeypatch):
        monkeypatch.setattr("polyjob.api.limits.MOST_KEYS", 3)
        limit = FailureLimit()
        for number in range(10):
            limit.failed(str(number))
        assert len(limit._failures) == 3
