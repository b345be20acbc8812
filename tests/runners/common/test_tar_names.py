"""Path rules for the names of tarball members."""

from __future__ import annotations

import pytest

from runners.common.tar_names import path_below


@pytest.mark.parametrize(
    ("name", "strip", "path"),
    [
        ("a/b", 0, "a/b"),
        ("./a//b/", 0, "a/b"),
        ("/etc/passwd", 0, "etc/passwd"),
        ("7/a/b", 1, "a/b"),
        ("./7/a", 1, "a"),
        ("7", 1, None),
        (".", 0, None),
        ("", 0, None),
        ("..", 0, None),
        ("a/../../b", 0, None),
        ("7/../b", 1, None),
        ("a/..b", 0, "a/..b"),
    ],
)
def test_path_is_relative_and_stays_in_its_folder(name: str, strip: int, path: str | None) -> None:
    assert path_below(name, strip) == path
