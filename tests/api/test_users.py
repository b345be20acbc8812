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


def test_whoami(client, admin):
    assert client.get("/api/v1/users/").json == {"username": "ana", "email": None, "is_superuser": False}
    assert admin.get("/api/v1/users/").json["is_superuser"] is True


@pytest.mark.parametrize("form", [True, False])
def test_login_token_is_valid_for_a_month(nobody, eva, form):
    sent = {"username": "eva", "password": "secret word"}
    answer = nobody.post(LOGIN, data=sent) if form else nobody.post(LOGIN, sent)
    assert answer.status_code == 200
    key = answer.json["token"]
    headers = {"Authorization": f"token {key}"}
    assert nobody.get("/api/v1/users", headers=headers).json["email"] == "eva@localhost"
    life = Token.get(Token.user == eva).expires_at - now()
    assert datetime.timedelta(days=29) < life <= datetime.timedelta(days=30)


def test_login_ignores_an_invalid_token(nobody, eva):
    answer = nobody.post(LOGIN, {"username": "eva", "password": "secret word"}, headers={"Authorization": "token None"})
    assert answer.status_code == 200


class TestLoginWithCookie:
    """`login` in the body: the response also signs the browser in."""

    SENT = {"username": "eva", "password": "secret word", "login": True}
    ORIGIN = {"Origin": "http://localhost"}

    @pytest.fixture
    def signed_in(self, nobody, eva):
        answer = nobody.post(LOGIN, self.SENT, headers=self.ORIGIN)
        assert answer.status_code == 200
        nobody.csrf = answer.json["csrf_token"]
        return nobody

    @pytest.mark.parametrize(
        "sent", [{"json": SENT}, {"data": SENT | {"login": "true"}}, {"data": SENT | {"login": 1}}]
    )
    def test_cookie_can_read(self, nobody, eva, sent):
        answer = nobody.post(LOGIN, **sent)
        assert answer.json.keys() == {"token", "csrf_token"}
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        assert nobody.get("/api/v1/users").json["username"] == "eva"

    @pytest.mark.parametrize("login", [{}, {"login": False}, {"login": None}, {"login": "false"}])
    def test_no_cookie_without_login(self, nobody, eva, login):
        answer = nobody.post(LOGIN, self.SENT | {"login": False} | login)
        assert answer.json.keys() == {"token"}
        assert "Set-Cookie" not in answer.headers

    def test_wrong_password_sets_no_cookie(self, nobody, eva):
        answer = nobody.post(LOGIN, self.SENT | {"password": "wrong"})
        assert answer.status_code == 401
        assert "Set-Cookie" not in answer.headers

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:81"])
    def test_page_of_another_server_cannot_sign_in(self, nobody, eva, origin):
        answer = nobody.post(LOGIN, self.SENT, headers={"Origin": origin})
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers
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
def test_wrong_credentials_are_refused(nobody, eva, username, password):
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
def test_missing_fields_are_named(nobody, eva, sent, expected):
    assert pointers(nobody.post(LOGIN, sent)) == expected


def test_failures_delay_further_attempts(nobody, eva):
    for _ in range(5):
        assert nobody.post(LOGIN, {"username": "eva", "password": "wrong"}).status_code == 401
    answer = nobody.post(LOGIN, {"username": "eva", "password": "secret word"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "throttled" in answer.json["detail"]
    assert Token.select().where(Token.user == eva).count() == 0


def from_address(address):
    return {"environ_overrides": {"REMOTE_ADDR": address}}


def statuses_of_attempts(nobody, count, address=lambda number: "192.0.2.1", name=lambda number: "eva"):
    return [
        nobody.post(LOGIN, {"username": name(number), "password": "wrong"}, **from_address(address(number))).status_code
        for number in range(count)
    ]


@pytest.fixture
def fast_hashes(monkeypatch):
    """Make hashing of passwords instantaneous."""
    monkeypatch.setattr(
        "polyjob.auth.passwords.check_password_hash", lambda stored, password: password == "secret word"
    )


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::%x"])
def test_failures_of_one_network_are_counted_over_all_names(address, nobody, eva, fast_hashes):
    def address_of(number):
        return address % number if "%" in address else address

    found = statuses_of_attempts(nobody, 60, address_of, lambda number: f"user{number}")
    assert found[:50] == [401] * 50
    assert 429 in found[50:]


def test_failures_of_one_name_are_counted_over_all_addresses(nobody, eva, fast_hashes):
    addresses, names = (lambda number: f"192.0.2.{number}"), (lambda number: ["eva", "EVA"][number % 2])
    found = statuses_of_attempts(nobody, 30, addresses, names)
    assert found[:20] == [401] * 20
    assert 429 in found[20:]


def test_strangers_cannot_block_known_addresses(nobody, eva, fast_hashes, monkeypatch):
    known, right = from_address("192.0.2.200"), {"username": "eva", "password": "secret word"}
    assert nobody.post(LOGIN, right, **known).status_code == 200
    assert 429 in statuses_of_attempts(nobody, 40, lambda number: f"198.51.100.{number}")
    assert nobody.post(LOGIN, right, **known).status_code == 200
    stranger = nobody.post(LOGIN, right, **from_address("192.0.2.201"))
    assert stranger.status_code == 429
    assert int(stranger.headers["Retry-After"]) <= logins.MAX_NAME_DELAY_SECONDS + 1


def test_correct_password_is_not_counted(nobody, eva, fast_hashes):
    for _ in range(60):
        assert nobody.post(LOGIN, {"username": "eva", "password": "secret word"}).status_code == 200


@pytest.fixture
def slow_hashes(monkeypatch):
    """Hashes that take until the event is set; the second value counts those that run."""
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
    found = []

    def attempt(number):
        answer = Client(app).post(LOGIN, {"username": name(number), "password": "wrong"})
        found.append((answer.status_code, answer.headers.get("Retry-After")))
        if len(found) >= count - passwords.MAX_HASHES - passwords.MAX_WAITING_HASHES:
            released.set()
        database.close()

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    refused = [retry for status, retry in found if status in (429, 503)]
    assert len(refused) >= count - passwords.MAX_HASHES - passwords.MAX_WAITING_HASHES
    assert all(int(retry) >= 1 for retry in refused)
    assert max(most) <= passwords.MAX_HASHES
