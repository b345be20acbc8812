"""Prepare a data folder for a start: check the settings, create the first user, and create sign-in links."""

from __future__ import annotations

import os
import re
import sqlite3
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
from polyjob.setting_values import SlotsByRunner
from polyjob.settings import SettingError, Settings
from polyjob.storage.durable import durable_file
from polyjob.storage.store import Store, StoreError
from runners.registry import RUNNERS, UnusableRunner, check_entry_points, runner_class, runner_names

MIN_SQLITE_VERSION = (3, 37, 0)
DATA_DIR_PATH_LIMIT_BYTES = 493
"""Bytes of the path of a data folder. SQLite has a fixed limit for the path of `polyjob.db`."""
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
LOG_LEVELS = ("debug", "info", "warning", "error")


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
            "another account."
        ]
    return []


def check_settings(settings: Settings) -> None:
    """Check for everything that would make every start fail, before anything is changed.

    Raises SettingError for an invalid setting, and RuntimeError for an SQLite that is too old.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        oldest = ".".join(map(str, MIN_SQLITE_VERSION[:2]))
        raise RuntimeError(f"SQLite {sqlite3.sqlite_version} is too old: polyjob needs {oldest} or newer")
    if _CONTROL.search(os.fsencode(settings.data_dir)):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a control character"
        )
    if "process" in settings.runner_names and os.pathsep in str(settings.data_dir):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a `{os.pathsep}`, which would "
            "split the PATH of builds; choose a folder without one"
        )
    _check_runners(settings)
    if settings.log_level.lower() not in LOG_LEVELS:
        names = ", ".join(LOG_LEVELS)
        raise SettingError(f"POLYJOB_LOG_LEVEL={settings.log_level!r} is not valid: expected one of: {names}")


def _check_runners(settings: Settings) -> None:
    """Check that all listed runners are installed, and that those of other packages can be used.

    Whether the SDKs of polyjob's own runners are installed is not checked: the engine reports that, and tries again.
    """
    installed = runner_names()
    names = ", ".join(name for name in installed if name != "fake")
    unknown = [name for name in settings.runner_names if name not in installed]
    if unknown and settings.runners:
        raise SettingError(
            f"POLYJOB_RUNNERS={' '.join(settings.runners)!r} is not valid: there is no runner {unknown[0]!r}; "
            f"expected some of: {names}"
        )
    if unknown:
        raise SettingError(f"POLYJOB_RUNNER={settings.runner!r} is not valid: expected one of: {names}")
    if isinstance(settings.slots, SlotsByRunner):
        for name, _ in settings.slots.numbers:
            if name not in installed:
                raise SettingError(
                    f"POLYJOB_SLOTS={str(settings.slots)!r} is not valid: there is no runner {name!r}; "
                    f"expected some of: {names}"
                )
    try:
        check_entry_points()
        for name in settings.runner_names:
            if name not in RUNNERS:
                runner_class(name)
    except UnusableRunner as error:
        raise SettingError(str(error)) from error


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
