"""Passwords: hashed with scrypt, which takes a good part of a second by intention."""

from __future__ import annotations

import functools
import secrets

from werkzeug.security import check_password_hash, generate_password_hash

from polyjob.models import User


def hash_password(password: str) -> str:
    return generate_password_hash(password, "scrypt")


def is_password_of(user: User | None, password: str) -> bool:
    """Takes as long where there is no user, or one without a password."""
    stored = user.password_hash if user and user.password_hash else _no_ones_hash()
    return check_password_hash(stored, password) and bool(user and user.password_hash)


@functools.cache
def _no_ones_hash() -> str:
    return hash_password(secrets.token_hex())
