"""Users, keys, links and the table of who may do what."""

from __future__ import annotations

import datetime
import threading

import pytest

from polyjob.auth import identity, users
from polyjob.auth.passwords import user_with_password
from polyjob.auth.sign_in_links import create_sign_in_link, use_sign_in_link
from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Project, SignInLink, Token, User
from polyjob.errors import Forbidden, Invalid, NotFound

PAST = datetime.timedelta(seconds=-1)


class TestUsers:
    def test_a_password_is_kept_as_a_hash_only(self, data_dir):
        made = users.create("eva", "secret word", email="eva@localhost", is_admin=True)
        stored = User.get_by_id(made.id)
        assert "secret" not in stored.password_hash
        assert (stored.email, stored.is_admin) == ("eva@localhost", True)
        assert user_with_password("eva", "secret word") == stored

    def test_what_is_not_the_password_is_nobody(self, data_dir):
        users.create("eva", "secret word")
        users.create("keyless")
        for name, password in [("eva", "Secret word"), ("eva", ""), ("keyless", ""), ("nobody", "secret word")]:
            assert user_with_password(name, password) is None

    def test_one_who_is_not_active_is_nobody(self, data_dir):
        made = users.create("eva", "secret word")
        with write("test"):
            User.update(is_active=False).where(User.id == made.id).execute()
        assert user_with_password("eva", "secret word") is None

    @pytest.mark.parametrize("name", ["", "a b", "a.b", "a@b", "é", "users", "Projects", "static", "x" * 157, "a\n"])
    def test_names_that_would_break_paths_are_refused(self, data_dir, name):
        with pytest.raises(Invalid):
            users.create(name)
        assert User.select().count() == 0

    def test_a_name_is_given_once(self, user):
        with pytest.raises(Invalid):
            users.create(user.username)


class TestTokens:
    def test_only_the_hash_is_stored(self, user):
        key = users.create_token(user, "laptop")[1]
        assert len(key) == 40
        assert int(key, 16)
        row = Token.get()
        assert (row.name, row.digest, row.expires_at) == ("laptop", digest(key), None)
        assert key not in str(list(Token.select().dicts()))

    def test_those_that_have_run_out_go_with_the_next(self, user):
        users.create_token(user, "old", PAST)
        users.create_token(user, "lasting")
        users.create_token(user, "new", datetime.timedelta(days=1))
        assert [token.name for token in Token.select().order_by(Token.id)] == ["lasting", "new"]


class TestLinks:
    def test_signs_in_once(self, user):
        key = create_sign_in_link(user)
        assert use_sign_in_link(key) == user
        assert use_sign_in_link(key) is None

    def test_of_many_at_once_signs_one_in(self, user):
        key, found, barrier = create_sign_in_link(user), [], threading.Barrier(6)

        def race():
            barrier.wait()
            found.append(use_sign_in_link(key))
            database.close()

        threads = [threading.Thread(target=race) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(str(one) for one in found) == ["1", *["None"] * 5]

    def test_not_when_it_is_too_old(self, user):
        key = create_sign_in_link(user)
        with write("test"):
            SignInLink.update(expires_at=now() + PAST).execute()
        assert use_sign_in_link(key) is None

    def test_not_for_one_who_is_not_active(self, user):
        key = create_sign_in_link(user)
        with write("test"):
            User.update(is_active=False).execute()
        assert use_sign_in_link(key) is None

    def test_not_by_a_key_that_is_none(self, user):
        assert use_sign_in_link("x") is None


NOT_THERE, ONLY_READ, WRITE = "not there", "only read", "write"


@pytest.mark.parametrize(
    ("who", "is_public", "rights"),
    [
        ("owner", False, WRITE),
        ("owner", True, WRITE),
        ("admin", False, WRITE),
        ("admin", True, WRITE),
        ("other", False, NOT_THERE),
        ("other", True, ONLY_READ),
        ("nobody", False, None),
        ("nobody", True, None),
    ],
)
def test_who_may_do_what(user, project, who, is_public, rights):
    with write("test"):
        Project.update(is_public=is_public).execute()
    asker = {
        "owner": lambda: user,
        "admin": lambda: users.create("eva", is_admin=True),
        "other": lambda: users.create("bob"),
        "nobody": lambda: None,
    }[who]()

    def find(to_write):
        return identity.find_project(asker, "ana", "demo", to_write=to_write)

    if rights is None:
        for to_write in (False, True):
            with pytest.raises(identity.Unauthenticated):
                find(to_write)
        return
    assert Project.select().where(identity.readable_projects(asker)).exists() is (rights is not NOT_THERE)
    if rights is NOT_THERE:
        for to_write in (False, True):
            with pytest.raises(NotFound):
                find(to_write)
        return
    assert find(False) == project
    if rights is ONLY_READ:
        with pytest.raises(Forbidden):
            find(True)
    else:
        assert find(True) == project


def test_a_project_that_is_not_there_is_not_found(user, project):
    for username, name in [("ana", "other"), ("bob", "demo")]:
        with pytest.raises(NotFound):
            identity.find_project(user, username, name)
