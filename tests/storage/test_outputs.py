"""Sealed outputs, packed from a folder or a tar stream, and the outputs of a running job."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
import subprocess
import tarfile
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from polyjob.storage import outputs as archives
from polyjob.storage import pack
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.outputs import EMPTY, Outputs, PathNotFound, write_index
from polyjob.storage.pack import MAX_DEPTH, Entry, Packer
from polyjob.storage.sparse import ExtentReader
from polyjob.storage.store import Store
from runners.common.trees import remove_tree
from tests.require import require_root
from tests.sampling import examples
from tests.storage.helpers import JOB, OTHER, chunks, fill, noise, picture, read, sealed, tar, unpack


def test_gnu_tar_unpacks_the_packed_tree(store, folder, tmp_path):
    fill(folder)
    before = picture(folder)
    assert sealed(store).notes == []
    there = unpack(store.outputs(JOB).path, tmp_path / "out")
    assert picture(there) == before
    remove_tree(tmp_path / "out")


@pytest.mark.parametrize("streamed", [False, True])
def test_setuid_bits_are_not_packed(store, folder, tmp_path, streamed):
    (folder / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "run").chmod(0o6755)
    (folder / "shared").mkdir()
    (folder / "shared").chmod(0o3777)
    pieces = None
    if streamed:
        command = ["tar", "c", "-C", folder, "run", "shared"]
        pieces = [subprocess.run(command, check=True, capture_output=True).stdout]
    unpacked = unpack(sealed(store, pieces, OTHER if streamed else JOB).path, tmp_path / "out")
    assert stat.S_IMODE((unpacked / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((unpacked / "shared").stat().st_mode) == 0o1777


def test_each_file_is_read_from_its_own_gzip_member(store, folder):
    fill(folder)
    contents = {os.fsdecode(path): row[3] for path, row in picture(folder).items() if row[0] == "file"}
    outputs = sealed(store)
    assert len({entry.member for entry in outputs.entries.values()}) > 3
    whole = outputs.path.read_bytes()
    for start in {entry.member for entry in outputs.entries.values() if entry.type == "file"}:
        unpacker = isal_zlib.decompressobj(wbits=31)
        unpacker.decompress(whole[start:])
        end = len(whole) - len(unpacker.unused_data)
        outputs.path.write_bytes(b"\xff" * start + whole[start:end] + b"\xff" * (len(whole) - end))  # others: broken
        for path, content in contents.items():
            if outputs.entries[path].member == start:
                assert read(outputs, path) == content
                contents[path] = b""
    outputs.path.write_bytes(whole)
    assert not any(contents.values())
    assert read(outputs, "/plain/") == b"text\n"


@pytest.mark.parametrize("size", [1, 511, 512, 65535, 65536, 65537, 5 << 20])
def test_file_of_zeros_before_the_last_file_is_read(store, folder, size):
    """The decompressor still returns data after it has read the file on disk to its end."""
    (folder / "a").write_bytes(bytes(size))
    (folder / "b").write_bytes(b"b")
    (folder / "c").write_bytes(bytes(size))
    outputs = sealed(store)
    assert [read(outputs, name) for name in "abc"] == [bytes(size), b"b", bytes(size)]


def test_truncated_tarball_raises(store, folder):
    (folder / "a").write_bytes(noise(300_000))
    outputs = sealed(store)
    os.truncate(outputs.path, 100_000)
    with pytest.raises(OSError, match="ends too early"):
        read(outputs, "a")


@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "noise"])
def test_large_file_needs_little_memory(store, folder, zeros):
    with (folder / "large").open("wb") as file:
        for _ in range(50):
            file.write(bytes(1 << 20) if zeros else os.urandom(1 << 20))
    tracemalloc.start()
    try:
        outputs = sealed(store)
        assert sum(len(piece) for piece in outputs.open_file("large")[1]) == 50 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_tree_lists_files_and_folders(store, folder):
    (folder / "b" / "c").mkdir(parents=True)
    (folder / "b" / "d").mkdir()
    (folder / "b.txt").write_bytes(b"12")
    (folder / "b" / "x").write_bytes(b"123")
    (folder / "a").symlink_to("b")
    expected = ([("a", 0), ("b.txt", 2)], ["b"])
    for outputs in (LiveOutputs(folder), None):
        outputs = outputs or sealed(store)
        files, folders = outputs.tree("")
        assert ([(name, size if name != "a" else 0) for name, size in files], folders) == expected
        assert outputs.tree("/") == outputs.tree("")
        for path in ("b", "/b", "b/", "/b/"):
            assert outputs.tree(path) == ([("x", 3)], ["c", "d"])
        assert outputs.tree("b/c") == ([], [])
        for path in ("nothing", "b.txt", "a", "b/x", "..", "b/..", "b/nothing", "\0", "\ud800"):
            with pytest.raises(PathNotFound):
                outputs.tree(path)
        for path in ("", "b", "a", "nothing", "../log", "b/../b.txt", "\0", "\ud800"):
            with pytest.raises(PathNotFound):
                outputs.open_file(path)


def indexed(path: Path, entries: list[Entry]) -> Outputs:
    with path.open("wb") as file:
        write_index(file, Packer("7", entries=entries))
    return Outputs(path, path)


def test_lookup_reads_little_of_a_large_index(tmp_path, monkeypatch):
    names = [f"d{number % 100:02}/f{number:05}" for number in range(20_000)]
    entries = [Entry(f"d{number:02}", "directory") for number in range(100)]
    outputs = indexed(tmp_path / "index", entries + [Entry(name, "file", len(name)) for name in names])
    lines = []
    monkeypatch.setattr(archives, "_entry", lambda line, real=archives._entry: lines.append(line) or real(line))
    assert not outputs.is_empty
    assert outputs.open_file("d42/f10042")[0] == 10
    with pytest.raises(PathNotFound):
        outputs.open_file("d42/f1")
    assert len(lines) < 130
    lines.clear()
    assert outputs.tree("d42") == ([(name[4:], 10) for name in names[42::100]], [])
    assert len(lines) < 200 + 100


PART = st.text('a-./ é\udc80\n"z', min_size=1).filter(lambda part: "/" not in part)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.lists(PART, min_size=1, max_size=3).map("/".join)))
def test_lookup_finds_exactly_the_entry(tmp_path, paths):
    outputs = indexed(tmp_path / "index", [Entry(path, "file", number) for number, path in enumerate(paths)])
    assert outputs.is_empty is not bool(paths) and set(outputs.entries) == paths
    for number, path in enumerate(paths):
        assert outputs.open_file(path)[0] == number
        for other in (f"{path}-", f"{path}/a", path[:-1]):
            if other.strip("/") not in paths:
                with pytest.raises(PathNotFound):
                    outputs.open_file(other)
    assert [name for name, _ in outputs.tree("")[0]] == sorted(path for path in paths if "/" not in path)


def test_etag_depends_on_the_bytes_only(store):
    def etag(uuid, content, moment=1_000_000_000):
        folder = store.make_job_folder(uuid) / "outputs"
        folder.mkdir()
        (folder / "f").write_bytes(content)
        os.utime(folder / "f", (moment, moment))
        return sealed(store, uuid=uuid).etag

    same = [etag(letter * 32, b"same") for letter in "ab"]
    assert same[0] == same[1]
    assert len({same[0], etag("c" * 32, b"other"), etag("d" * 32, b"same", 5), store.outputs("e" * 32).etag}) == 4


def test_empty_outputs_create_no_file(store, folder):
    outputs = sealed(store)
    assert outputs.is_empty and outputs.tree("") == ([], []) and outputs.notes == []
    assert os.listdir(store.job_folder(JOB)) == []
    with tarfile.open(fileobj=io.BytesIO(EMPTY)) as archive:
        assert archive.getmembers() == []
    for number, pieces in enumerate(([], [bytes(1024)], [b"", bytes(10240)])):
        assert sealed(store, pieces, str(number) * 32).is_empty
        assert os.listdir(store.job_folder(str(number) * 32)) == ["outputs.json"]  # tells it from what was not fetched


def test_special_files_are_noted_without_blocking(store, folder, monkeypatch):
    os.mkfifo(folder / "fifo")
    (folder / "file").write_bytes(b"f")
    with socket.socket(socket.AF_UNIX) as end:
        monkeypatch.chdir(folder)
        end.bind("socket")
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o20600, os.makedev(1, 5))
    live = LiveOutputs(folder)
    for name in ("fifo", "socket"):
        with pytest.raises(PathNotFound):
            live.open_file(name)
    outputs = sealed(store)
    assert [*outputs.entries] == ["file"]
    assert [note.split("`")[1] for note in outputs.notes][-2:] == ["fifo", "socket"]


def changing(name, change):
    """Return an `ExtentReader` that changes the file `name` once it is open and its size is known."""

    class Changing(ExtentReader):
        def __init__(self, file, extents, raised):
            is_asked = os.readlink(f"/proc/self/fd/{file.fileno()}").endswith(f"/{name}")
            super().__init__(Changed(file, change) if is_asked else file, extents, raised)

    return Changing


class Changed:
    def __init__(self, file, change):
        self.file, self.change, self.seek = file, change, file.seek

    def read(self, size):
        change, self.change = self.change, None
        if change:
            change()
        return self.file.read(size)


def test_file_that_changes_while_packed_keeps_its_size(folder, monkeypatch):
    path = folder / "b"
    for name in "abc":
        (folder / name).write_bytes(b"0123456789" * 20_000)

    def live(change):
        packer = Packer("7")
        with monkeypatch.context() as patch:
            patch.setattr(pack, "ExtentReader", changing("b", change))
            data = b"".join([*packer.folder(folder), *packer.end()])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            contents = {member.name[2:]: archive.extractfile(member).read() for member in archive}
        assert contents["a"] == contents["c"] == b"0123456789" * 20_000
        return contents["b"], packer.notes

    content, notes = live(lambda: path.write_bytes(b"x" * 400_000))
    assert content == b"x" * 200_000 and notes == []
    content, notes = live(lambda: os.truncate(path, 100))
    assert content == b"x" * 100 + bytes(399_900) and "shorter" in notes[0]

    def fails():
        raise OSError(errno.EIO, "Input/output error")

    content, notes = live(fails)
    assert content == bytes(100) and "`b`" in notes[0]

    def lacks():
        raise OSError(errno.ENOMEM, "no memory")

    with pytest.raises(OSError, match="no memory"):
        live(lacks)


def test_unreadable_files_are_noted(store):
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        place.chmod(0o755)
        for name in ("a", "b"):
            (place / name).write_bytes(b"x")
        (place / "closed").mkdir()
        (place / "closed" / "f").touch()
        (place / "a").chmod(0)
        (place / "closed").chmod(0)
        (place / "b").chmod(0o644)
        packer = Packer("7")
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            list(packer.folder(place))
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        assert packer.notes == [f"`{name}` was not kept: Permission denied" for name in ("a", "closed")]
        assert [entry.path for entry in packer.entries] == ["b", "closed"]
    finally:
        remove_tree(place)


def test_lack_of_descriptors_raises_and_loses_nothing(store, folder, monkeypatch):
    (folder / "a").write_bytes(b"x")

    def lacks(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(pack, "find_extents", lacks)
        with pytest.raises(OSError, match="Too many"):
            sealed(store)
    assert (folder / "a").exists() and os.listdir(store.job_folder(JOB)) == ["outputs"]
    assert read(sealed(store), "a") == b"x"


@pytest.mark.parametrize("kind", ["link", "file", "dangling"])
def test_replaced_outputs_folder_is_noted(store, folder, kind):
    folder.rmdir()
    if kind == "file":
        folder.write_bytes(b"x")
    else:
        folder.symlink_to("/etc" if kind == "link" else "nowhere")
    assert list(LiveOutputs(folder).tarball("7"))
    outputs = sealed(store)
    assert outputs.is_empty and "The outputs folder was not kept" in outputs.notes[0]
    assert sorted(os.listdir(folder.parent)) == ["outputs.json", "outputs.tar.gz"]
    assert Path("/etc/passwd").exists()
    assert outputs.path.read_bytes() == EMPTY


def test_files_beyond_the_limit_are_noted(store, folder):
    for name, size in (("a", 600), ("b", 600), ("c", 400)):
        (folder / name).write_bytes(bytes(size))
    (folder / "d").hardlink_to(folder / "b")
    outputs = sealed(store, limit=1000)
    assert [*outputs.entries] == ["a", "c"]
    assert [note.split("`")[1] for note in outputs.notes] == ["b", "d"] and "1000 bytes" in outputs.notes[0]


def test_number_of_notes_is_limited(store, folder):
    for number in range(100):
        os.mkfifo(folder / str(number))
    outputs = sealed(store)
    assert len(outputs.notes) == 21 and outputs.notes[-1] == "There are more such notes."


def test_note_on_a_long_path_is_shortened(store, folder):
    deep = folder / ("d" * 250) / ("e" * 250) / ("f" * 250)
    deep.mkdir(parents=True)
    os.mkfifo(deep / "pipe")
    (note,) = sealed(store).notes
    assert len(note) <= pack.MAX_NOTE_LENGTH + 1 and note.startswith("`ddd") and note.endswith("nor a link")


def test_too_deep_folders_are_noted(store, folder):
    here = os.open(folder, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    outputs = sealed(store)
    assert len(outputs.entries) == MAX_DEPTH - 1 and f"more than {MAX_DEPTH} folders deep" in outputs.notes[0]
    assert not folder.exists()


def test_live_outputs_do_not_leave_their_folder(store, folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "d").mkdir()
    (folder / "d" / "f").write_bytes(b"fine")
    (folder / "to-file").symlink_to(tmp_path / "secret")
    (folder / "to-folder").symlink_to(tmp_path)
    (folder / "inside").symlink_to("d")
    live = LiveOutputs(folder)
    assert read(live, "d/f") == read(live, "/d//f") == b"fine"
    bad = [
        "to-file",
        "to-folder/secret",
        "inside/f",
        "d/../d/f",
        "../../../../secret",
        str(tmp_path / "secret"),
        "./d/f",
    ]
    for path in bad:
        with pytest.raises(PathNotFound):
            live.open_file(path)
    for path in ("to-folder", "inside", "..", "d/..", "."):
        with pytest.raises(PathNotFound):
            live.tree(path)


def test_live_content_can_be_closed_unread(folder):
    (folder / "f").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))
    content = LiveOutputs(folder).open_file("f")[1]
    content.close()
    content.close()
    assert list(content) == []
    LiveOutputs(folder).open_file("f")
    assert len(os.listdir("/proc/self/fd")) == before


def test_live_content_has_the_size_at_opening(folder):
    (folder / "f").write_bytes(b"12345")
    size, content = LiveOutputs(folder).open_file("f")
    with (folder / "f").open("ab") as file:
        file.write(b"678")
    assert (size, b"".join(content)) == (5, b"12345")


def test_swapping_folders_for_links_never_leaves_the_folder(folder, tmp_path):
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("f", "sub/f", "only-outside"):
        (outside / name).write_bytes(b"SECRET" * 100)
    (folder / "real" / "sub").mkdir(parents=True)
    for name in ("f", "sub/f"):
        (folder / "real" / name).write_bytes(b"fine")
    (folder / "link").symlink_to(outside)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for source in ("real", "link"):
                os.rename(folder / source, folder / "swap")
                os.rename(folder / "swap", folder / source)
                os.rename(folder / source, folder / "d")
                os.rename(folder / "d", folder / source)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = 0
    try:
        live = LiveOutputs(folder)
        for _ in range(1500):
            for path in ("d/f", "d/sub/f"):
                with contextlib.suppress(PathNotFound):
                    assert read(live, path) == b"fine"
                    seen += 1
            for path in ("d", "d/sub"):
                with contextlib.suppress(PathNotFound):
                    assert "only-outside" not in [name for name, _ in live.tree(path)[0]]
        for _ in range(100):
            data = b"".join(live.tarball("7"))
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive.getmembers():
                    assert member.issym() or member.isdir() or archive.extractfile(member).read() == b"fine"
    finally:
        stop.set()
        thread.join()
    assert seen


def test_full_disk_leaves_no_partial_tarball(tmp_path):
    require_root()
    data = tmp_path / "small"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", data], check=True)
    try:
        store = Store(data)
        store.prepare()
        stream = tar(("a", noise(2 << 20)))
        (note,) = sealed(store, chunks(stream), "c" * 32).notes
        assert note == f"`a` was not kept: with it, the outputs would be larger than the disk ({1 << 20} bytes)"
        (data / "other").write_bytes(bytes(300_000))
        with pytest.raises(OSError, match="No space"):
            sealed(store, chunks(tar(("a", noise(900_000)))))
        assert os.listdir(store.job_folder(JOB)) == []
        (data / "other").unlink()
        fits = tar(("a", noise(500_000)))
        assert len(read(sealed(store, chunks(fits)), "a")) == 500_000
        fills = store.make_job_folder(OTHER) / "outputs"
        fills.mkdir()
        (fills / "f").write_bytes(noise(300_000))
        with pytest.raises(OSError, match="No space"):
            sealed(store, None, OTHER)
        assert os.listdir(fills.parent) == ["outputs"] and (fills / "f").stat().st_size == 300_000
    finally:
        subprocess.run(["umount", data], check=True)
