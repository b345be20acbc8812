"""Outputs that come as a tar stream."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
import tracemalloc

import pytest

from polyjob.storage.pack import Packer
from polyjob.storage.pack_stream import pack_stream
from runners.common.trees import remove_tree
from tests.storage.helpers import OTHER, chunks, fill, info, noise, picture, read, sealed, tar, unpack


@pytest.mark.parametrize("options", [["gnu"], ["pax"], ["gnu", "--sparse"], ["pax", "--sparse"]])
@pytest.mark.parametrize("root", [".", "./"])
def test_stream_and_folder_pack_alike(store, folder, tmp_path, options, root):
    fill(folder)
    before = picture(folder)
    data = subprocess.run(
        ["tar", "c", "--sort=name", f"--format={options[0]}", *options[1:], "-C", folder, root],
        check=True,
        capture_output=True,
    ).stdout
    streamed = sealed(store, chunks(data), OTHER)
    outputs = sealed(store)
    assert streamed.notes == [] and outputs.notes == []
    where = {path: entry[:4] for path, entry in outputs.entries.items()}
    assert {path: entry[:4] for path, entry in streamed.entries.items()} == where
    assert streamed.tree("") == outputs.tree("")
    assert picture(unpack(streamed.path, tmp_path / "out")) == before
    for path in ("plain", "zz hard", "sparse", "random", "many-119"):
        assert read(streamed, path) == read(outputs, path)
    remove_tree(tmp_path / "out")


def test_odd_members_of_a_stream_are_noted(store):
    data = tar(
        ("../out", b"1"),
        ("a/../../out", b"1"),
        ("/absolute", b"1"),
        ("./a//b/./c", b"2"),
        info("a/b", tarfile.DIRTYPE),
        info("a/l", tarfile.SYMTYPE, "/etc"),
        ("a/l/passwd", b"3"),
        ("a/b/c/below", b"3"),
        ("a/b/c", b"4"),
        info("a/h", tarfile.LNKTYPE, "./a/b/c"),
        info("a/lost", tarfile.LNKTYPE, "../out"),
        info("fifo", tarfile.FIFOTYPE),
        ("/".join("d" * 300), b"5"),
    )
    outputs = sealed(store, [data], OTHER)
    assert [(path, entry.type) for path, entry in outputs.entries.items()] == [
        ("a", "directory"),
        ("a/b", "directory"),
        ("a/h", "file"),
        ("a/l", "symlink"),
        ("a/b/c", "file"),
    ]
    assert read(outputs, "a/h") == read(outputs, "a/b/c") == b"2"
    assert [note.split("`")[2] for note in outputs.notes] == [
        " was not kept: it lies below something that is not a folder",
        " was not kept: it lies below something that is not a folder",
        " was in the outputs twice; only the first was kept",
        " was not kept, because the file that it links to was not kept",
        " was not kept: it is neither a file, a folder nor a link",
        " was not kept: it lies more than 200 folders deep",
    ]


def test_stream_beyond_the_limit_is_noted(store):
    outputs = sealed(store, chunks(tar(("a", bytes(600)), ("b", bytes(900_000)), ("c", b"c"))), OTHER, limit=1000)
    assert [*outputs.entries] == ["a", "c"] and len(outputs.notes) == 1
    assert read(outputs, "c") == b"c"


@pytest.mark.parametrize(
    "cut", [1, 300, 512, 600, 1024 + 5000, 1024 + 10240 - 512, 512 * 22, 512 * 22 + 100, 512 * 23 + 1]
)
def test_truncated_stream_seals_nothing(store, cut):
    data = tar(("a", noise(10240)), ("b", b"b"), ("c", b"c"), format=tarfile.GNU_FORMAT)
    assert sealed(store, chunks(data[: 512 * 27])).tree("")[0][0] == ("a", 10240)  # whole: at least one block of zeros
    with pytest.raises(OSError):
        sealed(store, chunks(data[:cut]), OTHER)
    assert os.listdir(store.job_folder(OTHER)) == []
    assert read(sealed(store, chunks(data), OTHER), "b") == b"b"


@pytest.mark.parametrize("at", [0, 700, 512 * 30])
@pytest.mark.parametrize("error", [RuntimeError("backend"), ValueError("its own"), ConnectionError("gone")])
def test_exceptions_of_the_stream_are_raised(store, at, error):
    data = tar(("a", noise(10240)), ("b", b"b"))

    def pieces():
        yield from chunks(data[:at])
        raise error

    with pytest.raises(type(error)) as caught:
        sealed(store, pieces(), OTHER)
    assert caught.value is error
    assert os.listdir(store.job_folder(OTHER)) == []


def test_damaged_streams_raise_oserror_or_are_sealed(store):
    chance = random.Random(1)
    good = tar(("a" * 150, b"1"), ("b", b"2"), info("l", tarfile.SYMTYPE, "a"), ("ö", b"3"))
    for _ in range(400):
        data = bytearray(good)
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(len(data) // 2)] = chance.randrange(256)
        packer = Packer("7", 1 << 20)
        try:
            b"".join([*pack_stream(packer, chunks(bytes(data), 1000)), *packer.end()])
        except OSError:
            continue


def test_large_pieces_are_not_copied_repeatedly(store):
    data = tar(("large", bytes(40 << 20)))
    packer = Packer("7")
    tracemalloc.start()
    try:
        for _ in pack_stream(packer, [data]):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert [entry.size for entry in packer.entries] == [40 << 20]
