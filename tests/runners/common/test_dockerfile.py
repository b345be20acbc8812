"""What images are made from, and what the Engine streams."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.base import BuildSpec
from runners.common.dockerfile import LINE, SEPARATE_STEPS, first_step, render_dockerfile
from runners.common.tarstream import END_OF_ARCHIVE, below, context, renamed
from runners.docker.logs import BEGIN_LINE, DROPPED_LINE, Frames, LogCursor


def spec(**fields):
    values = {
        "uuid": "a" * 32, "installation": "b" * 32, "folder": "/x", "key": "c" * 64, "image": "python:3",
        "build_steps": (), "env": {}, "nocache": False,
    }  # fmt: skip
    return BuildSpec(**(values | fields))


SHELL = "if command -v bash >/dev/null 2>&1; then s=bash; else s=/bin/sh; fi; "


def runs_of(text):
    """The arguments of each RUN, after lines that were cut are joined again."""
    lines = text.replace("\\\n", "").splitlines()
    return [json.loads(line.removeprefix("RUN ")) for line in lines if line.startswith("RUN ")]


def test_dockerfile_has_labels_variables_files_and_steps():
    made = spec(
        build_steps=("pip install six", "echo 'a  b' \\\n  c"),
        env={"A": "1", "B": 'x "$Y" \\ z'},
        requirement_files=("setup.sh", "a b.txt"),
    )
    text = render_dockerfile(made, {"polyjob.installation": "i"}, {"polyjob.key": "k"}, has_open_folder=True)
    *others, first, second, last = text.splitlines()
    assert others == [
        "FROM python:3",
        'LABEL polyjob.installation="i"',
        'ENV A="1"',
        'ENV B="x \\"\\$Y\\" \\\\ z"',
        'COPY ["polyjob/", "/"]',
        "WORKDIR /code",
        'COPY ["a b.txt", "/code/a b.txt"]',
        'COPY ["setup.sh", "/code/setup.sh"]',
    ]
    assert runs_of(f"{first}\n{second}") == [
        ["/bin/sh", "-c", f'{SHELL}exec $s -e -c "$1"', "sh", step] for step in made.build_steps
    ]
    assert last == 'LABEL polyjob.key="k"'


@pytest.mark.parametrize("value", ["one\n#two\n", " " * 90_000, "#" * 90_000, "a\n" * 40_000])
def test_variable_that_no_env_can_hold_reaches_steps(value):
    text = render_dockerfile(spec(build_steps=("env",), env={"A": value, "B": "b", "no.name": value}), {})
    assert 'ENV B="b"' in text
    assert "ENV A" not in text
    assert "no.name" not in text
    assert runs_of(text) == [["/bin/sh", "-c", f'export A="$1"; shift; {SHELL}exec $s -e -c "$1"', "sh", value, "env"]]


@pytest.mark.parametrize("step", ["x" * 120_000, "echo a  b; " * 10_000, "\\" * 50_000, "é #" * 30_000, " " * 100_000])
def test_long_steps_are_cut_into_short_lines(step):
    text = render_dockerfile(spec(build_steps=(step,)), {})
    assert max(map(len, text.splitlines())) <= LINE + 1
    assert not any(line.startswith((" ", "#")) for line in text.splitlines())
    assert runs_of(text)[0][-1] == step


@pytest.mark.parametrize("letter", ["v", "漢", "=", "$", '"'])
def test_long_variables_are_cut_into_short_lines(letter):
    text = render_dockerfile(spec(env={"A": letter * 33_000}), {})
    assert max(len(line.encode()) for line in text.splitlines()) < 65_536
    joined = text.replace("\\\n", "")
    assert 'ENV A="' in joined
    assert joined.count(letter) - 2 * (letter == '"') - (letter in "=") == 33_000


def test_steps_beyond_the_layers_of_an_image_share_one():
    steps = tuple(f"echo {number}" for number in range(1, 131))
    runs = runs_of(render_dockerfile(spec(build_steps=steps), {}))
    assert len(runs) == SEPARATE_STEPS
    assert runs[-2][4:] == [f"echo {SEPARATE_STEPS - 1}"]
    assert runs[-1][4:] == list(steps[SEPARATE_STEPS - 1 :])
    assert f"n={SEPARATE_STEPS};" in runs[-1][2]


@pytest.mark.parametrize("has_open_folder", [False, True])
def test_first_step_has_the_number_of_its_instruction(has_open_folder):
    made = spec(build_steps=("a", "b"), env={"A": "1", "B": "2\n3"}, requirement_files=("f",))
    lines = render_dockerfile(made, {"l": "1"}, has_open_folder=has_open_folder).splitlines()
    number = first_step(made, {"l": "1"}, has_open_folder=has_open_folder)
    assert lines[number - 1].startswith("RUN")
    assert not lines[number - 2].startswith("RUN")


def frame(stamp, data):
    content = stamp.encode() + b" " + data
    return b"\1\0\0\0" + len(content).to_bytes(4, "big") + content


NOON = "2026-11-23T12:00:00"


def log(*parts, begin=True):
    """A stream of (seconds, data), each its own frame; what every container writes first stands before it."""
    framed = [(f"{NOON}.000000000Z", BEGIN_LINE)] if begin else []
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
    assert Frames([log(("3", b"late"), begin=False)], LogCursor()).read(100) == DROPPED_LINE + b"late"
    first = Frames([log(*PARTS)], LogCursor())
    first.read(2)
    later = Frames([log(("3", b"late"), begin=False)], first.cursor)
    assert later.read(100) == DROPPED_LINE + b"late"
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
