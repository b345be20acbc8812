"""Trees that a job's account can write to: removal, owners and sizes, also while that account exchanges entries."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners.common import trees
from runners.common.trees import give_tree, remove_tree, removing_tree, size_of
from tests.require import require_root
from tests.runners.harness import as_nobody

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
RENAME_EXCHANGE = 2


# remove_tree.


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_read_only_folders_are_removed(tmp_path):
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    parent.chmod(0o777)

    def make_and_remove():
        for bits in (0, 0o100, 0o400, 0o500, 0o600, 0o300):
            top = parent / f"top{bits}"
            (top / "in" / "deeper").mkdir(parents=True)
            (top / "in" / "f").write_bytes(b"x")
            (top / "in" / "f").chmod(0)
            for folder in (top / "in" / "deeper", top / "in", top):
                folder.chmod(bits)
            remove_tree(top)
            assert not top.exists()

    try:
        as_nobody(make_and_remove)
        assert files(parent) == []
    finally:
        parent.rmdir()


def test_links_are_removed_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"x")
    outside.chmod(0o555)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, target in (("a", outside), ("b", outside / "f"), ("c", "nowhere"), ("d", ".")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo")
    remove_tree(folder)
    assert not folder.exists()
    assert (outside / "f").read_bytes() == b"x" and mode(outside) == 0o555
    outside.chmod(0o755)
    for target in (outside, "nowhere"):
        folder.symlink_to(target)
        remove_tree(folder)
        assert not folder.is_symlink()
    assert files(outside) == ["f"]
    folder.write_bytes(b"a file")
    remove_tree(folder)
    remove_tree(folder)
    assert files(tmp_path) == ["outside"]


def test_deep_folders_are_removed_with_few_descriptors(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for level in range(1100):
        os.close(os.open("f", os.O_CREAT, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        if level % 100 == 0:
            os.mkdir("e", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    gc.collect()  # closes what earlier tests left open
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(tmp_path / "d")
    assert files(tmp_path) == ["e", "f"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_restarted_removal_of_a_deep_folder_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "DEPTH_LIMIT", 20)
    top = tmp_path / "top"
    for part in ("left", "right"):
        (top / part).joinpath(*["d"] * 200).mkdir(parents=True)
        (top / part).joinpath(*["d"] * 200, "f").touch()
    for _ in range(40):
        with contextlib.closing(removing_tree(top)) as steps:
            if all(number < 100 for number, _ in enumerate(steps)):
                break
    assert not top.exists()


@pytest.mark.parametrize("shape", ["flat", "wide", "deep"])
def test_paused_removal_continues(tmp_path, shape):
    top = tmp_path / "top"
    for number in range(3000):
        here = {"flat": top, "wide": top / str(number), "deep": top.joinpath(*"abcdefgh"[: number % 8])}[shape]
        here.mkdir(parents=True, exist_ok=True)
        (here / f"f{number}").touch()
    before = len(os.listdir("/proc/self/fd"))
    steps = removing_tree(top)
    for _ in range(5):
        next(steps)
    steps.close()
    assert top.exists() and len(os.listdir("/proc/self/fd")) == before
    assert sum(1 for _ in removing_tree(top)) >= 5
    assert not top.exists()


def test_many_threads_remove_the_same_folder(tmp_path):
    errors: list[BaseException] = []

    def remove():
        try:
            remove_tree(tmp_path / "top")
        except BaseException as error:
            errors.append(error)

    for _ in range(10):
        for a in range(6):
            for b in range(4):
                (tmp_path / "top" / str(a) / str(b)).mkdir(parents=True)
                (tmp_path / "top" / str(a) / str(b) / "f").touch()
        threads = [threading.Thread(target=remove) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and files(tmp_path) == []


def test_links_that_replace_folders_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("f", "g"):
        (outside / name).touch()
    folder = tmp_path / "folder"
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for make in (lambda: (folder / "d").mkdir(), lambda: (folder / "d").symlink_to(outside)):
                try:
                    make()
                    (folder / "d").rename(folder / "e")
                    (folder / "e").rename(folder / "d")
                    (folder / "d").rmdir() if not (folder / "d").is_symlink() else (folder / "d").unlink()
                except OSError:
                    continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(700):
            folder.mkdir(exist_ok=True)
            try:
                remove_tree(folder)
            except OSError:
                continue
    finally:
        stop.set()
        thread.join()
    assert files(outside) == ["f", "g"]


def test_undeletable_entry_raises(tmp_path):
    require_root()
    (tmp_path / "top" / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "top" / "mounted"], check=True)
    try:
        with pytest.raises(OSError):
            remove_tree(tmp_path / "top")
    finally:
        subprocess.run(["umount", tmp_path / "top" / "mounted"], check=True)
    remove_tree(tmp_path / "top")
    assert files(tmp_path) == []


# give_tree and size_of.


def exchange(one: Path, other: Path) -> None:
    """Exchange two names at one instant, as `renameat2` can."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE)


