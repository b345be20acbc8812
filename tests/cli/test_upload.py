"""What of a folder is uploaded."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from polyjob.cli.upload import Unusable, files, pack


def make(folder, *paths, **contents):
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)


def names(folder):
    return [path.relative_to(folder).as_posix() for path in files(folder)]


def test_everything_but_what_git_keeps_for_itself(tmp_path):
    make(tmp_path, "a.py", "sub/b.py", ".git/config", "sub/.git/x", ".polyaxon/project")
    assert names(tmp_path) == ["a.py", "sub/b.py"]


def test_ignore_files_count_for_their_folder_and_below_and_the_last_word_decides(tmp_path):
    make(tmp_path, "a.log", "keep.log", "sub/a.log", "sub/b.txt", "sub/deep/b.txt", "other/b.txt", "data/x", "build/y")
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/data/\n# remark\nbuild\n")
    (tmp_path / "sub" / ".polyaxonignore").write_text("b.txt\n!a.log\n")
    assert names(tmp_path) == [".gitignore", "keep.log", "other/b.txt", "sub/.polyaxonignore", "sub/a.log"]


def test_polyaxonignore_stands_behind_gitignore(tmp_path):
    make(tmp_path, "a", "b")
    (tmp_path / ".gitignore").write_text("a\n")
    (tmp_path / ".polyaxonignore").write_text("!a\nb\n")
    assert names(tmp_path) == [".gitignore", ".polyaxonignore", "a"]


def test_a_line_that_is_no_pattern_counts_for_nothing(tmp_path):
    make(tmp_path, "a", "b", "!")
    (tmp_path / ".gitignore").write_bytes(b"!\na\n")
    assert names(tmp_path) == ["!", ".gitignore", "b"]


def test_names_and_patterns_need_not_be_text(tmp_path):
    for name in (b"a\xff", b"b\xff"):
        (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / ".gitignore").write_bytes(b"a\xff\n")
    assert [os.fsencode(name) for name in names(tmp_path)] == [b".gitignore", b"b\xff"]
    assert pack(tmp_path, io.BytesIO()) == 2


def test_links_that_go_round_or_nowhere_are_links(tmp_path):
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("nothing")
    assert pack(tmp_path, io.BytesIO()) == 2


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Unusable, match="Permission denied"):
        pack(tmp_path, io.BytesIO())


def test_packs_names_below_the_folder_and_links_within(tmp_path):
    make(tmp_path, "sub/a")
    (tmp_path / "link").symlink_to("sub/a")
    out = io.BytesIO()
    assert pack(tmp_path, out) == 2
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        assert {item.name: item.issym() for item in archive} == {"link": True, "sub/a": False}


def test_the_same_folder_packs_to_the_same_bytes(tmp_path):
    make(tmp_path, "a", "b/c")
    packed = []
    for _ in range(2):
        out = io.BytesIO()
        pack(tmp_path, out)
        packed.append(out.getvalue())
    assert packed[0] == packed[1]


def test_a_link_that_leads_out_is_named(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(Unusable, match="link"):
        pack(tmp_path, io.BytesIO())


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(Unusable, match="nothing"):
        list(files(tmp_path / "nothing"))
