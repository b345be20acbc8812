"""The encryption of secrets, and its key file."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polyjob.storage.secret_box import KEY_FILE, BadKey, CannotDecrypt, decrypt, encrypt


def test_text_comes_back(tmp_path: Path) -> None:
    encrypted = encrypt(tmp_path, "pässword\n2")
    assert "ssword" not in encrypted
    assert decrypt(tmp_path, encrypted) == "pässword\n2"


def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    encrypt(tmp_path, "password")
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_simultaneous_first_secrets_share_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        encrypted = list(pool.map(lambda number: encrypt(tmp_path, f"password {number}"), range(8)))
    assert [decrypt(tmp_path, text) for text in encrypted] == [f"password {number}" for number in range(8)]


def test_missing_key_is_named(tmp_path: Path) -> None:
    encrypted = encrypt(tmp_path, "password")
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(CannotDecrypt, match=r"the key file .*secrets\.key is missing"):
        decrypt(tmp_path, encrypted)


def test_other_key_is_named(tmp_path: Path) -> None:
    encrypted = encrypt(tmp_path, "password")
    (tmp_path / KEY_FILE).unlink()
    encrypt(tmp_path, "another")
    with pytest.raises(CannotDecrypt, match="another key"):
        decrypt(tmp_path, encrypted)


def test_damaged_key_is_named_and_kept(tmp_path: Path) -> None:
    encrypted = encrypt(tmp_path, "password")
    (tmp_path / KEY_FILE).write_text("nonsense")
    with pytest.raises(CannotDecrypt, match="does not contain a key"):
        decrypt(tmp_path, encrypted)
    with pytest.raises(BadKey):
        encrypt(tmp_path, "another")
    assert (tmp_path / KEY_FILE).read_text() == "nonsense"


def test_cryptography_is_imported_only_for_a_secret() -> None:
    code = "import sys, polyjob.app, polyjob.engine.main; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
