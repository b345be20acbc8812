"""Volumes of jobs: the mounts of their containers, and folders that are missing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import docker

from runners.base import JobSpec
from runners.volumes import Volume

MOUNTS_PATH = "/proc/self/mountinfo"
MISSING_SOURCE = "bind source path does not exist"
"""Text in the Engine's answer if the folder of a mount is missing. The path follows."""


def volume_mounts(spec: JobSpec, shares_files: bool) -> list[Any]:
    """Return the mounts of a job's volumes. For the older option `Binds`, the Engine would create a missing folder.

    `shares_files` means that this machine is the Engine's. Podman, and Docker before 25, leave file systems writable
    that are mounted below a read-only folder. So each of these gets a read-only mount of its own.
    """
    mounts = []
    for volume in spec.volumes:
        mounts.append(_mount(volume.mount_path, volume.source, volume.is_read_only))
        if volume.is_read_only and shares_files:
            folder = os.path.realpath(volume.source)
            for path in nested_mount_points(folder):
                mounts.append(_mount(f"{volume.mount_path}/{os.path.relpath(path, folder)}", path, True))
    return mounts


def _mount(target: str, source: str, is_read_only: bool) -> Any:
    return docker.types.Mount(target, source, type="bind", read_only=is_read_only)


def nested_mount_points(folder: str) -> Iterator[str]:
    """Yield the folders and files below a folder at which something is mounted, each once, outer ones first."""
    prefix = os.fsencode(folder.rstrip("/") + "/")
    with open(MOUNTS_PATH, "rb") as file:
        points = {_unescape(line.split()[4]) for line in file}
    yield from map(os.fsdecode, sorted(point for point in points if point.startswith(prefix)))


def _unescape(point: bytes) -> bytes:
    """Replace the octal numbers by which the kernel writes blanks and backslashes."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), point)


def missing_volume(spec: JobSpec, refusal: str) -> str | None:
    """Return a sentence if the Engine has refused a job because the folder of a volume is missing, else None."""
    volumes = spec.volumes if MISSING_SOURCE in refusal else ()
    return next((_missing_text(volume) for volume in volumes if refusal.endswith(volume.source)), None)


def missing_volume_here(spec: JobSpec) -> str | None:
    """Return a sentence if the folder of a volume is missing on this machine, else None.

    Podman does not refuse such a folder. It creates it.
    """
    for volume in spec.volumes:
        try:
            if not stat.S_ISDIR(os.stat(volume.source).st_mode):
                return _missing_text(volume)
        except (FileNotFoundError, NotADirectoryError):
            return _missing_text(volume)
        except OSError:  # the Engine may be able to use it
            continue
    return None


def _missing_text(volume: Volume) -> str:
    return f"The volume `{volume.name}` cannot be used: the Docker Engine has no folder {volume.source}"
