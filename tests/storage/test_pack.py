"""Packing: its limits, permissions, pauses, deadlines and abandonment."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import tempfile
from collections import deque
from pathlib import Path

import pytest

from polyjob.storage import pack
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.output_names import escape_name, unescape_name
from polyjob.storage.outputs import PathNotFound
from polyjob.storage.pack import MEMBER_SIZE, Packer
from polyjob.storage.store import Store
from runners.common.trees import remove_tree
from tests.capabilities import DAC_OVERRIDE, DAC_READ_SEARCH, without_capabilities
from tests.require import require_root

JOB = "a" * 32
NOBODY = 65534


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


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def in_pieces(data: bytes, size: int = 1 << 16) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def unpacked(store: Store) -> dict[str, bytes]:
    """Return the files that tarfile finds in the sealed tarball."""
    with tarfile.open(store.outputs(JOB).path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


# Limits.


@pytest.mark.parametrize("streamed", [False, True])
def test_number_of_entries_is_limited(store, folder, monkeypatch, streamed):
    monkeypatch.setattr(pack, "MAX_ENTRIES", 10)
    for number in range(25):
        (folder / f"{number:03}").write_bytes(b"x")
    pieces = [tar(*((f"{number:03}", b"x") for number in range(25)))] if streamed else None
    store.seal(JOB, "7", 0, pieces)
    outputs = store.outputs(JOB)
    assert len(outputs.entries) == 10 and len(outputs.notes) > 0
    assert len(unpacked(store)) == 10


def test_folder_listing_stops_at_the_entry_limit(store, folder, monkeypatch):
    monkeypatch.setattr(pack, "MAX_ENTRIES", 50)
    for name in "abc":
        (folder / name).mkdir()
        for number in range(200):
            (folder / name / str(number)).touch()
    packer = Packer("7")
    list(packer.folder(folder))
    assert packer._listed_names == 51
    assert len(packer.entries) == 50
    assert "`a` has more files than the 50 that one job can keep; the others were not kept" in packer.notes


@pytest.mark.parametrize("streamed", [False, True])
def test_total_length_of_paths_is_limited(store, folder, monkeypatch, streamed):
    monkeypatch.setattr(pack, "MAX_NAME_CHARACTERS", 1000)
    names = [f"{number}{'x' * 200}" for number in range(9)]
    for name in names:
        (folder / name).touch()
    store.seal(JOB, "7", 0, [tar(*((name, b"") for name in names))] if streamed else None)
    assert [*store.outputs(JOB).entries] == names[:4]
    assert "too many files" in store.outputs(JOB).notes[0]


def test_stream_stops_after_skipping_too_much(store, monkeypatch):
    monkeypatch.setattr(pack, "MAX_SKIPPED_BYTES", 1 << 20)
    read = []

    def pieces():
        for piece in in_pieces(
            tar(("a", b"a"), ("b", bytes(900_000)), ("c", b"c"), ("d", bytes(20 << 20)), ("e", b"e"))
        ):
            read.append(len(piece))
            yield piece

    store.seal(JOB, "7", 1000, pieces())
    assert [*store.outputs(JOB).entries] == ["a", "c"]
    assert [note.split("`")[1] for note in store.outputs(JOB).notes] == ["b", "d", "d"]
    assert sum(read) < 2 << 20


# Pauses, deadlines and abandonment.


def test_packing_yields_after_every_block(store, folder):
    (folder / "zeros").write_bytes(bytes(8 << 20))
    for number in range(100):
        (folder / str(number)).touch()
    steps = [*store.seal_in_steps(JOB, "7", 0)]
    assert len(steps) > 100 + (8 << 20) // pack.BLOCK
    assert max(steps) == 8 << 20


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("step", [1, 40, 150])
def test_abandoned_packing_changes_nothing(store, folder, streamed, step):
    (folder / "a").write_bytes(noise(10 << 20))
    steps = store.seal_in_steps(JOB, "7", 0, in_pieces(tar(("a", noise(10 << 20)))) if streamed else None)
    for _ in range(step):
        next(steps)
    steps.close()
    assert os.listdir(store.job_folder(JOB)) == ["outputs"]
    assert (folder / "a").stat().st_size == 10 << 20
    store.seal(JOB, "7", 0)
    assert unpacked(store) == {"7/a": noise(10 << 20)}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("after", [1, 30, 60, 200])
def test_deadline_keeps_complete_files_only(store, folder, streamed, after):
    contents = {"a": noise(100), "b": noise(3 * MEMBER_SIZE), "c": noise(5 * MEMBER_SIZE), "d": noise(200)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    asked = iter(range(1 << 30))
    pieces = in_pieces(tar(*contents.items())) if streamed else None
    deadline = lambda: "time is over" if next(asked) >= after else None  # noqa: E731
    list(store.seal_in_steps(JOB, "7", 0, pieces, deadline))
    kept = unpacked(store)
    count = {1: 1, 30: 1, 60: 2, 200: 4}[after]
    assert kept == {f"7/{name}": content for name, content in [*contents.items()][:count]}
    outputs = store.outputs(JOB)
    assert {name: b"".join(outputs.open_file(name)[1]) for name in outputs.entries} == dict([*contents.items()][:count])
    assert bool(outputs.notes) is (count < 4)
    if count < 4:
        assert outputs.notes[0] == f"`{'abcd'[count]}` and everything after it was not kept: time is over"


def test_removal_of_a_packed_folder_can_pause(store, folder):
    for number in range(3000):
        (folder / str(number)).touch()
    deque(store.seal_in_steps(JOB, "7", 0), maxlen=0)
    assert len(os.listdir(folder)) == 3000
    steps = store.remove_outputs_in_steps(JOB)
    next(steps)
    steps.close()
    left = len(os.listdir(folder))
    assert 0 < left < 3000
    assert len(list(store.remove_outputs_in_steps(JOB))) >= left // 256
    assert not folder.exists() and len(store.outputs(JOB).entries) == 3000


# Permissions.


def as_another(folder: Path, act) -> None:
    """Call `act` as an unprivileged account."""
    require_root()
    os.seteuid(NOBODY)
    try:
        act()
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder of outputs below a folder that every account can enter."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    (place / "outputs").mkdir()
    yield place / "outputs"
    remove_tree(place)


@pytest.mark.parametrize("mode", [0, 0o200, 0o300, 0o100])
def test_unreadable_outputs_are_kept_with_their_mode(open_folder, mode):
    (open_folder / "d").mkdir()
    for path in (open_folder / "w", open_folder / "d" / "in"):
        path.write_bytes(b"content")
    os.chown(open_folder, NOBODY, NOBODY)
    for path in (open_folder / "w", open_folder / "d" / "in", open_folder / "d"):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    open_folder.chmod(mode)
    packer, out = Packer("7", can_change_modes=True), io.BytesIO()
    as_another(open_folder, lambda: out.write(b"".join([*packer.folder(open_folder), *packer.end()])))
    assert packer.notes == []
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert {member.name: member.mode for member in archive} == {"7/d": mode, "7/d/in": mode, "7/w": mode}
        assert archive.extractfile("7/d/in").read() == archive.extractfile("7/w").read() == b"content"
    for path in (open_folder, open_folder / "w", open_folder / "d", open_folder / "d" / "in"):
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0, 0o200, 0o300, 0o400, 0o600])
@pytest.mark.parametrize("below", ["", "d"])
def test_root_without_capabilities_keeps_unreadable_outputs(store, folder, mode, below):
    (folder / below).mkdir(exist_ok=True)
    (folder / below / "f").write_bytes(b"content")
    (folder / below / "f").chmod(mode)
    (folder / below).chmod(mode)
    with without_capabilities(DAC_OVERRIDE, DAC_READ_SEARCH):
        store.seal(JOB, "7", 0)
    outputs, name = store.outputs(JOB), f"{below}/f".strip("/")
    assert outputs.notes == [] and b"".join(outputs.open_file(name)[1]) == b"content"
    with tarfile.open(outputs.path) as archive:
        assert {member.mode for member in archive} == {mode}
    assert not folder.exists()


def test_files_of_root_in_foreign_outputs_stay_unreadable(open_folder):
    """The attack: a job links to an unreadable file of root so that the server opens it."""
    (open_folder / "f").write_bytes(b"secret")
    (open_folder / "f").chmod(0o200)
    packer = Packer("7", can_change_modes=True)
    with without_capabilities(DAC_OVERRIDE, DAC_READ_SEARCH):
        os.chown(open_folder, NOBODY, NOBODY)
        changed = (open_folder / "f").stat().st_ctime_ns
        assert b"".join(packer.folder(open_folder)) == b""
    assert packer.notes == ["`f` was not kept: Permission denied"]
    assert (open_folder / "f").stat().st_ctime_ns == changed


def test_protected_files_of_a_running_job_stay_closed(open_folder):
    (open_folder / "w").write_bytes(b"x")
    os.chown(open_folder, NOBODY, NOBODY)
    os.chown(open_folder / "w", NOBODY, NOBODY)
    (open_folder / "w").chmod(0)
    out = io.BytesIO()
    as_another(open_folder, lambda: out.write(b"".join(LiveOutputs(open_folder).tarball("7"))))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames() == []


@pytest.mark.parametrize("below", ["", "sub"])
def test_hard_links_to_files_of_root_are_neither_kept_nor_served(store, folder, tmp_path, below):
    """The attack: with fs.protected_hardlinks=0, a job links a file that it cannot read into its outputs."""
    require_root()
    (tmp_path / "root-token").write_bytes(b"secret")
    (tmp_path / "root-token").chmod(0o600)
    (folder / below).mkdir(exist_ok=True)
    (folder / below / "own").write_bytes(b"own")
    for path in (folder, folder / below, folder / below / "own"):
        os.chown(path, NOBODY, NOBODY)
    os.link(tmp_path / "root-token", folder / below / "token")
    live, name = LiveOutputs(folder), f"{below}/token".strip("/")
    with pytest.raises(PathNotFound):
        live.open_file(name)
    assert b"".join(live.open_file(f"{below}/own")[1]) == b"own"
    with tarfile.open(fileobj=io.BytesIO(b"".join(live.tarball("7")))) as archive:
        assert not [listed for listed in archive.getnames() if "token" in listed]
    store.seal(JOB, "7", 0)
    assert name not in store.outputs(JOB).entries
    assert store.outputs(JOB).notes == [f"`{name}` was not kept: it belongs to another account than the job's"]
    assert (tmp_path / "root-token").read_bytes() == b"secret"


# Names.


NAMES = ["caf\udce9.txt", "dir\udcff/f", "100%", "%41.txt", "a%20b", "日本語", "%FF", "tab\tname"]


@pytest.mark.parametrize("sealed", [False, True])
def test_every_listed_name_can_be_requested(store, folder, sealed):
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.fsencode(name))
    outputs = LiveOutputs(folder)
    if sealed:
        store.seal(JOB, "7", 0)
        outputs = store.outputs(JOB)
    for name in NAMES:
        for path in (name, escape_name(name)):
            path.encode("utf-8", "surrogateescape")
            assert b"".join(outputs.open_file(path)[1]) == os.fsencode(name)
    assert outputs.tree(escape_name("dir\udcff")) == ([("f", 6)], [])
    assert escape_name("caf\udce9.txt") == "caf%E9.txt"


ALIKE = [
    "caf\udce9",
    "caf%E9",
    "caf%25E9",
    "caf%2525E9",
    "a\tb",
    "a%09b",
    "\udcc3\udce9",
    "%C3%E9",
    "\udcc3%E9",
    "%%25",
    "%25",
    "%",
]
"""Names that would be listed alike if only some of their bytes were escaped."""


@pytest.mark.parametrize("sealed", [False, True])
def test_similar_names_lead_to_their_own_files(store, folder, sealed):
    for name in ALIKE:
        (folder / name).write_bytes(os.fsencode(name))
        (folder / f"in {name}").mkdir()
        (folder / f"in {name}" / name).write_bytes(os.fsencode(f"in {name}"))
        (folder / f"in {name}" / "link").symlink_to(name)
    outputs = LiveOutputs(folder)
    if sealed:
        store.seal(JOB, "7", 0)
        outputs = store.outputs(JOB)
    files, folders = outputs.tree("")
    assert len({escape_name(name) for name in [*folders, *(name for name, _ in files)]}) == 2 * len(ALIKE)
    for name in ALIKE:
        inside = escape_name(f"in {name}")
        assert b"".join(outputs.open_file(escape_name(name))[1]) == os.fsencode(name)
        assert b"".join(outputs.open_file(f"{inside}/{escape_name(name)}")[1]) == os.fsencode(f"in {name}")
        assert outputs.links(inside) == {"link": name}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("listed", "other"), [("a%09b", "a%2509b"), ("a%2509b", "a%09b")])
def test_name_leads_only_to_its_own_kind(store, folder, sealed, listed, other):
    (folder / unescape_name(listed)).touch()
    (folder / unescape_name(other)).mkdir()
    outputs = LiveOutputs(folder)
    if sealed:
        store.seal(JOB, "7", 0)
        outputs = store.outputs(JOB)
    with pytest.raises(PathNotFound, match=listed):
        outputs.tree(listed)
    with pytest.raises(PathNotFound, match=other):
        outputs.open_file(other)


@pytest.mark.parametrize("sealed", [False, True])
def test_tree_is_listed_in_pages(store, folder, sealed):
    names = sorted(f"{number}" for number in range(25))
    for name in names:
        if int(name) % 5:
            (folder / name).touch()
        else:
            (folder / name).mkdir()
    outputs = LiveOutputs(folder)
    if sealed:
        store.seal(JOB, "7", 0)
        outputs = store.outputs(JOB)
    listed, after = [], ""
    for size in (10, 10, 5, 0):
        files, folders = outputs.tree("", after, 10)
        part = sorted([*folders, *(name for name, _ in files)])
        assert len(part) == size
        listed += part
        after = listed[-1]
    assert listed == names
