"""Uploads: digests of the same files are equal, and hostile tarballs are refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyjob.errors import Invalid, TooLarge, Unavailable
from polyjob.storage import uploads
from polyjob.storage.store import Store
from polyjob.storage.uploads import Limits, receive
from tests.sampling import examples

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(size=4 << 20, unpacked=16 << 20, members=1000)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    store.prepare()
    return store


def kept(store):
    return sorted(os.listdir(store.data_dir / "code"))


def member(name, type=tarfile.REGTYPE, link="", mode=0o644, content=b"", **more):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = type, link, mode, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def folder(name, **more):
    return member(name, tarfile.DIRTYPE, mode=0o755, **more)


def symlink(name, target):
    return member(name, tarfile.SYMTYPE, target)


def hardlink(name, target):
    return member(name, tarfile.LNKTYPE, target)


def tar(*members, format=tarfile.PAX_FORMAT, end=True):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
        length = buffer.tell()
    return buffer.getvalue() if end else buffer.getvalue()[:length]


def pack(*members, level=6, **more):
    return gzip.compress(tar(*members, **more), level, mtime=0)


def upload(store, data, limits=LIMITS):
    return receive(io.BytesIO(data), store, limits)


def refused(store, data, limits=LIMITS):
    with pytest.raises(Invalid) as caught:
        upload(store, data, limits)
    (problem,) = caught.value.problems
    assert problem.pointer == "/repo" and problem.detail.startswith("Invalid archive: ")
    problem.detail.encode()
    assert kept(store) == []
    return problem.detail.removeprefix("Invalid archive: ")


TREE = [
    folder("src"),
    member("src/a.py", content=b"print()\n"),
    member("run.sh", content=b"#!/bin/sh\n", mode=0o755),
    symlink("src/up", "../run.sh"),
    folder("empty"),
    member("caf\udce9", content=b"latin"),
    member("n" * 200 + "/" + "m" * 200, content=b"long"),
    hardlink("src/again", "run.sh"),
]


def test_upload_is_stored_under_its_digest(store):
    data = pack(*TREE)
    kept_upload = upload(store, data)
    assert kept(store) == [f"{kept_upload.digest}.tar.gz"] and kept_upload.size == len(data)
    assert store.upload_path(kept_upload.digest).read_bytes() == data
    assert store.upload_path(kept_upload.digest).stat().st_mode & 0o777 == 0o600
    assert kept_upload.files == {}
    assert upload(store, data) == kept_upload


def test_same_files_have_the_same_digest(store):
    first = upload(store, pack(*TREE))
    dotted = [member("./" + info.name, info.type, info.linkname, info.mode, content) for info, content in TREE]
    foreign = [
        member(info.name, info.type, info.linkname, info.mode & 0o744, content, uid=5, gname="x", mtime=99)
        for info, content in TREE
    ]
    shuffled = [*TREE[1:-1][::-1], TREE[-1], TREE[0]]
    others = [
        pack(*TREE, level=1),
        pack(folder("."), *dotted),
        pack(*foreign, format=tarfile.GNU_FORMAT),
        pack(*shuffled),
        pack(*[entry for entry in TREE if entry[0].name != "src"], folder("n" * 200)),
        pack(*TREE, *TREE),
        pack(*TREE[:-1], member("src/again", content=b"#!/bin/sh\n", mode=0o700)),
        gzip.compress(tar(*TREE)[:9000]) + gzip.compress(tar(*TREE)[9000:] + bytes(1 << 20)),
        pack(*TREE) + bytes(100),
    ]
    assert [upload(store, data).digest for data in others] == [first.digest] * len(others)
    assert kept(store) == [f"{first.digest}.tar.gz"]


def test_different_files_have_different_digests(store):
    trees = [
        [],
        [member("a")],
        [member("b")],
        [member("a", content=b"x")],
        [member("a", mode=0o755)],
        [folder("a")],
        [symlink("a", "b")],
        [symlink("a", "c")],
        [member("a"), folder("b")],
        [member("a"), member("b")],
        [member("a/b")],
    ]
    assert len({upload(store, pack(*tree)).digest for tree in trees}) == len(trees) == len(kept(store))


def test_tarballs_of_gnu_tar_are_accepted(store, tmp_path):
    source = tmp_path / "source"
    (source / "p" / "q").mkdir(parents=True)
    (source / "p" / "f").write_bytes(b"x" * 5000)
    (source / "p" / "g").hardlink_to(source / "p" / "f")
    (source / "l").symlink_to("p/q")
    (source / "p" / "q" / "l").symlink_to("../../l")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    digests = set()
    for option in ("gnu", "pax", "ustar"):
        for sparse in ([], ["--sparse"] * (option != "ustar")):
            data = subprocess.run(
                ["tar", "cz", f"--format={option}", *sparse, "-C", source, "."], check=True, capture_output=True
            ).stdout
            digests.add(upload(store, data).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("target", ["b", "./b", "../b", "..", "./../b", "../../x", "b/c//d", "../..", "../a/y/"])
def test_links_inside_the_root_are_accepted(store, target):
    upload(store, pack(symlink("d/e/l", target)))


HOSTILE = {
    "absolute": ([member("/etc/x")], "`/etc/x` is an absolute path"),
    "up": ([member("../x")], "`../x` leads outside of it"),
    "up later": ([member("a/../../x")], "`a/../../x` leads outside of it"),
    "up and back": ([member("a/../x")], "`a/../x` leads outside of it"),
    "folder up": ([folder("..")], "`..` leads outside of it"),
    "link absolute": ([symlink("l", "/etc")], "`l` is a link that leads outside of it, to `/etc`"),
    "link up": ([symlink("l", "..")], "`l` is a link that leads outside of it, to `..`"),
    "link up below": ([symlink("d/l", "../../x")], "`d/l` is a link that leads outside of it"),
    "link dotted": ([symlink("d/l", ".././/../x")], "`d/l` is a link that leads outside of it"),
    "link down up": ([symlink("d/l", "a/../../b")], "`d/l` is a link that goes down and up again"),
    "link by link": (
        [folder("a/b"), symlink("a/b/l", "../.."), symlink("m", "a/b/l/../x")],
        "`m` is a link that goes down and up again",
    ),
    "link to nothing": ([symlink("l", "")], "`l` is a link to the invalid file name"),
    "link too long": ([symlink("l", "x/" * 3000)], "`l` is a link to the invalid file name"),
    "below a link": ([symlink("l", "d"), member("l/x")], "`l/x` is below `l`, which is not a folder"),
    "below a link, earlier": ([member("l/x"), symlink("l", "d")], "`l` is in it twice"),
    "below a file": ([member("f"), member("f/x/y")], "`f/x/y` is below `f`, which is not a folder"),
    "file over folder": ([member("f/x"), member("f")], "`f` is in it twice"),
    "twice": ([member("f"), member("./f", content=b"x")], "`f` is in it twice"),
    "twice by bit": ([member("f"), member("f", mode=0o755)], "`f` is in it twice"),
    "link over file": ([member("f"), symlink("f", "g")], "`f` is in it twice"),
    "hard link out": ([hardlink("h", "../x")], "`../x` leads outside of it"),
    "hard link absolute": ([hardlink("h", "/etc/passwd")], "`/etc/passwd` is an absolute path"),
    "hard link to nothing": ([hardlink("h", "x")], "`h` is a link to `x`, which is not an earlier file in it"),
    "hard link to itself": ([hardlink("h", "h")], "`h` is a link to `h`"),
    "hard link to a link": ([symlink("l", "x"), hardlink("h", "l")], "`h` is a link to `l`"),
    "hard link to a folder": ([folder("d"), hardlink("h", "d")], "`h` is a link to `d`"),
    "device": ([member("dev", tarfile.CHRTYPE)], "`dev` is neither a file"),
    "disk": ([member("dev", tarfile.BLKTYPE)], "`dev` is neither a file"),
    "fifo": ([member("pipe", tarfile.FIFOTYPE)], "`pipe` is neither a file"),
    "root as a file": ([member(".")], "`.` is its root but not a folder"),
    "root as a link": ([symlink("./", "x")], "`./` is its root but not a folder"),
    "long name": ([member("n" * 256)], "is not a valid file name"),
    "long name in bytes": ([member("ö" * 128)], "is not a valid file name"),
    "long path": ([member("a/" * 2500 + "b")], "is not a valid file name"),
    "nul": ([member("x", pax_headers={"path": "a\0b"})], "`a�b` is not a valid file name"),
    "line feed": ([member("/a\nb\x1b")], "`/a�b�` is an absolute path"),
    "surrogate": ([member("/\udcff")], "`/�` is an absolute path"),
    "huge header": ([member("x", pax_headers={"comment": "c" * 70_000})], "a header in it is too large"),
    "negative size": ([member("x", pax_headers={"size": "-1024"})], "not a complete .tar.gz file"),
    "odd size": ([member("x", pax_headers={"size": "nan"})], None),
    "size beyond": ([member("x", pax_headers={"size": str(1 << 20)})], "not a complete .tar.gz file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tarball_is_refused(store, name):
    members, reason = HOSTILE[name]
    data = pack(member("innocent", content=b"x"), *members)
    if reason is None:
        with contextlib.suppress(Invalid):
            upload(store, data)
        return
    assert reason in refused(store, data)


def raw_header(type, size, name="x"):
    info = tarfile.TarInfo(name)
    info.type, info.size = type, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse_headers(count):
    """Return an old GNU sparse file whose map never ends."""
    header = bytearray(raw_header(tarfile.GNUTYPE_SPARSE, 0))
    header[482] = 1
    header[483:495] = b"%011o\0" % 100
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    block = (b"%011o\0" % 1) * 42
    return bytes(header) + (block + b"\1" + bytes(7)) * count


BROKEN = {
    "empty": b"",
    "text": b"hello " * 1000,
    "only the magic": b"\x1f\x8b",
    "a zip": b"PK\3\4" + bytes(500),
    "gzip of nothing": gzip.compress(b""),
    "gzip of text": gzip.compress(b"hello " * 1000),
    "plain tar": tar(*TREE),
    "without an end": gzip.compress(tar(*TREE, end=False)),
    "cut between members": gzip.compress(tar(member("a", content=b"x"), end=False)[:1024]),
    "cut in a file": gzip.compress(tar(member("a", content=bytes(5000)))[:3000]),
    "cut in a header": gzip.compress(tar(member("a"))[:300]),
    "a broken second header": gzip.compress(tar(member("a"), end=False)[:512] + b"x" * 512 + bytes(1024)),
    "wrong checksum": pack(*TREE)[:-8] + b"1234" + pack(*TREE)[-4:],
    "wrong length": pack(*TREE)[:-4] + b"1234",
    "without its trailer": pack(*TREE)[:-8],
    "garbage behind": pack(*TREE) + b"garbage, and much of it",
    "a second tar behind": gzip.compress(tar(member("a")) + tar(member("b"))),
    "a second gzip behind": pack(member("a")) + pack(member("b")),
    "endless zeros behind": gzip.compress(tar(member("a")) + bytes(17 << 20)),
    "negative header": gzip.compress(raw_header(tarfile.XHDTYPE, -512) + bytes(1024)),
    "negative long name": gzip.compress(raw_header(tarfile.GNUTYPE_LONGNAME, -1) + bytes(1024)),
    "header of 8 GiB": gzip.compress(raw_header(tarfile.XHDTYPE, 8 << 30) + bytes(1024)),
    "long name of 1 MiB": gzip.compress(raw_header(tarfile.GNUTYPE_LONGNAME, 1 << 20) + b"a" * (1 << 20)),
    "header upon header": gzip.compress((raw_header(tarfile.XHDTYPE, 0) + bytes(512)) * 5000),
    "name upon name": gzip.compress((raw_header(tarfile.GNUTYPE_LONGNAME, 5) + b"aaaaa" + bytes(507)) * 5000),
    "sparse map without end": gzip.compress(sparse_headers(20_000)),
    "runs of digits": gzip.compress(raw_header(tarfile.XHDTYPE, 60_000) + (b"1" * 299 + b"a") * 202),
    "digits": gzip.compress(raw_header(tarfile.XHDTYPE, 60_000) + b"1" * 60_416),
}


@pytest.mark.parametrize("name", BROKEN)
def test_incomplete_tarball_is_refused(store, name):
    start = time.process_time()
    refused(store, BROKEN[name])
    assert time.process_time() - start < 5
    cut = pack(*TREE)
    refused(store, cut[: len(cut) // 2])


def test_tarball_truncated_anywhere_is_refused(store):
    data = pack(*TREE)
    for length in range(0, len(data), 7):
        refused(store, data[:length])


def test_too_many_members_are_refused(store):
    limits = Limits(LIMITS.size, LIMITS.unpacked, 10)
    upload(store, pack(*[member(str(number)) for number in range(10)]), limits)
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    assert (
        refused(store, pack(*[member(str(number)) for number in range(11)]), limits) == "it has more than 10 members."
    )


def test_implied_folders_count_as_members(store):
    limits = Limits(LIMITS.size, LIMITS.unpacked, 10)
    upload(store, pack(member("a/b/c/d/e/f/g/h/i/j")), limits)
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    reason = refused(store, pack(member("a/b/c/d/e/f/g/h/i/j/k")), limits)
    assert reason == "it has more than 10 members, including implied folders."


def test_too_deep_path_is_refused(store):
    upload(store, pack(member("d/" * (uploads.MAX_DEPTH - 1) + "f")))
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    assert "folders deep" in refused(store, pack(member("d/" * uploads.MAX_DEPTH + "f")))


def test_long_names_are_refused_in_little_memory(store, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_ALL_NAMES_BYTES", 20_000)
    upload(store, pack(*[member(f"{number:0200}") for number in range(100)]))
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    assert "too many and too long" in refused(store, pack(*[member(f"{number:0200}") for number in range(101)]))
    deep = [member(f"{number:0200}/" + "d/" * 50 + "f") for number in range(3)]
    assert "too many and too long" in refused(store, pack(*deep))


def test_many_members_need_little_memory(store):
    data = pack(*[member(str(number), pax_headers={"x": f"{number}" + "y" * 30_000}) for number in range(60)])
    tracemalloc.start()
    try:
        upload(store, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_sum_of_headers_is_limited(store):
    data = pack(*[member(str(number), pax_headers={"x": "y" * 60_000}) for number in range(4)])
    upload(store, data, Limits(LIMITS.size, LIMITS.unpacked, 100))
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    assert refused(store, data, Limits(LIMITS.size, LIMITS.unpacked, 5)) == "the headers in it are too large."


def test_global_header_fields_are_limited(store):
    def data(count):
        buffer = io.BytesIO()
        fields = {f"key{number}": "value" for number in range(count)}
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=fields) as archive:
            archive.addfile(*member("a"))
        return gzip.compress(buffer.getvalue())

    upload(store, data(uploads.MAX_GLOBAL_FIELDS))
    store.upload_path(kept(store)[0].split(".")[0]).unlink()
    assert refused(store, data(uploads.MAX_GLOBAL_FIELDS + 1)) == "a header in it is too large."


def test_decompression_bomb_is_refused_early(store, monkeypatch):
    limits = Limits(4 << 20, 1 << 20, 1000)
    zeros = gzip.compress(tar(member("z", content=bytes(600_000)), member("bomb", content=bytes(100 << 20))))
    unpacked = []
    monkeypatch.setattr(
        uploads._BoundedReader,
        "read",
        lambda self, size, read=uploads._BoundedReader.read: unpacked.append(size) or read(self, size),
    )
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert refused(store, zeros, limits) == "unpacked, it is larger than 1048576 bytes."
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert sum(unpacked) < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


@pytest.mark.parametrize(
    "name", ["header of 8 GiB", "header upon header", "sparse map without end", "endless zeros behind"]
)
def test_large_headers_are_refused_in_little_memory(store, name):
    tracemalloc.start()
    try:
        refused(store, BROKEN[name])
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_sparse_bomb_is_refused(store, tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    for option in ("gnu", "pax"):
        command = ["tar", "czS", f"--format={option}", "-C", tmp_path, "sparse"]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        assert len(data) < 10_000
        assert refused(store, data).startswith("unpacked, it is larger")


def test_too_large_upload_is_refused(store):
    data = pack(*TREE)
    with pytest.raises(TooLarge):
        upload(store, data, Limits(len(data) - 1, LIMITS.unpacked, LIMITS.members))
    assert kept(store) == []
    upload(store, data, Limits(len(data), LIMITS.unpacked, LIMITS.members))


def test_aborted_upload_leaves_no_file(store):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            return super().read(size) or (_ for _ in ()).throw(ConnectionError("gone"))

    with pytest.raises(ConnectionError):
        receive(Broken(pack(*TREE)), store, LIMITS)
    assert kept(store) == []


def test_requirement_files_are_reported(store):
    def names(*names):
        return dict(upload(store, pack(*[member(name, content=name.encode()) for name in names])).files)

    def digests(*names):
        return {name: hashlib.sha256(name.encode()).hexdigest() for name in names}

    assert names("a.py") == {}
    assert names("requirements.txt", "setup.sh") == digests("requirements.txt", "setup.sh")
    assert names("requirements.txt", "polyaxon_requirements.txt") == digests("polyaxon_requirements.txt")
    assert names("conda_env.yaml", "conda_env.yml", "setup.sh", "polyaxon_setup.sh") == digests(
        "conda_env.yml", "polyaxon_setup.sh"
    )
    assert names("polyaxon_conda_env.yaml", "conda_env.yml") == digests("polyaxon_conda_env.yaml")
    assert names("sub/requirements.txt") == {}
    assert upload(store, pack(folder("requirements.txt"), symlink("setup.sh", "x"))).files == {}


@pytest.mark.parametrize("point", ["code:before", "code:after"])
def test_crash_while_receiving_leaves_no_partial_upload(store, tmp_path, point):
    (tmp_path / "up").write_bytes(pack(*TREE))
    script = f"""
