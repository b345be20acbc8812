"""What images are made from, and the Engine's streams."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.base import BuildSpec
from runners.docker_streams import LogCursor, below, context, frames, new_frames, renamed
from runners.dockerfile import render_dockerfile


def spec(**fields):
    values = {
        "uuid": "a" * 32, "installation": "b" * 32, "folder": "/x", "key": "c" * 64, "image": "python:3", "steps": (),
        "env": {}, "nocache": False,
    }  # fmt: skip
    return BuildSpec(**(values | fields))


def test_the_whole_of_it():
    text = render_dockerfile(
        spec(
            steps=("pip install six", "echo 'a  b' \\\n  c"),
            env={"A": "1", "B": 'x "$Y" \\ z'},
            files=("setup.sh", "a b.txt"),
        ),
        {"polyjob.key": "k"},
    )
    assert text == (
        "FROM python:3\n"
        'ENV A="1"\n'
        'ENV B="x \\"\\$Y\\" \\\\ z"\n'
        "WORKDIR /code\n"
        'COPY ["a b.txt", "/code/a b.txt"]\n'
        'COPY ["setup.sh", "/code/setup.sh"]\n'
        'RUN ["/bin/sh", "-e", "-c", "pip install six"]\n'
        'RUN ["/bin/sh", "-e", "-c", "echo \'a  b\' \\\\\\n  c"]\n'
        'LABEL polyjob.key="k"\n'
    )


def frame(data):
    return b"\1\0\0\0" + len(data).to_bytes(4, "big") + data


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(1, 9))
def test_frames_come_whole_however_they_are_cut(parts, size):
    stream = b"".join(map(frame, parts))
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert list(frames(pieces)) == parts


def test_a_frame_that_is_cut_off_is_left_out():
    assert list(frames([frame(b"one"), frame(b"two")[:-1]])) == [b"one"]


STAMPS = ["2026-11-23T10:00:00.1Z", "2026-11-23T10:00:00.1Z", "2026-11-23T10:00:00.100000001Z", "2026-11-23T10:00:01Z"]


@pytest.mark.parametrize("count", range(5))
def test_a_cursor_neither_repeats_nor_skips_what_bears_one_moment(count):
    log = [f"{stamp} {number}".encode() for number, stamp in enumerate(STAMPS)]
    cursor, seen = LogCursor(), b""
    for data, behind in list(new_frames(log, cursor))[:count]:
        seen, cursor = seen + data, behind
    cursor = LogCursor.read(cursor.text())
    rest = b"".join(data for data, _ in new_frames(log, cursor))
    assert seen + rest == b"0123"


def test_archives_are_renamed_as_they_pass():
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
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(renamed(pieces, lambda name: below(name, 1))))) as archive:
        assert archive.getnames() == ["a", "d/b", "l"]
        assert archive.extractfile("l").read() == b"x" * 600


def test_the_context_of_a_build_holds_its_files():
    with tarfile.open(fileobj=io.BytesIO(context("FROM x", [("a", b"1")]))) as archive:
        assert archive.getnames() == ["Dockerfile", "a"]
