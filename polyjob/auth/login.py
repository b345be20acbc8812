"""Passwords and keys that people type: checked, and slowed down for whoever tries many."""

from __future__ import annotations

from flask import request

from polyjob.addresses import network_of
from polyjob.auth import identity as auth
from polyjob.auth import passwords, users
from polyjob.auth.throttle import Attempt, FailureLimit
from polyjob.auth.tokens import LOGIN
from polyjob.db.database import write
from polyjob.db.models import Token, User
from polyjob.errors import Forbidden, Problem
from polyjob.services import audit
from polyjob.services.audit import Actor, set_actor

WRONG = "Unable to log in with provided credentials."
MAX_FAILURES_OF_ADDRESS = 50
"""Failed tries of one address, or IPv6 network of 64 bits, that are free; each further one waits twice as long."""
MAX_FAILURES_OF_NAME = 20
"""The same for one user name, from all addresses together, but for those that the user has used before."""
LONGEST_WAIT_FOR_NAME = 15.0
"""Seconds. Short, since strangers can cause it."""
LONGEST_NAME = 200
"""Characters that are looked at of what somebody says to be called; no user's name has as many."""

_by_account = FailureLimit()
_by_address = FailureLimit(MAX_FAILURES_OF_ADDRESS)
_by_name = FailureLimit(MAX_FAILURES_OF_NAME, LONGEST_WAIT_FOR_NAME)


class WrongCredentials(auth.Unauthenticated):
    """Name and password are not one user's."""

    problems = (Problem("", WRONG),)


def check_password(username: str, password: str) -> User:
    """Return the user whose name and password these are, who acts from now on.

    Raises WrongCredentials, Throttled where there were too many tries, and Unavailable while others are checked.
    """
    address, username = request.remote_addr or "", username[:LONGEST_NAME]
    attempt = _begin(username, address)
    try:
        user = passwords.user_with_password(username, password)
    except BaseException:
        attempt.take_back()
        raise
    if user is None:
        attempt.fail()
        with write("login"):
            audit.record_failed_login(username, address)
        raise WrongCredentials(WRONG)
    attempt.take_back()
    _by_account.forget(_account(username, address))
    set_actor(Actor(user, LOGIN, address))
    return user


def check_token(key: str) -> tuple[User, Token]:
    """Return the key's user and row. Raises as `check_password`."""
    attempt = Attempt((_by_address, network_of(request.remote_addr or "")))
    try:
        identity = auth.identity_of_token(key)
    except auth.Unauthenticated:
        raise WrongCredentials("This is no key of this server, or one that is not good any more.") from None
    attempt.take_back()
    assert identity.token is not None
    return identity.user, identity.token


def set_password(user: User, password: str, *, old: str | None, identity: auth.Identity) -> None:
    """As `users.set_password`, by who asks.

    Raises Throttled, too, where the old one was tried too often, and Forbidden for a key that expires: the password
    would outlive it.
    """
    refuse_expiring_token(identity)
    attempt = Attempt((_by_account, _account(user.username, request.remote_addr or "")))
    try:
        users.set_password(user, password, old=old, by=identity.user)
    except users.WrongPassword:
        attempt.fail()
        raise
    except BaseException:
        attempt.take_back()
        raise
    attempt.take_back()


def refuse_expiring_token(identity: auth.Identity) -> None:
    """Raises Forbidden where who asks shows a key that expires, or signed in by one. Keys got for a password may."""
    token = identity.token
    if token is not None and token.expires_at is not None and token.name != LOGIN:
        raise Forbidden("A key that expires sets no password, which would outlive it.")


def _begin(username: str, address: str) -> Attempt:
    """Count a try. The limit of the name alone spares addresses that the user has used: strangers cannot lock the user
    out there."""
    counted = [(_by_account, _account(username, address)), (_by_address, network_of(address))]
    if not audit.has_used_address(username, address):
        counted.append((_by_name, username.lower()))
    return Attempt(*counted)


def _account(username: str, address: str) -> str:
    return f"{network_of(address)} {username.lower()}"
