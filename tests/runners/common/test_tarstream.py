"""Archives on their way into a container: every gzip member is read, and any user can work with what is unpacked."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from runners.common.tar_names import path_below
from runners.common.tarstream import END_OF_TARBALL, build_context, files_for_job, gunzip, rename_members
from tests.runners.harness import archive


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def in_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def unpacked(upload: str | None = None, inputs: str | None = None) -> dict[str, tarfile.TarInfo]:
    chunks = files_for_job(
        SimpleNamespace(upload=upload, inputs=inputs, job_outputs=()),
        ("/out",),
        upload_folder="/code",
        outputs_folder="/out",
        inputs_folder="/in",
    )
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks) + END_OF_TARBALL)) as tarball:
        return {member.name: member for member in tarball}


@pytest.mark.parametrize("size", [1, 1000, 1 << 16, 1 << 22])
@pytest.mark.parametrize("padding", [b"", b"\0", bytes(100_000)])
def test_all_gzip_members_are_read(size: int, padding: bytes) -> None:
    contents = [b"first", b"", noise(200_000 if size > 1 else 500), b"last"]
    packed = b"".join(map(gzip.compress, contents)) + padding[: 10 if size == 1 else None]
    assert b"".join(gunzip(in_chunks(packed, size))) == b"".join(contents)


def test_gunzipped_chunks_are_small() -> None:
    chunks = list(gunzip([gzip.compress(bytes(20 << 20))]))
    assert sum(map(len, chunks)) == 20 << 20
    assert max(map(len, chunks)) <= 1 << 16


@pytest.mark.parametrize("cut", [1, 9, 2000])
def test_truncated_gzip_is_an_error(cut: int) -> None:
    packed = gzip.compress(b"first") + gzip.compress(noise(50_000))
    with pytest.raises(tarfile.ReadError):
        list(gunzip([packed[:-cut]]))


@pytest.mark.parametrize("garbage", [b"no gzip", b"\x1f\x8b and more"])
def test_garbage_after_gzip_is_an_error(garbage: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        list(gunzip([gzip.compress(b"first") + garbage]))


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o600, 0o666), (0o700, 0o777), (0o400, 0o444), (0o640, 0o666), (0o6755, 0o777)]
)
@pytest.mark.parametrize("part", ["upload", "inputs"])
def test_any_user_gets_the_rights_of_the_owner(tmp_path: Path, mode: int, expected: int, part: str) -> None:
    folder = "" if part == "upload" else "7/"
    path = archive(tmp_path / "a.tar.gz", (f"{folder}p/", {"mode": 0o700}), (f"{folder}p/f", {"mode": mode}))
    members = unpacked(**{part: path})
    into = "code" if part == "upload" else "out"
    assert members[f"{into}/p"].mode == 0o777
    assert members[f"{into}/p/f"].mode == expected
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}


@pytest.mark.parametrize("part", ["upload", "inputs"])
def test_unnamed_folders_are_created_for_all(tmp_path: Path, part: str) -> None:
    folder = "" if part == "upload" else "7/"
    path = archive(tmp_path / "a.tar.gz", (f"{folder}a/b/f", "x"), (f"{folder}a/c", "y"))
    members = unpacked(**{part: path})
    into = "code" if part == "upload" else "out"
    names = [name for name in members if name.startswith(f"{into}/")]
    assert names == [f"{into}/a", f"{into}/a/b", f"{into}/a/b/f", f"{into}/a/c"]
    assert all(members[f"{into}/{name}"].isdir() and members[f"{into}/{name}"].mode == 0o777 for name in ("a", "a/b"))


def test_links_are_not_replaced_by_folders(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", ("real/", ""), ("link", {"link": "real"}), ("link/f", "x"))
    members = unpacked(upload=path)
    assert members["code/link"].issym()
    assert list(members) == ["out", "code/real", "code/link", "code/link/f"]


def test_holes_become_zeros(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    with (tmp_path / "7" / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    sparse = tmp_path / "a.tar.gz"
    subprocess.run(["tar", "czSf", sparse, "-C", tmp_path, "7"], check=True)
    chunks = files_for_job(
        SimpleNamespace(upload=None, inputs=str(sparse), job_outputs=()),
        ("/out",),
        upload_folder="/code",
        outputs_folder="/out",
        inputs_folder="/in",
    )
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks) + END_OF_TARBALL)) as tarball:
        member = tarball.getmember("out/sparse")
        content = tarball.extractfile(member)
        assert content is not None
        assert not member.issparse()
        assert content.read() == (tmp_path / "7" / "sparse").read_bytes()


def test_members_are_renamed_in_the_stream() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in (("outputs/a", b"x" * 600), ("outputs/d/b", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("outputs/l")
        link.type, link.linkname = tarfile.LNKTYPE, "outputs/a"
        archive.addfile(link)
        folder = tarfile.TarInfo("outputs")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    data = out.getvalue()
    chunks = [data[at : at + 100] for at in range(0, len(data), 100)]
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(rename_members(chunks, lambda name: path_below(name, 1))) + END_OF_TARBALL)
    ) as archive:
        assert archive.getnames() == ["a", "d/b", "l"]
        assert archive.extractfile("l").read() == b"x" * 600


def test_build_context_contains_the_files() -> None:
    with tarfile.open(fileobj=io.BytesIO(build_context("FROM x", [("a", b"1", 0o755)]))) as archive:
        assert archive.getnames() == ["Dockerfile", "a"]
