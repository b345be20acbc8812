"""The current user, logins, and their throttling."""

from __future__ import annotations

import datetime
import threading

import pytest

from polyjob.auth import login as logins
from polyjob.auth import passwords, users
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Token

from .conftest import Client, pointers

LOGIN = "/api/v1/users/token/"


pytestmark = pytest.mark.usefixtures("login_limits")


@pytest.fixture
def eva(data_dir):
    return users.create("eva", "secret word", email="eva@localhost")


def test_current_user_is_returned(client, admin):
    assert client.get("/api/v1/users/").json == {"username": "ana", "email": None, "is_superuser": False}
    assert admin.get("/api/v1/users/").json["is_superuser"] is True


@pytest.mark.parametrize("form", [True, False])
def test_login_token_is_valid_for_a_month(anonymous, eva, form):
    sent = {"username": "eva", "password": "secret word"}
    response = anonymous.post(LOGIN, data=sent) if form else anonymous.post(LOGIN, sent)
    assert response.status_code == 200
    token = response.json["token"]
    headers = {"Authorization": f"token {token}"}
    assert anonymous.get("/api/v1/users", headers=headers).json["email"] == "eva@localhost"
    life = Token.get(Token.user == eva).expires_at - now()
    assert datetime.timedelta(days=29) < life <= datetime.timedelta(days=30)


def test_login_ignores_an_invalid_token(anonymous, eva):
    response = anonymous.post(
        LOGIN, {"username": "eva", "password": "secret word"}, headers={"Authorization": "token None"}
    )
    assert response.status_code == 200


class TestLoginWithCookie:
    """`login` in the body: the response also signs the browser in."""

    SENT = {"username": "eva", "password": "secret word", "login": True}
    ORIGIN = {"Origin": "http://localhost"}

    @pytest.fixture
    def signed_in(self, anonymous, eva):
        response = anonymous.post(LOGIN, self.SENT, headers=self.ORIGIN)
        assert response.status_code == 200
        anonymous.csrf = response.json["csrf_token"]
        return anonymous

    @pytest.mark.parametrize(
        "sent", [{"json": SENT}, {"data": SENT | {"login": "true"}}, {"data": SENT | {"login": 1}}]
    )
    def test_cookie_can_read(self, anonymous, eva, sent):
        response = anonymous.post(LOGIN, **sent)
        assert response.json.keys() == {"token", "csrf_token"}
        assert "HttpOnly" in response.headers["Set-Cookie"]
        assert anonymous.get("/api/v1/users").json["username"] == "eva"

    @pytest.mark.parametrize("login", [{}, {"login": False}, {"login": None}, {"login": "false"}])
    def test_no_cookie_without_login(self, anonymous, eva, login):
        response = anonymous.post(LOGIN, self.SENT | {"login": False} | login)
        assert response.json.keys() == {"token"}
        assert "Set-Cookie" not in response.headers

    def test_wrong_password_sets_no_cookie(self, anonymous, eva):
        response = anonymous.post(LOGIN, self.SENT | {"password": "wrong"})
        assert response.status_code == 401
        assert "Set-Cookie" not in response.headers

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:81"])
    def test_page_of_another_server_cannot_sign_in(self, anonymous, eva, origin):
        response = anonymous.post(LOGIN, self.SENT, headers={"Origin": origin})
        assert response.status_code == 403
        assert "Set-Cookie" not in response.headers
        assert not Token.select().where(Token.user == eva).exists()

    def test_changes_need_origin_and_csrf_token(self, signed_in):
        headers = self.ORIGIN | {"X-CSRF-Token": signed_in.csrf}
        made = signed_in.post("/api/v1/projects", {"name": "first"}, headers=headers)
        assert made.status_code == 201
        for forged in ({}, self.ORIGIN, headers | {"Origin": "http://evil.example"}, {"X-CSRF-Token": signed_in.csrf}):
            assert signed_in.post("/api/v1/projects", {"name": "second"}, headers=forged).status_code == 403

    def test_logout_ends_only_the_session(self, signed_in, eva):
        headers = self.ORIGIN | {"X-CSRF-Token": signed_in.csrf}
        assert signed_in.get("/api/v1/users/logout", headers=headers).status_code == 200
        assert signed_in.get("/api/v1/users").status_code == 401
        assert Token.select().where(Token.user == eva).exists()

    def test_session_ends_with_its_token(self, signed_in, eva):
        with write("test"):
            Token.delete().where(Token.user == eva).execute()
        assert signed_in.get("/api/v1/users").status_code == 401


