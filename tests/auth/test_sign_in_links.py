"""Sign-in links."""

from __future__ import annotations

import datetime
import threading

from polyjob.auth.sign_in_links import create_sign_in_link, use_sign_in_link
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import SignInLink, User

PAST = datetime.timedelta(seconds=-1)


def test_link_signs_in_once(user):
    key = create_sign_in_link(user)
    assert use_sign_in_link(key) == user
    assert use_sign_in_link(key) is None


def test_concurrent_uses_sign_in_once(user):
    key, results, barrier = create_sign_in_link(user), [], threading.Barrier(6)

    def race():
        barrier.wait()
        results.append(use_sign_in_link(key))
        database.close()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(str(one) for one in results) == ["1", *["None"] * 5]


def test_expired_link_does_not_sign_in(user):
    key = create_sign_in_link(user)
    with write("test"):
        SignInLink.update(expires_at=now() + PAST).execute()
    assert use_sign_in_link(key) is None


def test_inactive_user_is_not_signed_in(user):
    key = create_sign_in_link(user)
    with write("test"):
        User.update(is_active=False).execute()
    assert use_sign_in_link(key) is None


def test_unknown_link_does_not_sign_in(user):
    assert use_sign_in_link("x") is None
