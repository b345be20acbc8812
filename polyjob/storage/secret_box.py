"""Encrypt the secrets of jobs with a key that is a file of its own beside the database.

`cryptography` is imported only when a secret is stored or used: it takes a few MiB of memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from polyjob.storage.durable import durable_file

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_FILE = "secrets.key"


class CannotDecrypt(Exception):
    """A secret cannot be decrypted. The text gives the cause as a clause, without any part of a secret."""


class BadKey(Exception):
    """The key file is unusable. The text is a sentence."""


def encrypt(data_dir: Path, text: str) -> str:
    """Return the encrypted text. The first call creates the key file, synced. Raises BadKey, OSError."""
    path = data_dir / KEY_FILE
    with _locked(data_dir):
        if not path.exists():
            with durable_file(path, "secret-key") as file:
                file.write(_new_key())
    return _fernet(path).encrypt(text.encode()).decode()


def decrypt(data_dir: Path, encrypted: str) -> str:
    """Return the text that `encrypt` has encrypted. Raises CannotDecrypt, OSError."""
    from cryptography.fernet import InvalidToken

    path = data_dir / KEY_FILE
    try:
        return _fernet(path).decrypt(encrypted.encode()).decode()
    except FileNotFoundError:
        raise CannotDecrypt(f"the key file {path} is missing") from None
    except BadKey as error:
        raise CannotDecrypt(str(error)) from None
    except InvalidToken:
        raise CannotDecrypt(f"it was encrypted with another key than that in {path}") from None


def _new_key() -> bytes:
    from cryptography.fernet import Fernet

    return Fernet.generate_key()


def _fernet(path: Path) -> Fernet:
    from cryptography.fernet import Fernet

    try:
        return Fernet(path.read_bytes().strip())
    except ValueError:
        raise BadKey(f"the file {path} does not contain a key") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other threads and processes from creating the key meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
