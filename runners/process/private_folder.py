"""The private folder of a job, with the files that exist before its keeper begins. Standard library only.

A keeper server prepares a folder for each idle keeper. So a start only has to give it the job's name, by one rename,
which is much faster than the creation of a folder and three files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from runners.common.durable import replace_file
from runners.process import attempts
from runners.process.job_files import ExitFile


class PrivateFolder:
    """A private folder with a locked attempt, the identity of the keeper, and reserved space for the exit."""

    def __init__(self, path: str, attempt: int, exit_file: int) -> None:
        self.path = path
        self.attempt = attempt
        """Descriptor of the locked attempt."""
        self.exit_file = exit_file
        """Descriptor of the file for the exit."""

    @classmethod
    def prepare(cls, path: str, identity: Mapping[str, Any]) -> PrivateFolder:
        """Create a folder for a job that is not known yet. Raises OSError; then nothing of it is left."""
        os.mkdir(path, 0o700)
        attempt = -1
        try:
            attempt = attempts.create_locked(f"{path}/attempt", identity["boot_id"])
            return cls._complete(path, attempt, identity)
        except OSError:
            _remove(path, attempt)
            os.rmdir(path)
            raise

    @classmethod
    def of_job(cls, path: str, identity: Mapping[str, Any]) -> PrivateFolder | None:
        """Create the folder of a job, or continue with one that no keeper has used.

        Return None if a keeper has or had the job, or if the job is fenced. Raises OSError; then no attempt is left.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        attempt = attempts.begin(f"{path}/attempt", identity["boot_id"])
        if attempt is None:
            return None
        try:
            return cls._complete(path, attempt, identity)
        except OSError:
            _remove(path, attempt)
            raise

    @classmethod
    def _complete(cls, path: str, attempt: int, identity: Mapping[str, Any]) -> PrivateFolder:
        exit_file = ExitFile.reserve(f"{path}/exit.json").file
        try:
            replace_file(f"{path}/keeper.json", json.dumps(identity).encode(), sync=False)
        except OSError:
            os.close(exit_file)
            raise
        return cls(path, attempt, exit_file)

    def give_to(self, path: str) -> bool:
        """Make this the folder of a job. Return False if that is not possible, as when the job has one."""
        try:
            os.rename(self.path, path)
        except OSError:
            return False
        self.path = path
        return True

    def close(self) -> None:
        """Close the files. The lock of the attempt ends, unless a keeper has received it."""
        os.close(self.attempt)
        os.close(self.exit_file)

    def remove(self) -> None:
        """Close the files and remove the folder, as far as possible."""
        _remove(self.path, self.attempt)
        os.close(self.exit_file)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


def remove_private_folder(path: str) -> None:
    """Remove a folder that no job has received, as far as possible."""
    _remove(path, -1)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove(path: str, attempt: int) -> None:
    """Remove the files of a folder, as far as possible: the attempt last, because it prevents another start."""
    for name in ("exit.json.part", "keeper.json.part", "keeper.json", "attempt"):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}/{name}")
    if attempt >= 0:
        os.close(attempt)
