"""The Dockerfile of a build."""

from __future__ import annotations

import json

import pytest

from runners.base import BuildSpec
from runners.common.dockerfile import LINE_CHARACTERS, STEP_LAYERS, first_step, render_dockerfile


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
    build_spec = spec(
        build_steps=("pip install six", "echo 'a  b' \\\n  c"),
        env={"A": "1", "B": 'x "$Y" \\ z'},
        requirement_files=("setup.sh", "a b.txt"),
    )
    text = render_dockerfile(build_spec, {"polyjob.installation": "i"}, {"polyjob.key": "k"}, has_open_folder=True)
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
        ["/bin/sh", "-c", f'{SHELL}exec $s -e -c "$1"', "sh", step] for step in build_spec.build_steps
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
    assert max(map(len, text.splitlines())) <= LINE_CHARACTERS + 1
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
    assert len(runs) == STEP_LAYERS
    assert runs[-2][4:] == [f"echo {STEP_LAYERS - 1}"]
    assert runs[-1][4:] == list(steps[STEP_LAYERS - 1 :])
    assert f"n={STEP_LAYERS};" in runs[-1][2]


@pytest.mark.parametrize("has_open_folder", [False, True])
def test_first_step_has_the_number_of_its_instruction(has_open_folder):
    build_spec = spec(build_steps=("a", "b"), env={"A": "1", "B": "2\n3"}, requirement_files=("f",))
    lines = render_dockerfile(build_spec, {"l": "1"}, has_open_folder=has_open_folder).splitlines()
    number = first_step(build_spec, {"l": "1"}, has_open_folder=has_open_folder)
    assert lines[number - 1].startswith("RUN")
    assert not lines[number - 2].startswith("RUN")
