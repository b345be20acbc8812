"""The data folder: creating, appending, sealing, linking and removing files, and crashes in between."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from polyjob.errors import Unavailable
from polyjob.logs.times import LineTimes
from polyjob.storage import store as store_module
from polyjob.storage.durable import write_durably
from polyjob.storage.store import STALE_PART_SECONDS, Store, StoreError
from runners.common.trees import remove_tree
from tests.capabilities import FOWNER, without_capabilities
from tests.require import require_root

ROOT = Path(__file__).resolve().parents[2]
JOB, OTHER = "a" * 32, "b" * 32
NOBODY = 65534


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    store.prepare()
    return store


def fill(store, uuid=JOB, **contents):
    folder = store.make_job_folder(uuid) / "outputs"
    folder.mkdir()
    for name, content in (contents or {"f": b"content"}).items():
        (folder / name).write_bytes(content)
    return folder


def read(store, path="f", uuid=JOB):
    return b"".join(store.outputs(uuid).open_file(path)[1])


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Folders.


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize(("shared", "expected"), [(False, 0o700), (True, 0o711)])
def test_prepare_creates_private_folders(tmp_path, umask, shared, expected):
    store = Store(tmp_path / "a" / "b" / "data")
    before = os.umask(umask)
    try:
        store.prepare(not shared)
        store.prepare(shared)
        store.prepare(shared)
        folders = [store.data_dir, store.make_job_folder(JOB), store.make_job_folder(JOB), store.make_build_folder(JOB)]
    finally:
        os.umask(before)
    folders += [store.data_dir / name for name in ("jobs", "builds", "code")]
    assert {mode(folder) for folder in folders} == {expected}
    assert files(store.data_dir) == ["builds", "code", "jobs"]
    assert store.free_bytes() > 0


def test_low_disk_is_refused_with_the_free_space(store, monkeypatch):
    monkeypatch.setattr(Store, "free_bytes", lambda self: 5 << 20)
    store.check_free_space(5 << 20)
    with pytest.raises(Unavailable, match=r"5 MiB left.*below 6 MiB"):
        store.check_free_space(6 << 20)


@pytest.fixture
def foreign_folder():
    """A folder that every account can enter, as parent of a folder of another account."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    yield place
    remove_tree(place)


def folder_of_nobody(place, permissions):
    folder = place / "data"
    require_root()
    folder.mkdir()
    os.chown(folder, NOBODY, os.getegid())
    folder.chmod(permissions)
    return folder


@pytest.mark.parametrize("given", [0o2770, 0o770])
def test_folder_of_another_account_keeps_its_mode(foreign_folder, given):
    folder = folder_of_nobody(foreign_folder, given)
    with without_capabilities(FOWNER):
        store_module._restrict(folder, 0o700)
    assert mode(folder) == given


@pytest.mark.parametrize("given", [0o2775, 0o777, 0o771])
def test_foreign_open_data_folder_is_refused(foreign_folder, given):
    folder = folder_of_nobody(foreign_folder, given)
    with without_capabilities(FOWNER), pytest.raises(StoreError, match="set POLYJOB_DATA_DIR to a new folder in it"):
        Store(folder).prepare()


def test_root_restricts_a_foreign_data_folder(foreign_folder):
    require_root()
    os.chown(foreign_folder, NOBODY, NOBODY)
    Store(foreign_folder).prepare()
    assert mode(foreign_folder) == 0o700


def test_job_folder_keeps_its_mode(store):
    store.make_job_folder(JOB).chmod(0o750)
    assert mode(store.make_job_folder(JOB)) == 0o750


