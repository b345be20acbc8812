"""Who one is, and how to get a key for a password."""

from __future__ import annotations

from typing import Any

from flask import request

from polyjob import auth
from polyjob.api.blueprint import Blueprint
from polyjob.api.bodies import read_body
from polyjob.api.context import me
from polyjob.api.limits import FailureLimit
from polyjob.errors import Invalid, Problem
from polyjob.models import User
from polyjob.schemas.checks import check_values, load
from polyjob.schemas.users import LoginBody, TokenSchema, UserSchema

WRONG = "Unable to log in with provided credentials."
FREE_TRIES_OF_ADDRESS = 50

blp = Blueprint("users", __name__, description="Users and their keys.")

_by_account = FailureLimit()
_by_address = FailureLimit(FREE_TRIES_OF_ADDRESS)


@blp.get("/users")
@blp.response(200, UserSchema)
def who_am_i() -> User:
    """Get the user whose key is shown"""
    return me()


@blp.post("/users/token")
@blp.takes(LoginBody, required=True)
@blp.open_to_all
@blp.doc(responses={401: "UNAUTHORIZED", 429: "TOO_MANY_REQUESTS"})
@blp.response(200, TokenSchema)
def log_in() -> dict[str, Any]:
    """Get a key, good for 30 days, for a user's name and password; tries that fail slow the next ones down"""
    username, password = _credentials()
    address = request.remote_addr or ""
    account = f"{address} {username}"
    _by_account.check(account)
    _by_address.check(address)
    user = auth.check_password(username, password)
    if user is None:
        _by_account.failed(account)
        _by_address.failed(address)
        raise WrongCredentials(WRONG)
    _by_account.succeeded(account)
    return {"token": auth.new_token(user, "login", auth.LOGIN_LIFE)}


class WrongCredentials(auth.Unauthenticated):
    """Name and password are not one user's."""

    problems = (Problem("", WRONG),)


def _credentials() -> tuple[str, str]:
    body = read_body()
    check_values(body)
    sent = load(LoginBody(), body, "")
    missing = [name for name in ("username", "password") if not sent.get(name)]
    if missing:
        raise Invalid([Problem(f"/{name}", "This field is required.") for name in missing])
    return sent["username"], sent["password"]
