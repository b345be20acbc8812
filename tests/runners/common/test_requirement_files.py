"""The requirement files of an upload."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.base import BuildFailed, BuildSpec
from runners.common import requirement_files
from runners.common.requirement_files import read_requirement_files
from tests.runners.harness import archive


def spec(upload: str | None, *names: str) -> BuildSpec:
    return BuildSpec(
        uuid="a" * 32, installation="b" * 32, folder="/x", key="c" * 64, image=None, build_steps=(), env={},
        nocache=False, upload=upload, requirement_files=names,
    )  # fmt: skip


def test_only_named_files_are_read_with_their_mode(tmp_path: Path) -> None:
    upload = archive(
        tmp_path / "upload.tar.gz",
        ("./requirements.txt", "six"),
        ("deep/setup.sh", {"text": "true", "mode": 0o740}),
        ("secret.py", "secret"),
        ("link.txt", {"link": "secret.py"}),
    )
    files = list(read_requirement_files(spec(upload, "requirements.txt", "deep/setup.sh", "link.txt", "none.txt")))
    assert files == [("requirements.txt", b"six", 0o644), ("deep/setup.sh", b"true", 0o755)]


def test_build_without_upload_has_no_requirement_files() -> None:
    assert list(read_requirement_files(spec(None, "requirements.txt"))) == []


def test_too_large_file_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirement_files, "MAX_REQUIREMENT_FILE_BYTES", 3)
    upload = archive(tmp_path / "upload.tar.gz", ("requirements.txt", "six-"))
    with pytest.raises(BuildFailed, match=r"`requirements\.txt` is larger than"):
        list(read_requirement_files(spec(upload, "requirements.txt")))


def test_unreadable_upload_fails_the_build(tmp_path: Path) -> None:
    broken = tmp_path / "upload.tar.gz"
    broken.write_bytes(b"nonsense")
    for path in (broken, tmp_path / "missing.tar.gz"):
        with pytest.raises(BuildFailed, match="upload cannot be read"):
            list(read_requirement_files(spec(str(path), "requirements.txt")))
