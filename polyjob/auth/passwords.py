"""Hash and check passwords with scrypt, which is slow on purpose: one hash takes a good part of a second."""

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
"""Passwords that wait until they can be hashed."""

_running = threading.BoundedSemaphore(MAX_HASHES)
_admitted = threading.BoundedSemaphore(MAX_HASHES + MAX_WAITING_HASHES)


def hash_password(password: str) -> str:
    """Return the hash of a password. Raises Unavailable while too many others are hashed."""
    with _hash_slot():
        return generate_password_hash(password, "scrypt")


def is_password_of(user: User | None, password: str) -> bool:
    """Return whether the password is the user's.

    Takes as long without a user, or for one without a password. Raises Unavailable while too many others are hashed.
    """
    with _hash_slot():
        stored = user.password_hash if user and user.password_hash else _random_hash()
        return check_password_hash(stored, password) and bool(user and user.password_hash)


def user_with_password(username: str, password: str) -> User | None:
    """Return the active user with this name and password, or None.

    An unknown name takes as long as a wrong password. Raises Unavailable while too many others are hashed.
    """
    user = User.get_or_none(User.username == username, User.is_active)
    return user if is_password_of(user, password) else None


@contextlib.contextmanager
def _hash_slot() -> Iterator[None]:
    if not _admitted.acquire(blocking=False):
        raise Unavailable("The server is checking other passwords; try again in a moment.", 2)
    try:
        with _running:
            yield
    finally:
        _admitted.release()


@functools.cache
def _random_hash() -> str:
    return generate_password_hash(secrets.token_hex(), "scrypt")
