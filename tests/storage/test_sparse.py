"""Sparse outputs: packed without their holes, restored with them, served with zeros, and limited in size."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from polyjob.storage import pack, sparse
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.sparse import find_extents, read_map, sparse_header
from polyjob.storage.store import Store
from runners.common.trees import remove_tree

JOB, OTHER = "a" * 32, "b" * 32
MIB = 1 << 20
TERA = 1 << 40

LAYOUTS = {
    "all hole": (5 * MIB, []),
    "hole first": (5 * MIB, [4 * MIB]),
    "hole last": (5 * MIB, [0]),
    "odd size": (5 * MIB + 77, [MIB, 5 * MIB]),
    "four islands": (40 * MIB, [number * 10 * MIB for number in range(4)]),
    "five islands": (50 * MIB, [number * 10 * MIB for number in range(5)]),
    "many islands": (80 * MIB, [number * MIB for number in range(0, 80, 2)]),
    "small holes": (2 * MIB, [number * 32768 for number in range(64)]),
    "beyond octal": (10 << 30, [9 << 30]),
}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    store.prepare()
    return store


@pytest.fixture
def folder(store):
    folder = store.make_job_folder(JOB) / "outputs"
    folder.mkdir()
    yield folder
    remove_tree(folder)


def make(path: Path, size: int, islands: list[int]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset in islands:
            file.seek(offset)
            file.write(random.Random(offset).randbytes(min(5000, size - offset)))


def same(left: Path, right: Path) -> bool:
    """Return whether two files have the same bytes, without reading holes."""
    with left.open("rb") as one, right.open("rb") as other:
        size = os.fstat(one.fileno()).st_size
        if size != os.fstat(other.fileno()).st_size:
            return False
        at = 0
        while at < size:
            starts = [_next_data(file.fileno(), at, size) for file in (one, other)]
            at = min(starts)
            if os.pread(one.fileno(), MIB, at) != os.pread(other.fileno(), MIB, at):
                return False
            at += MIB
    return True


def _next_data(file: int, at: int, size: int) -> int:
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError:
        return size


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def unpack_by_tar(archive: Path, to: Path) -> Path:
    subprocess.run(["tar", "xzf", archive, "-C", to], check=True, capture_output=True)
    return to / "7"


def unpack_by_tarfile(archive: Path, to: Path) -> Path:
    with tarfile.open(archive) as file:
        file.extractall(to, filter="data")
    return to / "7"


def unpack_by_keeper(archive: Path, to: Path) -> Path:
    (to / "7").mkdir()
    extract = (
        "import os, sys; from runners.process import job_files; "
        "job_files.extract(os.open(sys.argv[1], 0), sys.argv[2], strip=1)"
    )
    subprocess.run([sys.executable, "-c", extract, archive, to / "7"], check=True)
    return to / "7"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unpack", [unpack_by_tar, unpack_by_tarfile, unpack_by_keeper])
def test_holes_are_restored(store, folder, tmp_path, layout, unpack):
    size, islands = LAYOUTS[layout]
    make(folder / "s", size, islands)
    (folder / "t").write_bytes(b"what comes after it")
    before = allocated(folder / "s")
    (folder / "s").rename(tmp_path / "kept")
    os.link(tmp_path / "kept", folder / "s")
    store.seal(JOB, "7", 0)
    assert store.outputs(JOB).path.stat().st_size < MIB
    unpacked = unpack(store.outputs(JOB).path, tmp_path)
    assert same(unpacked / "s", tmp_path / "kept")
    assert allocated(unpacked / "s") <= before + (64 << 10) * (len(islands) + 1)
    assert (unpacked / "t").read_bytes() == b"what comes after it"


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "beyond octal"])
def test_sparse_file_is_read_with_its_zeros(store, folder, tmp_path, layout):
    make(folder / "s", *LAYOUTS[layout])
    (folder / "t").write_bytes(b"t")
    expected = (folder / "s").read_bytes()
    live, pieces = LiveOutputs(folder).open_file("s")
    assert (live, b"".join(pieces)) == (len(expected), expected)
    store.seal(JOB, "7", 0)
    size, pieces = store.outputs(JOB).open_file("s")
    assert (size, b"".join(pieces)) == (len(expected), expected)
    assert b"".join(store.outputs(JOB).open_file("t")[1]) == b"t"


@pytest.mark.parametrize("count", [1, 4, 20])
def test_huge_sparse_files_are_packed_quickly(store, folder, monkeypatch, count):
    monkeypatch.setattr(Store, "_disk_bytes", lambda store: 100 * TERA)
    for number in range(count):
        make(folder / str(number), 4 * TERA, [TERA])
    began = time.monotonic()
    store.seal(JOB, "7", 100 << 20)
    assert time.monotonic() - began < 5
    assert store.outputs(JOB).notes == []
    size, pieces = store.outputs(JOB).open_file("0")
    assert size == 4 * TERA and next(pieces) == bytes(pack.BLOCK)


@pytest.mark.parametrize("size", [2 * TERA, 15 * TERA])
def test_file_larger_than_the_disk_is_noted(store, folder, monkeypatch, size):
    monkeypatch.setattr(Store, "_disk_bytes", lambda store: TERA)
    make(folder / "huge", size, [0])
    (folder / "small").write_bytes(b"x")
    store.seal(JOB, "7", 0)
    assert [*store.outputs(JOB).entries] == ["small"]
    assert "`huge` was not kept" in store.outputs(JOB).notes[0]


def test_limit_counts_data_and_not_holes(store, folder):
    make(folder / "s", 64 * MIB, [0, 32 * MIB])
    (folder / "t").write_bytes(bytes(900_000))
    (folder / "u").write_bytes(bytes(100_000))
    store.seal(JOB, "7", 950_000)
    assert [*store.outputs(JOB).entries] == ["s", "t"]


def test_extents_beyond_the_limit_are_merged(store, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse, "MAX_EXTENTS", 3)
    make(folder / "s", 20 * MIB, [number * 2 * MIB for number in range(10)])
    os.link(folder / "s", tmp_path / "kept")
    with (folder / "s").open("rb") as file:
        extents = find_extents(file.fileno(), os.fstat(file.fileno()))
    assert len(extents) == 4 and sum(extents[-1]) == 20 * MIB
    store.seal(JOB, "7", 0)
    assert same(unpack_by_tar(store.outputs(JOB).path, tmp_path) / "s", tmp_path / "kept")


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 24, 25, 26, 100])
def test_sparse_map_round_trips(count):
    extents = [(number << 32, 4096) for number in range(count)]
    info = tarfile.TarInfo("é" * 120)
    info.size = count + 1 << 32
    header, last = sparse_header(info, extents)
    assert header.endswith(last)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(4096 * count + 1024))) as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.size, member.issparse()) == ("é" * 120, info.size, True)
    assert read_map(io.BytesIO(last).read) == extents


@pytest.mark.parametrize("cut", [0, 511, 512, 1000])
def test_truncated_sparse_map_raises(cut):
    info = tarfile.TarInfo("s")
    info.size = 1 << 40
    _, last = sparse_header(info, [(number << 20, 4096) for number in range(40)])
    with pytest.raises(ValueError, match="sparse"):
        read_map(io.BytesIO(last[:cut]).read)


def test_keeper_does_not_fill_the_disk_with_holes(store, folder, tmp_path, monkeypatch):
    """A resumed job gets a sparse file of 4 TB with its holes."""
    monkeypatch.setattr(Store, "_disk_bytes", lambda store: 100 * TERA)
    make(folder / "data.mdb", 4 * TERA, [MIB])
    store.seal(JOB, "7", 0)
    unpacked = unpack_by_keeper(store.outputs(JOB).path, tmp_path) / "data.mdb"
    assert unpacked.stat().st_size == 4 * TERA and allocated(unpacked) < MIB
