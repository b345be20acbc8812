"""Check typed passwords and tokens, and slow down repeated failures."""

from __future__ import annotations

from flask import request

from polyjob.addresses import network_of
from polyjob.auth import identity as auth
from polyjob.auth import passwords, users
from polyjob.auth.throttle import Attempt, FailureLimit
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.db.database import write
from polyjob.db.models import Token, User
from polyjob.errors import Forbidden, Problem
from polyjob.services import audit
from polyjob.services.audit import Actor, set_actor

WRONG_CREDENTIALS = "Unable to log in with provided credentials."
MAX_FAILURES_OF_ADDRESS = 50
"""Failures of one address, or IPv6 network of 64 bits, without a delay. Each further one doubles the delay."""
MAX_FAILURES_OF_NAME = 20
"""The same for one username, from all addresses together except those that the user has used before."""
MAX_NAME_DELAY_SECONDS = 15.0
"""The longest delay for a username. It is short, because strangers can cause it."""
_COUNTED_NAME_LENGTH = 200
"""Typed usernames are cut to this length. Usernames are shorter."""

_by_account = FailureLimit()
_by_address = FailureLimit(MAX_FAILURES_OF_ADDRESS)
_by_name = FailureLimit(MAX_FAILURES_OF_NAME, MAX_NAME_DELAY_SECONDS)


class WrongCredentials(auth.Unauthenticated):
    """The username, the password or the token is incorrect."""

    problems = (Problem("", WRONG_CREDENTIALS),)


def check_password(username: str, password: str) -> User:
    """Return the user with this name and password. The audit trail names them as the actor of the request's changes.

    Raises WrongCredentials, Throttled after too many failures, and Unavailable while too many others are checked.
    """
    address, username = request.remote_addr or "", username[:_COUNTED_NAME_LENGTH]
    attempt = _begin_attempt(username, address)
    try:
        user = passwords.user_with_password(username, password)
    except BaseException:
        attempt.cancel()
        raise
    if user is None:
        attempt.fail()
        with write("login"):
            audit.record_failed_login(username, address)
        raise WrongCredentials(WRONG_CREDENTIALS)
    attempt.cancel()
    _by_account.forget(_account_key(username, address))
    set_actor(Actor(user, LOGIN_TOKEN_NAME, address))
    return user


def check_token(text: str) -> tuple[User, Token]:
    """Return the user and the row of a typed token. Raises WrongCredentials, and Throttled after too many failures."""
    attempt = Attempt((_by_address, network_of(request.remote_addr or "")))
    try:
        identity = auth.identity_of_token(text)
    except auth.Unauthenticated:
        raise WrongCredentials("Invalid or expired token.") from None
    attempt.cancel()
    assert identity.token is not None
    return identity.user, identity.token


def set_password(user: User, password: str, *, old: str | None, identity: auth.Identity) -> None:
    """Set the user's password, as `users.set_password` does, on behalf of this identity.

    Also raises Throttled after too many failures with the old password, and Forbidden for a token that expires, because
    the password would outlive it.
    """
    refuse_expiring_token(identity)
    attempt = Attempt((_by_account, _account_key(user.username, request.remote_addr or "")))
    try:
        users.set_password(user, password, old=old, by=identity.user)
    except users.WrongPassword:
        attempt.fail()
        raise
    except BaseException:
        attempt.cancel()
        raise
    attempt.cancel()


def refuse_expiring_token(identity: auth.Identity) -> None:
    """Raise Forbidden for a token that expires, also one that a browser was signed in with. Login tokens pass."""
    token = identity.token
    if token is not None and token.expires_at is not None and token.name != LOGIN_TOKEN_NAME:
        raise Forbidden("A token that expires cannot set a password or create an invite link, which would outlive it.")


def _begin_attempt(username: str, address: str) -> Attempt:
    """Count an attempt in all limits. Raises Throttled.

    The limit by username alone does not apply at addresses that the user has used, so that strangers cannot lock the
    user out there.
    """
    counted = [(_by_account, _account_key(username, address)), (_by_address, network_of(address))]
    if not audit.has_used_address(username, address):
        counted.append((_by_name, username.lower()))
    return Attempt(*counted)


def _account_key(username: str, address: str) -> str:
    return f"{network_of(address)} {username.lower()}"
