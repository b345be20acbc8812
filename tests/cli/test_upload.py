"""Packing a folder, without ignored files."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from polyjob.cli.upload import MAX_IGNORE_FILE_BYTES, UnusableUpload, files, pack
from polyjob.storage.uploads import _check_target
from tests.require import require


def create_files(folder, *paths, **contents):
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)


def names(folder):
    return [path.relative_to(folder).as_posix() for path in files(folder)]


def test_metadata_of_git_and_polyaxon_is_ignored(tmp_path):
    create_files(tmp_path, "a.py", "sub/b.py", ".git/config", "sub/.git/x", ".polyaxon/project")
    assert names(tmp_path) == ["a.py", "sub/b.py"]


def test_nearest_ignore_file_and_last_pattern_decide(tmp_path):
    create_files(
        tmp_path, "a.log", "keep.log", "sub/a.log", "sub/b.txt", "sub/deep/b.txt", "other/b.txt", "data/x", "build/y"
    )
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/data/\n# remark\nbuild\n")
    (tmp_path / "sub" / ".polyaxonignore").write_text("b.txt\n!a.log\n")
    assert names(tmp_path) == [".gitignore", "keep.log", "other/b.txt", "sub/.polyaxonignore", "sub/a.log"]


def test_polyaxonignore_wins_over_gitignore(tmp_path):
    create_files(tmp_path, "a", "b")
    (tmp_path / ".gitignore").write_text("a\n")
    (tmp_path / ".polyaxonignore").write_text("!a\nb\n")
    assert names(tmp_path) == [".gitignore", ".polyaxonignore", "a"]


def test_malformed_pattern_is_skipped(tmp_path):
    create_files(tmp_path, "a", "b", "!")
    (tmp_path / ".gitignore").write_bytes(b"!\na\n")
    assert names(tmp_path) == ["!", ".gitignore", "b"]


def test_names_and_patterns_may_be_any_bytes(tmp_path):
    for name in (b"a\xff", b"b\xff"):
        (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / ".gitignore").write_bytes(b"a\xff\n")
    assert [os.fsencode(name) for name in names(tmp_path)] == [b".gitignore", b"b\xff"]
    assert pack(tmp_path, io.BytesIO()) == 2


def test_broken_links_are_packed_as_links(tmp_path):
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("nothing")
    assert pack(tmp_path, io.BytesIO()) == 2


def test_unreadable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnusableUpload, match="Permission denied"):
        pack(tmp_path, io.BytesIO())


def test_tarball_has_relative_names_and_links(tmp_path):
    create_files(tmp_path, "sub/a")
    (tmp_path / "link").symlink_to("sub/a")
    out = io.BytesIO()
    assert pack(tmp_path, out) == 2
    out.seek(0)
    with tarfile.open(fileobj=out) as tarball:
        assert {item.name: item.type for item in tarball} == {
            "link": tarfile.SYMTYPE, "sub": tarfile.DIRTYPE, "sub/a": tarfile.REGTYPE
        }  # fmt: skip


def test_same_folder_gives_the_same_bytes(tmp_path):
    create_files(tmp_path, "a", "b/c")
    packed = []
    for _ in range(2):
        out = io.BytesIO()
        pack(tmp_path, out)
        packed.append(out.getvalue())
    assert packed[0] == packed[1]


def test_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(UnusableUpload, match="link"):
        pack(tmp_path, io.BytesIO())


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(UnusableUpload, match="nothing"):
        list(files(tmp_path / "nothing"))


def files_of_git(folder):
    subprocess.run(["git", "init", "-q", folder], check=True)
    command = ["git", "-c", "core.excludesFile=", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    return sorted(os.fsdecode(name) for name in listed.split(b"\0") if name)


@pytest.fixture
def git():
    require("git", shutil.which("git") is not None, "git is not installed")


TREE = (
    "main.py",
    "a.log",
    "runs/b.log",
    "pkg/mod.py",
    "pkg/sub/deep.py",
    "packages/a/node_modules/key",
    "src/__pycache__/x",
)


@pytest.mark.parametrize(
    "ignored",
    [
        {".gitignore": text}
        for text in (
            "*\n!*/\n!*.py\n",
            "!/**/*.py\n",
            "**\n!**/\n",
            "*\n!*.*\n!*/\n",
            "pkg/**\n!pkg/sub/\n!pkg/sub/deep.py\n",
            "*\n!/pkg\n!/pkg/*\n",
            "node_modules/\n!packages/\n",
            "__pycache__/\n!src/\n",
            "*.log\r\n",
            "main.py \n",
            "main.py\\ \n",
            "\ufeffmain.py\n",
            "pkg\u2028x\nmain.py\n",
            "a\x0bmain.py\n",
            "[!a-z]*\n",
            "\\!x\n[\n",
            "/**\n",
        )
    ]
    + [
        {".gitignore": "*.log\n", "runs/.gitignore": "!runs/\n"},
        {".gitignore": "*.log\n", "runs/.gitignore": "!*.log"},
    ],
)
def test_files_are_those_of_git(git, tmp_path, ignored):
    create_files(tmp_path, *TREE)
    for name, text in ignored.items():
        (tmp_path / name).write_bytes(text.encode())
    assert sorted(names(tmp_path)) == files_of_git(tmp_path)


@pytest.mark.parametrize("pattern", ["?", "[!a]", "[é]", "é", "*é", "caf?", "caf??", "[[:alpha:]]", "[!é]x", "é/?"])
def test_ignore_patterns_match_bytes_as_in_git(git, tmp_path, pattern):
    create_files(tmp_path, "é", "x", "café", "日x", "sub/日/é")
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    (tmp_path / ".gitignore").write_text(f"{pattern}\n", encoding="utf-8")
    assert sorted(names(tmp_path)) == files_of_git(tmp_path)


NAMES = ["a", "b", "src", "pkg", "sub", "x.py", "y.log", "node_modules", "a b", "[a]", "d.e"]
PATTERNS = [
    "a",
    "b/",
    "*",
    "!*/",
    "!*.py",
    "*.log",
    "/pkg",
    "!/pkg/*",
    "pkg/**",
    "!pkg/sub/",
    "**/sub",
    "**",
    "!**/",
    "src/**/x.py",
    "!a",
    "[ab]",
    "[!a]",
    "?",
    "a\\ b",
    "sub/*",
    "*/x.py",
    "!/**/*.py",
    "***",
    "a**",
    "**a",
    "[[:alpha:]]",
    "[a-",
    "\\",
    "foo\\",
    "*.*",
    "!*.*",
    "**/",
    "/",
    "/*",
    "!/a",
    "a/**/b",
    "a ",
    "# x",
    "!",
    "[]a]",
    "[^]a]",
    "/**",
    "!src",
    "sub/**/",
]


def create_random_tree(rng: random.Random, folder: Path, depth: int = 0) -> None:
    for name in rng.sample(NAMES, rng.randint(1, 5)):
        if "." not in name and depth < 3 and rng.random() < 0.6:
            (folder / name).mkdir()
            create_random_tree(rng, folder / name, depth + 1)
        else:
            (folder / name).touch()
    if rng.random() < (0.9 if depth == 0 else 0.25):
        lines = [rng.choice(PATTERNS) for _ in range(rng.randint(1, 4))]
        (folder / ".gitignore").write_text(rng.choice(["\n", "\r\n"]).join(lines) + "\n")


def test_files_of_generated_trees_are_those_of_git(git, tmp_path):
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        create_random_tree(random.Random(seed), folder)
        assert sorted(names(folder)) == files_of_git(folder), seed


@pytest.mark.parametrize("name", [".gitignore", ".polyaxonignore"])
def test_pipe_as_ignore_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnusableUpload, match=f"{name}` is not a regular file"):
        list(files(tmp_path))


def test_huge_ignore_file_is_refused(tmp_path):
    (tmp_path / ".gitignore").write_bytes(b"a\n" * MAX_IGNORE_FILE_BYTES)
    with pytest.raises(UnusableUpload, match="larger than 1 MiB"):
        list(files(tmp_path))


def test_empty_folders_are_packed(tmp_path):
    create_files(tmp_path, "a", "build/x")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("build\n")
    out = io.BytesIO()
    assert pack(tmp_path, out) == 2
    out.seek(0)
    with tarfile.open(fileobj=out) as tarball:
        assert tarball.getnames() == [".gitignore", "a", "empty", "empty/inner"]


@pytest.mark.parametrize(
    ("link", "target", "packed"),
    [
        ("l", "{root}/real", "real"),
        ("l", "sub/../real", "real"),
        ("l", "./real", "real"),
        ("sub/l", "{root}/real", "../real"),
        ("sub/l", "../../{name}/real", "../real"),
        ("l", "real", "real"),
        ("sub/l", "../real", "../real"),
        ("l", "none", "none"),
    ],
)
def test_link_is_packed_in_the_form_of_the_server(tmp_path, link, target, packed):
    create_files(tmp_path, "real", "sub/x")
    (tmp_path / link).symlink_to(target.format(root=tmp_path, name=tmp_path.name))
    out = io.BytesIO()
    pack(tmp_path, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tarball:
        assert tarball.getmember(link).linkname == packed
    _check_target(link, packed)
