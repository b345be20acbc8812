"""The Dockerfile of a build. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runners.base import BuildSpec

FOLDER = "/code"
"""The working folder of steps and jobs."""


def render_dockerfile(spec: BuildSpec, labels: Mapping[str, str]) -> str:
    """What makes the image of a build: its base, variables, requirement files, and one RUN for each step.

    The code itself is no part of it: each job gets that in its own container. Requires `spec.image`.
    """
    assert spec.image is not None
    lines = [f"FROM {spec.image}"]
    lines += [f"ENV {name}={_quoted(value)}" for name, value in spec.env.items()]
    lines += [f"WORKDIR {FOLDER}"]
    lines += [f"COPY {json.dumps([name, f'{FOLDER}/{name}'])}" for name in sorted(spec.files)]
    lines += [f"RUN {json.dumps(['/bin/sh', '-e', '-c', step])}" for step in spec.steps]
    lines += [f"LABEL {name}={_quoted(value)}" for name, value in labels.items()]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value as it is: nothing in it is expanded. A line feed would end the instruction, and is written as one."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return '"' + escaped.replace("\n", "\\\n") + '"'
