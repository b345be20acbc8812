"""Prepare a data folder: checks, first user, token and project."""

from __future__ import annotations

import dataclasses
import os
import stat

import pytest

from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Project, SignInLink, Token, User
from polyjob.server.bootstrap import (
    UnusableDataDir,
    create_first_user,
    new_sign_in_token,
    prepare_data_dir,
    startup_warnings,
    stored_token,
)
from tests.require import require_root


def test_first_start_creates_user_project_and_token(settings):
    create_first_user(settings)
    root = User.get()
    path = settings.data_dir / "root-token"
    key = path.read_text().strip()
    assert (root.username, root.is_admin, root.is_active) == ("root", True, True)
    assert [(row.name, row.user, row.is_public) for row in Project.select()] == [("quick-start", root, False)]
    assert [(row.name, row.digest) for row in Token.select()] == [("first start", digest(key))]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert key.encode() not in (settings.data_dir / "polyjob.db").read_bytes()


def test_later_start_creates_nothing_again(settings):
    create_first_user(settings)
    path = settings.data_dir / "root-token"
    before = path.read_text()
    create_first_user(settings)
    assert path.read_text() == before
    path.unlink()
    with write("test"):
        Project.delete().execute()
    create_first_user(settings)
    assert not path.exists()
    assert (Token.select().count(), Project.select().count()) == (1, 0)


def test_interrupted_first_start_is_repeated(settings, monkeypatch):
    def crash(*arguments):
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="crash"):
            create_first_user(settings)
    assert User.select().count() == 0
    create_first_user(settings)
    assert stored_token(settings.data_dir) is not None
    assert not (settings.data_dir / "root-token.part").exists()


def test_stored_token_must_be_valid(settings):
    assert stored_token(settings.data_dir) is None
    create_first_user(settings)
    assert stored_token(settings.data_dir) == (settings.data_dir / "root-token").read_text().strip()
    with write("test"):
        Token.update(expires_at=now()).execute()
    assert stored_token(settings.data_dir) is None
    (settings.data_dir / "root-token").write_bytes(b"\xff")
    assert stored_token(settings.data_dir) is None


def test_sign_in_link_is_valid_for_an_hour(settings):
    assert new_sign_in_token() is None
    create_first_user(settings)
    key = new_sign_in_token()
    link = SignInLink.get()
    assert (link.digest, link.user.username) == (digest(key), "root")
    assert 3590 < (link.expires_at - now()).total_seconds() <= 3600
    with write("test"):
        SignInLink.update(expires_at=now()).execute()
    other = new_sign_in_token()
    assert [row.digest for row in SignInLink.select()] == [digest(other)]


def test_prepared_data_dir_is_private(settings, tmp_path):
    fresh = dataclasses.replace(settings, data_dir=tmp_path / "a" / "new one", public_projects=True)
    prepare_data_dir(fresh)
    prepare_data_dir(fresh)
    assert Project.get().is_public
    assert stored_token(fresh.data_dir)
    for name in ("polyjob.db", "write.lock", "root-token"):
        assert stat.S_IMODE((fresh.data_dir / name).stat().st_mode) == 0o600, name


def test_file_as_data_dir_is_refused(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusableDataDir, match="Not a directory"):
        prepare_data_dir(dataclasses.replace(settings, data_dir=tmp_path / "file" / "data"))


def test_damaged_database_is_refused(settings, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "polyjob.db").write_bytes(b"no database at all\n" * 100)
    with pytest.raises(UnusableDataDir, match="not a database"):
        prepare_data_dir(dataclasses.replace(settings, data_dir=folder))


def test_unwritable_data_dir_is_refused(settings, tmp_path):
    require_root()  # to be an account that does not own it
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    os.seteuid(65534)
    try:
        with pytest.raises(UnusableDataDir, match="Permission denied"):
            prepare_data_dir(dataclasses.replace(settings, data_dir=folder))
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("euid", "runner", "account", "warned"),
    [(0, "process", "", True), (0, "process", "nobody", False), (1000, "process", "", False), (0, "docker", "", False)],
)
def test_jobs_as_root_cause_a_warning(euid, runner, account, warned, settings, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    texts = startup_warnings(dataclasses.replace(settings, runner=runner, job_user=account))
    assert [("POLYJOB_JOB_USER" in text) for text in texts] == [True] * warned