import pathlib
from polyjob.storage.uploads import Limits, receive
from polyjob.storage.store import Store
receive(open({str(tmp_path / "up")!r}, "rb"), Store(pathlib.Path({str(store.data_dir)!r})), Limits(10**7, 10**7, 100))
"""
    environ = {**os.environ, "POLYJOB_CRASH_AT": point, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    assert subprocess.run([sys.executable, "-c", script], env=environ, timeout=30).returncode == -signal.SIGKILL
    (left,) = kept(store)
    assert left.endswith(".part") is (point == "code:before")
    digest = upload(store, pack(*TREE)).digest
    assert f"{digest}.tar.gz" in kept(store)
    (store.data_dir / "code" / left).touch()
    os.utime(store.data_dir / "code" / left, (0, 0))
    store.prepare()
    assert kept(store) == [f"{digest}.tar.gz"]


VALID = tar(*TREE, member("s", content=bytes(3000)))
PACKED = gzip.compress(VALID, mtime=0)


@settings(max_examples=examples(250), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inside=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.none() | st.integers(0, 1 << 16),
)
def test_damage_is_refused_or_harmless(store, inside, changes, cut):
    data = bytearray(VALID if inside else PACKED)
    for at, value in changes:
        data[at % len(data)] = value
    if cut is not None:
        del data[cut % len(data) :]
    with contextlib.suppress(Invalid, TooLarge):
        upload(store, gzip.compress(bytes(data), 1) if inside else bytes(data))
    assert all(name.endswith(".tar.gz") for name in kept(store))


def test_damaged_headers_are_refused_or_harmless(store):
    """Damage with a corrected checksum, so that it is read."""
    chance = random.Random(3)
    starts = [at for at in range(0, len(VALID) - 1024, 512) if VALID[at + 257 : at + 262] == b"ustar"]
    for _ in range(400):
        data = bytearray(VALID)
        for _ in range(chance.choice([1, 2, 8])):
            start = chance.choice(starts)
            where = chance.choice([chance.randrange(100), chance.randrange(124, 136), 156, chance.randrange(512)])
            data[start + where] = chance.choice([0, 0xFF, 0x80, 0x2F, 0x2E, chance.randrange(256), *b"gxLKS1256"])
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        with contextlib.suppress(Invalid):
            upload(store, gzip.compress(bytes(data), 1))
    assert all(name.endswith(".tar.gz") for name in kept(store))


def test_upload_is_synced_before_and_after_its_rename(store, monkeypatch):
    synced, rename = [], Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))

    def renamed(path, target):
        synced.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    receive(io.BytesIO(pack(member("a", content=b"A"))), store, LIMITS)
    content, then, name = synced
    assert (content.endswith(".part"), then, name) == (True, "renamed", str(store.data_dir / "code"))


def test_few_uploads_are_unpacked_concurrently(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_CHECK_WAIT_SECONDS", 0.01)
    with contextlib.ExitStack() as stack:
        for _ in range(uploads.MAX_CONCURRENT_CHECKS):
            stack.enter_context(uploads.check_slot())
        with pytest.raises(Unavailable), uploads.check_slot():
            pass
    with uploads.check_slot():
        pass