@pytest.mark.parametrize("path", ["file", "file/below", "x" * 300, "/proc/nothing", "nul\0", "\ud800"])
def test_unusable_data_folder_raises_one_sentence(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as error:
        Store(tmp_path / path).prepare()
    assert str(error.value).startswith("the data folder '/") and "cannot be used: " in str(error.value)
    str(error.value).encode()


def test_unwritable_data_folder_is_refused(tmp_path):
    if os.geteuid() == 0:
        data = Path("/proc/sys")
    else:
        data = tmp_path
        data.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(data / "data").prepare()
    tmp_path.chmod(0o700)


def test_stale_temporary_files_are_removed(store):
    old, new, kept = (store.data_dir / "code" / name for name in ("1.part", "2.part", "3.tar.gz"))
    for path in (old, new, kept):
        path.touch()
    for path in (old, kept):
        os.utime(path, (time.time() - STALE_PART_SECONDS - 9,) * 2)
    store.prepare()
    assert files(store.data_dir / "code") == ["2.part", "3.tar.gz"]


# Logs.


def test_build_log_is_private_and_appended_to(store):
    store.make_build_folder(JOB)
    for line in (b"one\n", b"two\n"):
        with store.open_build_log(JOB) as file:
            file.write(line)
    assert store.build_log(JOB).read_bytes() == b"one\ntwo\n"
    assert mode(store.build_log(JOB)) == 0o600
    with LineTimes(store.build_log(JOB)) as times:
        assert times.at(0) is not None


def test_append_records_times(store):
    store.make_job_folder(JOB)
    log, noon = store.job_log(JOB), datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
    Store.append(log, b"one\n", 0, [(0, int(noon.timestamp() * 1000))])
    Store.append(log, b"lost", 4, [(0, 1)])
    Store.append(log, b"two\nthree\n", 4)
    with LineTimes(log) as times:
        assert times.at(3) == noon
        assert times.at(4) == times.at(8) > noon


def test_times_follow_the_line_about_lost_bytes(store):
    store.make_job_folder(JOB)
    log = store.job_log(JOB)
    Store.append(log, b"one\n", 0, [(0, 1000)])
    length = Store.append(log, b"three\n", 10, [(0, 3000)])
    with LineTimes(log) as times:
        assert times.at(length - 7).second == 1
        assert times.at(length - 6).second == 3


def test_append_truncates_uncommitted_bytes(store):
    store.make_job_folder(JOB)
    log = store.job_log(JOB)
    assert Store.append(log, b"one\n", 0) == 4
    assert Store.append(log, b"lost", 4) == 8
    assert Store.append(log, b"two\n", 4) == 8
    assert Store.append(log, b"", 8) == 8
    assert log.read_bytes() == b"one\ntwo\n"
    assert Store.append(log, b"\xff\0", 0) == 2
    assert log.read_bytes() == b"\xff\0" and mode(log) == 0o600


def test_append_reports_bytes_lost_in_a_power_cut(store):
    store.make_job_folder(JOB)
    log = store.job_log(JOB)
    Store.append(log, b"one\n", 0)
    length = Store.append(log, b"three\n", 10)
    assert log.read_bytes() == (
        b"one\n\npolyjob: 6 bytes of the log were lost here when the machine went down\nthree\n"
    )
    assert length == log.stat().st_size
    assert Store.append(log, b"four\n", length) == length + 5


def test_append_on_a_full_disk_keeps_existing_bytes(tmp_path):
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        log = tmp_path / "log"
        Store.append(log, b"kept", 0)
        with pytest.raises(OSError) as error:
            Store.append(log, bytes(100_000), 4)
        assert error.value.errno == errno.ENOSPC
        assert Store.append(log, b" on", 4) == 7
        assert log.read_bytes() == b"kept on"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# Sealing.


def test_seal_is_done_once(store):
    fill(store)
    store.seal(JOB, "7", 0)
    before = store.outputs(JOB).etag
    assert files(store.job_folder(JOB)) == ["outputs.json", "outputs.tar.gz"]

    def never():
        raise AssertionError("read again")
        yield b""

    store.seal(JOB, "7", 0, never())
    fill(store, f=b"other")
    store.seal(JOB, "7", 0)
    assert read(store) == b"content" and store.outputs(JOB).etag == before
    assert files(store.job_folder(JOB)) == ["outputs.json", "outputs.tar.gz"]
    assert {mode(path) for path in store.job_folder(JOB).iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("make", "is_empty"),
    [
        (lambda folder: None, True),
        (lambda folder: (folder / "log").touch(), True),
        (lambda folder: (folder / "outputs").mkdir(), True),
        (lambda folder: (folder / "log").write_text("text"), False),
        (lambda folder: (folder / "log").mkdir(), False),
        (lambda folder: (folder / "log").symlink_to("work"), False),
        (lambda folder: (folder / "log").touch(mode=0o200), False),
        (lambda folder: (folder / "outputs" / "model").mkdir(parents=True), False),
        (lambda folder: (folder / "outputs").symlink_to("."), False),
        (lambda folder: (folder / "outputs.json").touch(), False),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), False),
        (lambda folder: (shutil.rmtree(folder), folder.symlink_to(folder)), False),
    ],
)
def test_job_without_log_and_outputs_has_nothing_to_seal(store, make, is_empty):
    folder = store.make_job_folder(JOB)
    make(folder)
    assert store.has_nothing_to_seal(JOB) is is_empty


def test_job_gets_the_prepared_folder(store):
    for _ in range(2):
        store.prepare_job_folder()
    (store.data_dir / "jobs").chmod(0o711)  # as a restart with another account for jobs does
    prepared = (store.data_dir / "prepared-job").stat()
    folder = store.make_job_folder(JOB)
    assert folder.stat().st_ino == prepared.st_ino
    assert mode(folder) == 0o711
    assert not (store.data_dir / "prepared-job").exists()


