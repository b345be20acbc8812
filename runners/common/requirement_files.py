"""The requirement files of an upload: the only files of it that build steps can read."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from runners.base import BuildFailed, BuildSpec

MAX_REQUIREMENT_FILE_BYTES = 16 << 20


class RequirementFile(NamedTuple):
    name: str
    """Path relative to the working folder of the build steps."""
    content: bytes
    mode: int
    """0o755 for an executable file, else 0o644."""


def read_requirement_files(spec: BuildSpec) -> Iterator[RequirementFile]:
    """Yield the requirement files of a build, one at a time.

    Raises BuildFailed if one is too large, or if the upload cannot be read.
    """
    if not spec.requirement_files or spec.upload is None:
        return
    try:
        with tarfile.open(spec.upload, "r:gz") as tarball:
            for member in tarball:
                name = member.name.removeprefix("./")
                if name not in spec.requirement_files or not member.isreg():
                    continue
                if member.size > MAX_REQUIREMENT_FILE_BYTES:
                    limit = MAX_REQUIREMENT_FILE_BYTES >> 20
                    raise BuildFailed(f"`{name}` is larger than {limit} MiB")
                file = tarball.extractfile(member)
                assert file is not None  # it is a regular file
                yield RequirementFile(name, file.read(), 0o755 if member.mode & 0o111 else 0o644)
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise BuildFailed(f"the upload cannot be read: {error}") from error
