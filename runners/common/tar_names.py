"""Path rules for the names of tarball members.

Standard library only: the keeper server loads this module as well, see `runners.process.launch`.
"""

from __future__ import annotations


def path_below(name: str, strip: int) -> str | None:
    """Return the relative path of a member without its `strip` topmost folders.

    None if nothing is left, or if a part is `..`. Empty parts and `.` are dropped, so the path is never absolute.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts[strip:]) or None