def test_folder_of_a_job_is_not_replaced_by_the_prepared_one(store):
    folder = store.make_job_folder(JOB)
    (folder / "inputs.tar.gz").touch()
    store.prepare_job_folder()
    store.make_job_folder(JOB)
    assert files(folder) == ["inputs.tar.gz"]
    assert mode(store.make_job_folder(OTHER)) == 0o700


def test_only_empty_outputs_are_removed(store):
    outputs = store.make_job_folder(JOB) / "outputs"
    outputs.mkdir()
    (outputs / "model").touch()
    store.remove_empty_outputs(JOB)
    assert outputs.exists()
    (outputs / "model").unlink()
    for _ in range(2):
        store.remove_empty_outputs(JOB)
        assert not outputs.exists()


def test_unremovable_outputs_folder_does_not_block_the_job(store, monkeypatch):
    fill(store)

    def fails(path):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(store_module, "remove_tree", fails)
    store.seal(JOB, "7", 0)
    assert read(store) == b"content"


def test_seal_without_a_job_folder(store, tmp_path):
    store.seal(JOB, "7", 0)
    store.seal(OTHER, "7", 0, [])
    store.sync(JOB)
    assert store.outputs(JOB).is_empty and files(store.data_dir / "jobs") == [OTHER]
    assert files(store.job_folder(OTHER)) == ["outputs.json"] and store.outputs(OTHER).is_empty
    with tarfile.open(tmp_path / "t", "w") as archive:
        archive.add(__file__, "f")
    store.seal("c" * 32, "7", 0, [(tmp_path / "t").read_bytes()])
    assert read(store, uuid="c" * 32) == Path(__file__).read_bytes()


CRASHES = {
    "seal:before": ["outputs", "outputs.tar.gz.part"],
    "seal:after": ["outputs", "outputs.tar.gz"],
    "seal-index:before": ["outputs", "outputs.json.part", "outputs.tar.gz"],
    "seal-index:after": ["outputs", "outputs.json", "outputs.tar.gz"],
}


def crashed(point: str, code: str) -> None:
    environ = {**os.environ, "POLYJOB_CRASH_AT": point, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environ, timeout=30)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", CRASHES)
def test_seal_after_a_crash(store, point):
    fill(store, f=b"content", g=bytes(100_000))
    code = "import pathlib, sys; from polyjob.storage.store import Store"
    crashed(point, f"{code}; Store(pathlib.Path({str(store.data_dir)!r})).seal({JOB!r}, '7', 0)")
    assert files(store.job_folder(JOB)) == CRASHES[point]
    sealed = point == "seal-index:after"
    assert store.outputs(JOB).is_empty is not sealed
    store.link_inputs(JOB, OTHER)
    assert store.job_inputs(OTHER).exists() is sealed
    store.seal(JOB, "7", 0)
    assert files(store.job_folder(JOB)) == ["outputs.json", "outputs.tar.gz"]
    assert read(store) == b"content" and read(store, "g") == bytes(100_000)


def test_unwritable_index_leaves_the_job_unsealed(store, monkeypatch):
    fill(store)

    def fails(path, name, write):
        if name == "seal-index":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_durably(path, name, write)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_durably", fails)
        with pytest.raises(OSError, match="No space"):
            store.seal(JOB, "7", 0)
    assert store.outputs(JOB).is_empty and (store.job_folder(JOB) / "outputs" / "f").exists()
    store.seal(JOB, "7", 0)
    assert read(store) == b"content"


def test_logs_and_sealed_outputs_are_synced(store, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))

    def names():
        paths = [os.path.relpath(path, store.data_dir) for path in synced]
        synced.clear()
        return paths

    job = f"jobs/{JOB}"
    fill(store)
    store.seal(JOB, "7", 0)
    assert names() == [f"{job}/outputs.tar.gz.part", job, f"{job}/outputs.json.part", job]
    store.sync(JOB)
    assert names() == [job, "jobs"]
    Store.append(store.job_log(JOB), b"x", 0)
    store.sync(JOB)
    assert names() == [f"{job}/log", job, "jobs"]
    store.make_job_folder(OTHER)
    store.job_log(OTHER).touch()
    store.sync(OTHER)
    assert names() == []
    store.link_inputs(JOB, OTHER)
    assert names() == [f"jobs/{OTHER}", "jobs"]


