"""Passwords: hashed with scrypt, which takes a good part of a second by intention."""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
from collections.abc import Iterator

from werkzeug.security import check_password_hash, generate_password_hash

from polyjob.db.models import User
from polyjob.errors import Unavailable

MAX_HASHES = 2
"""Passwords that one process hashes at once: each takes a core and 32 MiB."""
MAX_WAITING_HASHES = 4
"""Further ones that wait for their turn."""

_running = threading.BoundedSemaphore(MAX_HASHES)
_admitted = threading.BoundedSemaphore(MAX_HASHES + MAX_WAITING_HASHES)


def hash_password(password: str) -> str:
    """Raises Unavailable while too many others are hashed."""
    with _turn():
        return generate_password_hash(password, "scrypt")


def is_password_of(user: User | None, password: str) -> bool:
    """Takes as long where there is no user, or one without a password. Raises as `hash_password`."""
    with _turn():
        stored = user.password_hash if user and user.password_hash else _no_ones_hash()
        return check_password_hash(stored, password) and bool(user and user.password_hash)


def user_with_password(username: str, password: str) -> User | None:
    """Return the active user with this name and password. An unknown name takes as long as a wrong password."""
    user = User.get_or_none(User.username == username, User.is_active)
    return user if is_password_of(user, password) else None


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    if not _admitted.acquire(blocking=False):
        raise Unavailable("The server is checking other passwords; try again in a moment.", 2)
    try:
        with _running:
            yield
    finally:
        _admitted.release()


@functools.cache
def _no_ones_hash() -> str:
    return generate_password_hash(secrets.token_hex(), "scrypt")
