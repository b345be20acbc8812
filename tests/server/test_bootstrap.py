"""What the first start makes, and what no later one makes again."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import stat

import pytest

from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Project, SignInLink, Token, User
from polyjob.server import bootstrap as first
from tests.require import require_root


def test_user_project_and_a_token_whose_hash_alone_is_in_the_database(settings):
    first.first_start(settings)
    root = User.get()
    path = settings.data_dir / "root-token"
    key = path.read_text().strip()
    assert (root.username, root.is_admin, root.is_active) == ("root", True, True)
    assert [(row.name, row.user, row.is_public) for row in Project.select()] == [("quick-start", root, False)]
    assert [(row.name, row.digest) for row in Token.select()] == [("first start", digest(key))]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert key.encode() not in (settings.data_dir / "polyjob.db").read_bytes()


def test_again_it_changes_nothing_and_makes_nothing_that_was_removed(settings):
    first.first_start(settings)
    path = settings.data_dir / "root-token"
    before = path.read_text()
    first.first_start(settings)
    assert path.read_text() == before
    path.unlink()
    with write("test"):
        Project.delete().execute()
    first.first_start(settings)
    assert not path.exists()
    assert (Token.select().count(), Project.select().count()) == (1, 0)


def test_a_crash_in_the_middle_is_healed_by_the_next_start(settings, monkeypatch):
    def crash(*arguments):
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="crash"):
            first.first_start(settings)
    assert User.select().count() == 0
    first.first_start(settings)
    assert first.kept_token(settings.data_dir) is not None
    assert not (settings.data_dir / "root-token.part").exists()


def test_the_kept_token_is_one_that_is_good(settings):
    assert first.kept_token(settings.data_dir) is None
    first.first_start(settings)
    assert first.kept_token(settings.data_dir) == (settings.data_dir / "root-token").read_text().strip()
    with write("test"):
        Token.update(expires_at=now()).execute()
    assert first.kept_token(settings.data_dir) is None
    (settings.data_dir / "root-token").write_bytes(b"\xff")
    assert first.kept_token(settings.data_dir) is None


def test_a_sign_in_link_lives_an_hour_and_old_ones_go(settings):
    assert first.new_sign_in_key() is None
    first.first_start(settings)
    key = first.new_sign_in_key()
    link = SignInLink.get()
    assert (link.digest, link.user.username) == (digest(key), "root")
    assert 3590 < (link.expires_at - now()).total_seconds() <= 3600
    with write("test"):
        SignInLink.update(expires_at=now()).execute()
    other = first.new_sign_in_key()
    assert [row.digest for row in SignInLink.select()] == [digest(other)]


def test_a_folder_becomes_whole_and_private(settings, tmp_path):
    fresh = dataclasses.replace(settings, data_dir=tmp_path / "a" / "new one", public_projects=True)
    first.open_folder(fresh)
    first.open_folder(fresh)
    assert Project.get().is_public
    assert first.kept_token(fresh.data_dir)
    for name in ("polyjob.db", "write.lock", "root-token"):
        assert stat.S_IMODE((fresh.data_dir / name).stat().st_mode) == 0o600, name


def test_an_sqlite_that_is_too_old(settings, monkeypatch):
    first.check(settings)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.9")
    with pytest.raises(RuntimeError, match=r"^SQLite 3\.36\.9 is too old: polyjob needs 3\.37 or newer$"):
        first.open_folder(settings)


def test_a_folder_that_is_none(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(first.UnusableFolder, match="Not a directory"):
        first.open_folder(dataclasses.replace(settings, data_dir=tmp_path / "file" / "data"))


def test_a_database_that_is_none(settings, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "polyjob.db").write_bytes(b"no database at all\n" * 100)
    with pytest.raises(first.UnusableFolder, match="not a database"):
        first.open_folder(dataclasses.replace(settings, data_dir=folder))


def test_a_folder_that_may_not_be_written(settings, tmp_path):
    require_root()  # to be an account that does not own it
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    os.seteuid(65534)
    try:
        with pytest.raises(first.UnusableFolder, match="Permission denied"):
            first.open_folder(dataclasses.replace(settings, data_dir=folder))
    finally:
        os.seteuid(0)
