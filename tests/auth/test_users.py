"""Users, their passwords and their tokens."""

from __future__ import annotations

import datetime

import pytest

from polyjob.auth import users
from polyjob.auth.passwords import user_with_password
from polyjob.auth.tokens import digest
from polyjob.db.database import write
from polyjob.db.models import Token, User
from polyjob.errors import Invalid

PAST = datetime.timedelta(seconds=-1)


def test_password_is_stored_as_a_hash(data_dir):
    user = users.create("eva", "secret word", email="eva@localhost", is_admin=True)
    stored = User.get_by_id(user.id)
    assert "secret" not in stored.password_hash
    assert (stored.email, stored.is_admin) == ("eva@localhost", True)
    assert user_with_password("eva", "secret word") == stored


def test_wrong_password_matches_no_user(data_dir):
    users.create("eva", "secret word")
    users.create("keyless")
    for name, password in [("eva", "Secret word"), ("eva", ""), ("keyless", ""), ("nobody", "secret word")]:
        assert user_with_password(name, password) is None


def test_inactive_user_has_no_valid_password(data_dir):
    user = users.create("eva", "secret word")
    with write("test"):
        User.update(is_active=False).where(User.id == user.id).execute()
    assert user_with_password("eva", "secret word") is None


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a@b", "é", "users", "Projects", "static", "x" * 157, "a\n"])
def test_invalid_usernames_are_refused(data_dir, name):
    with pytest.raises(Invalid):
        users.create(name)
    assert User.select().count() == 0


def test_username_is_unique(user):
    with pytest.raises(Invalid):
        users.create(user.username)


def test_token_is_stored_as_a_hash(user):
    key = users.create_token(user, "laptop")[1]
    assert len(key) == 40
    assert int(key, 16)
    row = Token.get()
    assert (row.name, row.digest, row.expires_at) == ("laptop", digest(key), None)
    assert key not in str(list(Token.select().dicts()))


def test_expired_tokens_are_deleted_with_the_next_one(user):
    users.create_token(user, "old", PAST)
    users.create_token(user, "lasting")
    users.create_token(user, "new", datetime.timedelta(days=1))
    assert [token.name for token in Token.select().order_by(Token.id)] == ["lasting", "new"]
