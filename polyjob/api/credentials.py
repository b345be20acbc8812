"""Passwords and keys that people type: checked, and slowed down for whoever tries many."""

from __future__ import annotations

from flask import request

from polyjob import audit, auth, users
from polyjob.api.limits import FailureLimit
from polyjob.audit import Actor, acting
from polyjob.database import write
from polyjob.errors import Problem
from polyjob.models import Token, User
from polyjob.tokens import LOGIN

WRONG = "Unable to log in with provided credentials."
FREE_TRIES_OF_ADDRESS = 50
LONGEST_NAME = 200
"""Characters that are looked at of what somebody says to be called; no user's name has as many."""

_by_account = FailureLimit()
_by_address = FailureLimit(FREE_TRIES_OF_ADDRESS)


class WrongCredentials(auth.Unauthenticated):
    """Name and password are not one user's."""

    problems = (Problem("", WRONG),)


def check_password(username: str, password: str) -> User:
    """The user whose name and password these are, who acts from now on. Raises WrongCredentials, and Throttled where
    this address has tried too often."""
    address, username = _address(), username[:LONGEST_NAME]
    account = f"{address} {username}"
    _by_account.check(account)
    _by_address.check(address)
    user = auth.check_password(username, password)
    if user is None:
        _by_account.failed(account)
        _by_address.failed(address)
        with write("login"):
            audit.record_failed_login(username, address)
        raise WrongCredentials(WRONG)
    _by_account.succeeded(account)
    acting(Actor(user, LOGIN, address))
    return user


def check_key(key: str) -> tuple[User, Token]:
    """Whose key this is, and its row. Raises as `check_password`."""
    address = _address()
    _by_address.check(address)
    try:
        identity = auth.by_key(key)
    except auth.Unauthenticated:
        _by_address.failed(address)
        raise WrongCredentials("This is no key of this server, or one that is not good any more.") from None
    assert identity.token is not None
    return identity.user, identity.token


def set_password(user: User, password: str, *, old: str | None, by: User) -> None:
    """As `users.set_password`; raises Throttled, too, where the old one was tried too often."""
    account = f"{_address()} {user.username}"
    _by_account.check(account)
    try:
        users.set_password(user, password, old=old, by=by)
    except users.WrongPassword:
        _by_account.failed(account)
        raise


def _address() -> str:
    return request.remote_addr or ""
