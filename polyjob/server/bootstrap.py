"""Prepare a data folder for a start: create it, migrate it, create the first user, and create sign-in links."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from peewee import DatabaseError

from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.tokens import digest, new_token
from polyjob.clock import now
from polyjob.db.database import open_database, write
from polyjob.db.migrations import migrate
from polyjob.db.models import Project, Token, User
from polyjob.server.bootstrap_names import PROJECT, TOKEN_FILE, TOKEN_NAME, USER
from polyjob.server.settings_check import check_settings
from polyjob.settings import Settings
from polyjob.storage.durable import durable_file
from polyjob.storage.store import Store, StoreError

DATA_DIR_PATH_LIMIT_BYTES = 493
"""Bytes of the path of a data folder. SQLite has a fixed limit for the path of `polyjob.db`."""


class UnusableDataDir(Exception):
    """The data folder cannot be created, read or written. The text says why in one line."""

    def __init__(self, data_dir: Path, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        size = len(os.fsencode(os.path.realpath(data_dir)))
        if isinstance(error, DatabaseError) and size > DATA_DIR_PATH_LIMIT_BYTES:
            reason = f"its path has {size} bytes, and SQLite takes {DATA_DIR_PATH_LIMIT_BYTES} at most"
        super().__init__(
            error if isinstance(error, StoreError) else f"the data folder {str(data_dir)!a} cannot be used: {reason}"
        )


def startup_warnings(settings: Settings) -> list[str]:
    """Return warnings for whoever starts the server."""
    if os.geteuid() == 0 and "process" in settings.runner_names and not settings.job_user:
        return [
            "Warning: jobs run as root, so anyone who can submit jobs controls this machine. Set POLYJOB_JOB_USER to "
            "another account, for example POLYJOB_JOB_USER=nobody."
        ]
    return []


def prepare_data_dir(settings: Settings) -> None:
    """Create the folders, migrate the database, create the first user, and leave the database open. Idempotent.

    Raises UnusableDataDir, RuntimeError for a database that a newer polyjob wrote, and the errors of `check_settings`.
    """
    check_settings(settings)
    try:
        Store(settings.data_dir).prepare(shared=bool(settings.job_user))
        _make_private(settings.data_dir / "polyjob.db")
        open_database(settings.data_dir)
        migrate(settings.data_dir)
        create_first_user(settings)
    except (OSError, DatabaseError) as error:
        raise UnusableDataDir(settings.data_dir, error) from error


def _make_private(path: Path) -> None:
    """Create an empty file for its owner only, if it is missing. SQLite itself would let everyone read it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def create_first_user(settings: Settings) -> None:
    """Create the user `root`, the project `quick-start` and the token in `<data>/root-token`, if `root` is missing.

    This is one transaction: after a crash, the next start does it again. Objects that are removed later stay removed.
    """
    with write("first-start"):
        if User.select().where(User.username == USER).exists():
            return
        moment = now()
        token = new_token()
        root = User.create(username=USER, is_admin=True, created_at=moment)
        Token.create(user=root, name=TOKEN_NAME, digest=digest(token), created_at=moment)
        Project.create(
            uuid=uuid.uuid4().hex,
            user=root,
            name=PROJECT,
            is_public=settings.public_projects,
            created_at=moment,
            updated_at=moment,
        )
        # Before the commit, because the row has only the digest of the token.
        with durable_file(settings.data_dir / TOKEN_FILE, "first-token") as file:
            file.write(f"{token}\n".encode())


def stored_token(data_dir: Path) -> str | None:
    """Return the token in `<data>/root-token`, or None if the file is missing or its token is not valid any more."""
    try:
        token = (data_dir / TOKEN_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    is_valid = Token.expires_at.is_null() | (Token.expires_at > now())
    return token if Token.select().where(Token.digest == digest(token), is_valid).exists() else None


def new_sign_in_token() -> str | None:
    """Return the token of a new sign-in link for `root`; None if there is no active user of that name."""
    root = User.get_or_none(User.username == USER, User.is_active)
    return create_sign_in_link(root) if root is not None else None
