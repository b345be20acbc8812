"""Files that are replaced as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runners.common.durable import replace_file, write_all


def test_content_is_synced_before_the_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    synced: list[tuple[str, bool]] = []

    def sync(file: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{file}"), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    replace_file(path, b"content")
    assert synced == [(f"{path}.part", False), (str(tmp_path), True)]
    assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def write(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, b"new", sync=False)
    assert path.read_bytes() == b"old"


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), b"ten letters")
    assert (tmp_path / "file").read_bytes() == b"ten letters"
