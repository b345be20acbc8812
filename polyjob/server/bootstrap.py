"""What an empty data folder becomes on the first start, and the sign-in link of every start."""

from __future__ import annotations

import contextlib
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
from polyjob.settings import SettingError, Settings
from polyjob.storage.store import Store, StoreError
from runners import RUNNERS

OLDEST_SQLITE = (3, 37, 0)
LONGEST_FOLDER = 493
"""Bytes of a path below which SQLite still opens `polyjob.db`; a fixed limit of its own."""
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
LOG_LEVELS = ("debug", "info", "warning", "error")


class UnusableFolder(Exception):
    """The data folder cannot be made, read or written; the text says why, in one line."""

    def __init__(self, data_dir: Path, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        size = len(os.fsencode(os.path.realpath(data_dir)))
        if isinstance(error, DatabaseError) and size > LONGEST_FOLDER:
            reason = f"its path has {size} bytes, and SQLite takes {LONGEST_FOLDER} at most"
        super().__init__(
            error if isinstance(error, StoreError) else f"the data folder {str(data_dir)!a} cannot be used: {reason}"
        )


def warnings(settings: Settings) -> list[str]:
    """What whoever starts the server should know of it."""
    if os.geteuid() == 0 and settings.runner == "process" and not settings.job_user:
        return [
            "warning: jobs run as root, so anyone who can submit jobs controls this machine. Set POLYJOB_JOB_USER to "
            "an account for them."
        ]
    return []


def check(settings: Settings) -> None:
    """Find, before anything is touched, what would let every start fail.

    Raises SettingError for a setting that names what does not exist, RuntimeError for an SQLite that is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE[:2]))
        raise RuntimeError(f"SQLite {sqlite3.sqlite_version} is too old: polyjob needs {wanted} or newer")
    if _CONTROL.search(os.fsencode(settings.data_dir)):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a control character"
        )
    if settings.runner == "process" and os.pathsep in str(settings.data_dir):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a `{os.pathsep}`, which would "
            "split the PATH of builds; choose a folder without one"
        )
    if settings.runner not in RUNNERS:
        names = ", ".join(name for name in RUNNERS if name != "fake")
        raise SettingError(f"POLYJOB_RUNNER={settings.runner!r} is not valid: expected one of: {names}")
    if settings.log_level.lower() not in LOG_LEVELS:
        names = ", ".join(LOG_LEVELS)
        raise SettingError(f"POLYJOB_LOG_LEVEL={settings.log_level!r} is not valid: expected one of: {names}")


def open_folder(settings: Settings) -> None:
    """Make the data folder whole: its folders, its database at the latest schema, its first user. Idempotent.

    The database is open afterwards. Raises UnusableFolder, RuntimeError for a database that a newer polyjob wrote, and
    whatever `check` does.
    """
    check(settings)
    try:
        Store(settings.data_dir).prepare(shared=bool(settings.job_user))
        _make_private(settings.data_dir / "polyjob.db")
        open_database(settings.data_dir)
        migrate(settings.data_dir)
        first_start(settings)
    except (OSError, DatabaseError) as error:
        raise UnusableFolder(settings.data_dir, error) from error


def _make_private(path: Path) -> None:
    """Make the file, empty and for its owner alone, if it is not there: SQLite by itself lets everybody read."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def first_start(settings: Settings) -> None:
    """Make user `root`, project `quick-start` and the token in `<data>/root-token`, if `root` is not there yet.

    All or nothing: after a crash the next start begins anew. What is removed later is never made again.
    """
    with write("first-start"):
        if User.select().where(User.username == USER).exists():
            return
        moment = now()
        key = new_token()
        root = User.create(username=USER, is_admin=True, created_at=moment)
        Token.create(user=root, name=TOKEN_NAME, digest=digest(key), created_at=moment)
        Project.create(
            uuid=uuid.uuid4().hex,
            user=root,
            name=PROJECT,
            is_public=settings.public_projects,
            created_at=moment,
            updated_at=moment,
        )
        _write_private(settings.data_dir / TOKEN_FILE, f"{key}\n")  # before the commit: a token in rows only is lost


def _write_private(path: Path, text: str) -> None:
    """The whole file or none, readable by its owner alone, and on disk on return."""
    part = path.with_name(f"{path.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, text.encode())
        os.fsync(file)
    finally:
        os.close(file)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept_token(data_dir: Path) -> str | None:
    """The token in `<data>/root-token`; None where the file is gone or its token is no longer good."""
    try:
        key = (data_dir / TOKEN_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    good = Token.expires_at.is_null() | (Token.expires_at > now())
    return key if Token.select().where(Token.digest == digest(key), good).exists() else None


def new_sign_in_key() -> str | None:
    """Return the token of a new sign-in link for `root`; None if there is no active user of that name."""
    root = User.get_or_none(User.username == USER, User.is_active)
    return create_sign_in_link(root) if root is not None else None
