"""The Dockerfile of a build. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping

from runners.base import BuildSpec

FOLDER = "/code"
"""The working folder of steps and jobs."""
LINE = 15_000
"""Characters of one line; the Engine takes no longer one than 64 KiB, and joins what a backslash continues."""
_CUT = re.compile(r"[A-Za-z0-9](?=[A-Za-z0-9])")


def render_dockerfile(spec: BuildSpec, labels: Mapping[str, str]) -> str:
    """What makes the image of a build: its base, variables, requirement files, and one RUN for each step.

    The code itself is no part of it: each job gets that in its own container. Requires `spec.image`.
    """
    lines = [
        *_before_steps(spec),
        *(f"RUN {json.dumps(['/bin/sh', '-e', '-c', _exports(spec) + step])}" for step in spec.steps),
        *(f"LABEL {name}={_quoted(value)}" for name, value in labels.items()),
    ]
    return "\n".join(map(_folded, lines)) + "\n"


def first_step(spec: BuildSpec) -> int:
    """The number that the Engine gives to the instruction of the first step; it counts from 1."""
    return len(_before_steps(spec)) + 1


def _before_steps(spec: BuildSpec) -> list[str]:
    assert spec.image is not None
    return [
        f"FROM {spec.image}",
        *(f"ENV {name}={_quoted(value)}" for name, value in spec.env.items() if "\n" not in value),
        f"WORKDIR {FOLDER}",
        *(f"COPY {json.dumps([name, f'{FOLDER}/{name}'])}" for name in sorted(spec.files)),
    ]


def _exports(spec: BuildSpec) -> str:
    """Shell text for the variables that no ENV can hold: those with line feeds. Jobs get all of them anyway."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in spec.env.items() if "\n" in value)


def _quoted(value: str) -> str:
    """A value as it is: nothing in it is expanded."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _folded(line: str) -> str:
    """An instruction in lines that are short enough, cut where nothing but letters and digits meets."""
    pieces = []
    while len(line) > LINE:
        cut = next((match.end() for match in _CUT.finditer(line, LINE // 2, LINE)), None)
        if cut is None:
            break
        pieces.append(line[:cut])
        line = line[cut:]
    return "\\\n".join([*pieces, line])
