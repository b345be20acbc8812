"""Volumes: the folders and claims that the administrator offers to jobs.

This module uses the standard library only, because polyjob's settings import it.
"""

from __future__ import annotations

from dataclasses import dataclass

CLAIM_PREFIX = "claim:"
READ_ONLY, READ_WRITE = "ro", "rw"
MOUNT_FOLDER = "/volumes"
"""Folder of a container in which each volume of its job has a folder of its own."""


@dataclass(frozen=True)
class Volume:
    """A folder, or a persistent volume claim of a cluster, that jobs can use by its name."""

    name: str
    source: str
    """Absolute path of the folder on the machine of the backend, or the name of the claim."""
    is_read_only: bool = True
    is_claim: bool = False

    @property
    def mount_path(self) -> str:
        """Path of the volume in a container."""
        return f"{MOUNT_FOLDER}/{self.name}"

    def __str__(self) -> str:
        """Return the volume as in the setting, such as `data=/srv/data:ro`."""
        prefix = CLAIM_PREFIX if self.is_claim else ""
        return f"{self.name}={prefix}{self.source}:{READ_ONLY if self.is_read_only else READ_WRITE}"
