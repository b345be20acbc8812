"""What images are made from, and what the Engine streams."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.archives import END_OF_ARCHIVE, below, context, renamed
from runners.base import BuildSpec
from runners.docker_logs import BEGIN, DROPPED, Frames, LogCursor
from runners.dockerfile import LINE, first_step, render_dockerfile


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


def test_a_line_feed_in_a_variable_reaches_the_steps():
    text = render_dockerfile(spec(steps=("env",), env={"A": "one\n#two\n", "B": "b"}), {})
    run = text.splitlines()[-1].removeprefix("RUN ")
    assert json.loads(run)[3] == "export A='one\n#two\n'\nenv"
    assert 'ENV B="b"' in text
    assert "ENV A" not in text


@pytest.mark.parametrize("step", ["x" * 120_000, "echo a  b; " * 10_000, "\\" * 50_000, "é #" * 30_000])
def test_no_line_is_longer_than_the_engine_takes_and_all_are_one_again(step):
    text = render_dockerfile(spec(steps=(step,), env={"A": "v" * 90_000}), {})
    if "a" in step or "x" in step:
        assert max(map(len, text.splitlines())) <= LINE + 1
    joined = text.replace("\\\n", "")
    assert json.loads(joined.splitlines()[-1].removeprefix("RUN "))[3] == step
    assert f'ENV A="{"v" * 90_000}"' in joined


def test_the_first_step_has_the_number_of_its_instruction():
    made = spec(steps=("a", "b"), env={"A": "1", "B": "2\n3"}, files=("f",))
    lines = render_dockerfile(made, {"l": "1"}).splitlines()
    assert lines[first_step(made) - 1].startswith("RUN")
    assert not lines[first_step(made) - 2].startswith("RUN")


def frame(stamp, data):
    content = stamp.encode() + b" " + data
    return b"\1\0\0\0" + len(content).to_bytes(4, "big") + content


NOON = "2026-11-23T12:00:00"


def log(*parts, begin=True):
    """A stream of (seconds, data), each its own frame; what every container writes first stands before it."""
    framed = [(f"{NOON}.000000000Z", BEGIN)] if begin else []
    framed += [(f"{NOON}.{at}Z", data) for at, data in parts]
    return b"".join(frame(*part) for part in framed)


def cut(stream, size):
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.integers(1, 9), st.integers(1, 30))
def test_frames_come_whole_however_they_are_cut(parts, size, limit):
    frames = Frames(cut(log(*(("1", part) for part in parts)), size), LogCursor())
    found = b""
    while data := frames.read(limit):
        found += data
    assert found == b"".join(parts)


def test_a_frame_that_is_cut_off_is_left_out():
    assert Frames([log(("1", b"one"), ("2", b"two"))[:-1]], LogCursor()).read(100) == b"one"


PARTS = [("1", b"0"), ("1", b"1"), ("100000001", b"2"), ("2", b"3"), ("2", b"4")]


@pytest.mark.parametrize("count", range(6))
def test_a_cursor_neither_repeats_nor_skips_what_bears_one_moment(count):
    first = Frames([log(*PARTS)], LogCursor())
    seen = b"".join(first.read(1) for _ in range(count))
    cursor = LogCursor.read(first.cursor.text()) if seen else LogCursor()
    since = [part for part in PARTS if not seen or f"{NOON}.{part[0].ljust(9, '0')}" >= cursor.moment]
    assert seen + Frames([log(*since, begin=not seen)], cursor).read(100) == b"01234"


def test_where_the_engine_has_dropped_bytes_a_line_says_so():
    assert Frames([log(("3", b"late"), begin=False)], LogCursor()).read(100) == DROPPED + b"late"
    first = Frames([log(*PARTS)], LogCursor())
    first.read(2)
    later = Frames([log(("3", b"late"), begin=False)], first.cursor)
    assert later.read(100) == DROPPED + b"late"
    assert Frames([log(("3", b"late"), ("4", b"r"), begin=False)], later.cursor).read(100) == b"r"


def test_what_says_that_there_is_no_shell_is_no_gap():
    said = b"[FATAL tini (6)] exec /bin/sh failed: No such file or directory\n"
    assert Frames([log(("1", said), begin=False)], LogCursor()).read(1000) == said


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
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(renamed(pieces, lambda name: below(name, 1))) + END_OF_ARCHIVE)
    ) as archive:
        assert archive.getnames() == ["a", "d/b", "l"]
        assert archive.extractfile("l").read() == b"x" * 600


def test_the_context_of_a_build_holds_its_files():
    with tarfile.open(fileobj=io.BytesIO(context("FROM x", [("a", b"1", 0o755)]))) as archive:
        assert archive.getnames() == ["Dockerfile", "a"]