@contextlib.contextmanager
def exchanging(*pairs: tuple[Path, Path]) -> Iterator[None]:
    """Exchange each name for a link of the same attacker, over and over, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            for name, link in pairs:
                exchange(name, link)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files of root that nothing may change."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True, mode=0o755)
    (folder / "token").write_bytes(b"secret")
    return folder


def state(folder: Path) -> list[tuple[str, int, int]]:
    paths = [folder, *sorted(folder.rglob("*"))]
    return [(path.name, path.lstat().st_uid, stat.S_IMODE(path.lstat().st_mode)) for path in paths]


def test_given_tree_belongs_to_the_account(tmp_path: Path) -> None:
    require_root()
    folder = tmp_path / "given"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "f").touch()
    (folder / "link").symlink_to("a")
    give_tree(folder, NOBODY, NOBODY)
    assert {path.lstat().st_uid for path in [folder, *folder.rglob("*")]} == {NOBODY}


@pytest.mark.parametrize("target", ["token", "inner", "."])
def test_targets_of_links_keep_their_owner(tmp_path: Path, outside: Path, target: str) -> None:
    require_root()
    before = state(outside)
    for number in range(50):
        folder, links = tmp_path / f"given{number}", tmp_path / f"links{number}"
        (folder / "folder").mkdir(parents=True)
        (folder / "file").touch()
        links.mkdir()
        for name in ("file", "folder"):
            (links / name).symlink_to(outside / target)
        pairs = [(folder / name, links / name) for name in ("file", "folder")]
        with exchanging(*pairs), contextlib.suppress(OSError):
            give_tree(folder, NOBODY, NOBODY)
        assert state(outside) == before


def test_folder_of_another_account_is_not_given(tmp_path: Path) -> None:
    require_root()
    (tmp_path / "given" / "inner").mkdir(parents=True)
    os.chown(tmp_path / "given" / "inner", NOBODY, NOBODY)
    with pytest.raises(PermissionError):
        give_tree(tmp_path / "given", NOBODY, NOBODY)
    assert (tmp_path / "given").stat().st_uid == 0


def test_removal_changes_no_mode_outside(tmp_path: Path, outside: Path) -> None:
    require_root()
    before = state(outside)
    for number in range(50):
        folder, links = tmp_path / f"removed{number}", tmp_path / f"links{number}"
        links.mkdir()
        for name in "abcdef":
            (folder / name / "inner").mkdir(parents=True)
            (links / name).symlink_to(outside)
        with exchanging(*((folder / name, links / name) for name in "abcdef")), contextlib.suppress(OSError):
            remove_tree(folder)
        assert state(outside) == before


def test_size_excludes_targets_of_links(tmp_path: Path, outside: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "f").write_bytes(b"12345")
    (folder / "link").symlink_to(outside)
    assert size_of(folder) == 5 + (folder / "link").lstat().st_size
    assert size_of(tmp_path / "none") == 0


def test_size_of_a_very_deep_folder_is_counted(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(b"12345")
    os.close(here)
    assert size_of(tmp_path / "d") == 5
    remove_tree(tmp_path / "d")


# No other module changes owners or modes.

GUARDED = {
    *("chown", "lchown", "fchown", "chmod", "lchmod", "fchmod"),
    *("rmtree", "copytree", "extractall"),
}
"""Calls by which root could be led out of a folder that a job's account can write to."""

ALLOWED = {
    "polyjob/storage/store.py: _restrict": "folders of the data folder, which belong to the server alone",
    "polyjob/storage/store.py: _copy_mode": "a folder just made, in one that belongs to the server alone",
    "polyjob/storage/store.py: _make_inputs_folder": "a folder in the job's, which belongs to the server alone",
    "runners/process/keeper_server.py: _listen": "the server's socket, in the server's own folder",
    "runners/process/spawn.py: _spawn_as": "the pipe that the keeper has made",
    "runners/process/job_files.py: _give_folder": "by descriptor, a folder that the keeper has just made",
    "runners/process/job_files.py: extract": "in a process that is the account already",
}
"""Function → why it is safe there."""


class Guard(ast.NodeVisitor):
    """Collects the functions of a file that name something guarded."""

    def __init__(self, path: Path) -> None:
        self.where = str(path.relative_to(ROOT))
        self.function = "the module"
        self.names: set[str] = set()
        self.visit(ast.parse(path.read_text()))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, node.name
        self.generic_visit(node)
        self.function = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of_os = isinstance(node.value, ast.Name) and node.value.id == "os"
        self.check(node.attr, of_os and node.attr in ("walk", "fwalk"))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.check(node.id)

    def visit_alias(self, node: ast.alias) -> None:
        self.check(node.name)

    def check(self, name: str, is_guarded: bool = False) -> None:
        if is_guarded or name in GUARDED:
            self.names.add(f"{self.where}: {self.function}")


def test_owners_and_modes_are_changed_nowhere_else() -> None:
    paths = [*ROOT.glob("polyjob/**/*.py"), *ROOT.glob("runners/**/*.py")]
    names = set().union(*(Guard(path).names for path in paths if path != ROOT / "runners/common/trees.py"))
    assert names == set(ALLOWED)