def test_outputs_become_inputs_by_a_hard_link(store):
    fill(store)
    store.link_inputs(JOB, OTHER)
    assert not store.job_folder(OTHER).exists()
    store.seal(JOB, "7", 0)
    for _ in range(2):
        store.link_inputs(JOB, OTHER)
        assert store.job_inputs(OTHER).samefile(store.outputs(JOB).path)
    store.remove_job(JOB)
    with tarfile.open(store.job_inputs(OTHER)) as archive:
        assert archive.getnames() == ["7/f"]
    store.link_inputs(JOB, "c" * 32)
    assert not store.job_folder("c" * 32).exists()


def test_outputs_of_earlier_jobs_are_linked_by_name(store):
    fill(store)
    store.link_job_outputs(JOB, OTHER, "6")
    assert store.job_outputs(OTHER, "6").read_bytes() == b""
    store.seal(JOB, "7", 0)
    for _ in range(2):
        store.link_job_outputs(JOB, OTHER, "7")
        assert store.job_outputs(OTHER, "7").samefile(store.outputs(JOB).path)
    assert not store.has_nothing_to_seal(OTHER)
    for _ in range(2):
        for _ in store.remove_job_outputs_in_steps(OTHER):
            pass
        assert files(store.job_folder(OTHER)) == []
    assert store.outputs(JOB).path.exists()


@pytest.mark.parametrize(("mode", "expected"), [(0o711, 0o755), (0o700, 0o700)])
def test_account_of_a_job_can_list_the_outputs_of_earlier_jobs(store, mode, expected):
    store.make_job_folder(OTHER).chmod(mode)
    store.link_job_outputs(JOB, OTHER, "7")
    assert stat.S_IMODE(store.job_outputs(OTHER, "7").parent.stat().st_mode) == expected


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_inputs_are_copied_without_hard_links(store, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    fill(store)
    store.seal(JOB, "7", 0)
    store.link_inputs(JOB, OTHER)
    assert store.job_inputs(OTHER).read_bytes() == store.outputs(JOB).path.read_bytes()
    assert files(store.job_folder(OTHER)) == [store.job_inputs(OTHER).name]


class TestInputsWithoutLinks:
    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)

    def test_copy_needs_free_space(self, store, monkeypatch):
        fill(store)
        store.seal(JOB, "7", 0)
        size = store.outputs(JOB).path.stat().st_size
        monkeypatch.setattr(Store, "free_bytes", lambda self: size + 99)
        with pytest.raises(Unavailable, match="disk has 0 MiB left"):
            store.link_inputs(JOB, OTHER, keep_free=100)
        assert files(store.job_folder(OTHER)) == []
        store.link_inputs(JOB, OTHER, keep_free=99)
        assert store.job_inputs(OTHER).exists()

    def test_outputs_are_copied_once_at_a_time(self, store, monkeypatch):
        fill(store)
        store.seal(JOB, "7", 0)
        copy = shutil.copyfileobj

        def copy_twice(*arguments):
            with pytest.raises(Unavailable, match="are being copied"):
                store.link_inputs(JOB, "c" * 32)
            copy(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfileobj", copy_twice)
            store.link_inputs(JOB, OTHER)
        assert store.job_inputs(OTHER).exists()
        assert not store.job_inputs("c" * 32).exists()
        store.link_inputs(JOB, "c" * 32)
        assert store.job_inputs("c" * 32).exists()


def test_remove_deletes_all_files(store):
    fill(store)
    store.make_build_folder(JOB).joinpath("log").touch()
    for _ in range(2):
        store.remove_job(JOB)
        store.remove_build(JOB)
    assert files(store.data_dir / "jobs") == files(store.data_dir / "builds") == []


@pytest.mark.parametrize("mode", [0, 0o044, 0o400, 0o200])
def test_log_without_permissions_is_restored(tmp_path, mode):
    store = Store(tmp_path)
    store.prepare()
    store.make_job_folder("a" * 32)
    log = store.job_log("a" * 32)
    log.write_bytes(b"text\n")
    log.chmod(mode)
    assert list(store.restore_log_in_steps("a" * 32)) == []
    assert log.stat().st_mode & 0o600 == 0o600
    assert log.read_bytes() == b"text\n"


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_replacement_of_a_log_is_removed(tmp_path, kind):
    store = Store(tmp_path)
    store.prepare()
    store.make_job_folder("a" * 32)
    log = store.job_log("a" * 32)
    (tmp_path / "target").write_text("not this")
    {"folder": lambda: (log / "inner").mkdir(parents=True), "link": lambda: log.symlink_to(tmp_path / "target"),
     "pipe": lambda: os.mkfifo(log)}[kind]()  # fmt: skip
    for _ in store.restore_log_in_steps("a" * 32):
        pass
    assert not os.path.lexists(log)
    assert (tmp_path / "target").read_text() == "not this"