@pytest.mark.parametrize(("username", "password"), [("eva", "wrong"), ("nobody", "secret word"), ("ana", "x")])
def test_wrong_credentials_are_refused(anonymous, eva, username, password):
    response = anonymous.post(LOGIN, {"username": username, "password": password})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Token"
    assert response.json["detail"] == "Unable to log in with provided credentials."
    assert [error["detail"] for error in response.json["errors"]] == ["Unable to log in with provided credentials."]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, ["/username", "/password"]),
        ({"username": "eva"}, ["/password"]),
        ({"username": 3, "password": "x"}, ["/username"]),
    ],
)
def test_missing_fields_are_named(anonymous, eva, sent, expected):
    assert pointers(anonymous.post(LOGIN, sent)) == expected


def test_failures_delay_further_attempts(anonymous, eva):
    for _ in range(5):
        assert anonymous.post(LOGIN, {"username": "eva", "password": "wrong"}).status_code == 401
    response = anonymous.post(LOGIN, {"username": "eva", "password": "secret word"})
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert "throttled" in response.json["detail"]
    assert Token.select().where(Token.user == eva).count() == 0


def from_address(address):
    return {"environ_overrides": {"REMOTE_ADDR": address}}


def statuses_of_attempts(anonymous, count, address=lambda number: "192.0.2.1", name=lambda number: "eva"):
    return [
        anonymous.post(
            LOGIN, {"username": name(number), "password": "wrong"}, **from_address(address(number))
        ).status_code
        for number in range(count)
    ]


@pytest.fixture
def fast_hashes(monkeypatch):
    """Make hashing of passwords instantaneous."""
    monkeypatch.setattr(
        "polyjob.auth.passwords.check_password_hash", lambda stored, password: password == "secret word"
    )


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::%x"])
def test_failures_of_one_network_are_counted_over_all_names(address, anonymous, eva, fast_hashes):
    def address_of(number):
        return address % number if "%" in address else address

    statuses = statuses_of_attempts(anonymous, 60, address_of, lambda number: f"user{number}")
    assert statuses[:50] == [401] * 50
    assert 429 in statuses[50:]


def test_failures_of_one_name_are_counted_over_all_addresses(anonymous, eva, fast_hashes):
    addresses, names = (lambda number: f"192.0.2.{number}"), (lambda number: ["eva", "EVA"][number % 2])
    statuses = statuses_of_attempts(anonymous, 30, addresses, names)
    assert statuses[:20] == [401] * 20
    assert 429 in statuses[20:]


def test_strangers_cannot_block_known_addresses(anonymous, eva, fast_hashes, monkeypatch):
    known, right = from_address("192.0.2.200"), {"username": "eva", "password": "secret word"}
    assert anonymous.post(LOGIN, right, **known).status_code == 200
    assert 429 in statuses_of_attempts(anonymous, 40, lambda number: f"198.51.100.{number}")
    assert anonymous.post(LOGIN, right, **known).status_code == 200
    stranger = anonymous.post(LOGIN, right, **from_address("192.0.2.201"))
    assert stranger.status_code == 429
    assert int(stranger.headers["Retry-After"]) <= logins.MAX_NAME_DELAY_SECONDS + 1


def test_correct_password_is_not_counted(anonymous, eva, fast_hashes):
    for _ in range(60):
        assert anonymous.post(LOGIN, {"username": "eva", "password": "secret word"}).status_code == 200


@pytest.fixture
def slow_hashes(monkeypatch):
    """Hashes that block until the event is set. The list has the number of running ones at each start."""
    released, running, most = threading.Event(), [], []

    def check(stored, password):
        running.append(1)
        most.append(len(running))
        released.wait(20)
        running.pop()
        return False

    monkeypatch.setattr("polyjob.auth.passwords.check_password_hash", check)
    return released, most


@pytest.mark.parametrize(
    ("count", "name"),
    [(40, lambda number: "eva"), (40, lambda number: f"user{number}")],
    ids=["one name", "many names"],
)
def test_parallel_attempts_cannot_pass_a_limit(app, eva, slow_hashes, count, name):
    released, most = slow_hashes
    statuses = []

    def attempt(number):
        response = Client(app).post(LOGIN, {"username": name(number), "password": "wrong"})
        statuses.append((response.status_code, response.headers.get("Retry-After")))
        if len(statuses) >= count - passwords.MAX_HASHES - passwords.MAX_WAITING_HASHES:
            released.set()
        database.close()

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    refused = [retry for status, retry in statuses if status in (429, 503)]
    assert len(refused) >= count - passwords.MAX_HASHES - passwords.MAX_WAITING_HASHES
    assert all(int(retry) >= 1 for retry in refused)
    assert max(most) <= passwords.MAX_HASHES
