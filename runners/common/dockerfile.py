"""The Dockerfile of a build. Only pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from runners.base import BuildSpec

WORKING_FOLDER = "/code"
"""The working folder of build steps and jobs."""
OPEN_FOLDER = "polyjob"
"""A folder of the build context. It contains the working folder with write permission for every user."""
LINE_CHARACTERS = 15_000
"""Longest line. The Docker Engine accepts at most 64 KiB, and joins lines that end with a backslash."""
STEP_LAYERS = 64
"""Layers for build steps. An image has at most 127 layers, including those of its base. If there are more build steps,
the last layer runs all the remaining ones."""
_CUT = re.compile(r"[^\s\\](?=[^\s#])")
"""Where a line may be cut. The Engine drops lines that begin with `#`, and blanks at the end of a line."""
_EXPORTABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CHOOSE_SHELL = "if command -v bash >/dev/null 2>&1; then s=bash; else s=/bin/sh; fi; "
_RUN_ONE = 'exec $s -e -c "$1"'
_RUN_ALL = (
    'n={number}; for step in "$@"; do $s -e -c "$step" || {{ code=$?; '
    'echo "polyjob: step $n ended with exit code $code"; exit $code; }}; n=$((n+1)); done'
)


def render_dockerfile(
    spec: BuildSpec,
    labels: Mapping[str, str],
    last_labels: Mapping[str, str] | None = None,
    *,
    has_open_folder: bool = False,
) -> str:
    """Return the Dockerfile of a build: its base, variables, requirement files and build steps.

    `labels` are on everything that the build leaves, even if it fails. `last_labels` are only on the complete image, so
    that different builds can share layers. With `has_open_folder`, the build context contains `OPEN_FOLDER`. The upload
    itself is not part of the image: each job gets it in its own container. Requires `spec.image`.
    """
    lines = [
        *_before_steps(spec, labels, has_open_folder),
        *(_run(spec, _RUN_ONE, step) for step in _separate_steps(spec)),
        *_joined_steps(spec),
        *(_label(*item) for item in (last_labels or {}).items()),
    ]
    return "\n".join(map(_folded, lines)) + "\n"


def first_step(spec: BuildSpec, labels: Mapping[str, str], *, has_open_folder: bool = False) -> int:
    """Return the number that the Engine gives to the instruction of the first build step, counted from 1."""
    return len(_before_steps(spec, labels, has_open_folder)) + 1


def _before_steps(spec: BuildSpec, labels: Mapping[str, str], has_open_folder: bool) -> list[str]:
    assert spec.image is not None
    return [
        f"FROM {spec.image}",
        *(_label(*item) for item in labels.items()),
        *(f"ENV {name}={_quoted(value)}" for name, value in spec.env.items() if _fits_env(value)),
        *([f"COPY {json.dumps([f'{OPEN_FOLDER}/', '/'])}"] if has_open_folder else []),
        f"WORKDIR {WORKING_FOLDER}",
        *(f"COPY {json.dumps([name, f'{WORKING_FOLDER}/{name}'])}" for name in sorted(spec.requirement_files)),
    ]


def _label(name: str, value: str) -> str:
    return f"LABEL {name}={_quoted(value)}"


def _separate_steps(spec: BuildSpec) -> tuple[str, ...]:
    """Return the build steps that have a layer of their own."""
    return spec.build_steps if len(spec.build_steps) <= STEP_LAYERS else spec.build_steps[: STEP_LAYERS - 1]


def _joined_steps(spec: BuildSpec) -> list[str]:
    """Return one instruction that runs all other build steps, and prints the number of the step that fails."""
    separate = len(_separate_steps(spec))
    remaining = spec.build_steps[separate:]
    return [_run(spec, _RUN_ALL.format(number=separate + 1), *remaining)] if remaining else []


def _run(spec: BuildSpec, script: str, *steps: str) -> str:
    """Return a RUN instruction for build steps. Like a job's command, they run in bash if the image has it.

    Each build step, and each variable that does not fit into ENV, is an argument of its own, because Linux limits each
    argument to 128 KiB.
    """
    values = _exported_by_shell(spec)
    exports = "".join(f'export {name}="$1"; shift; ' for name in values)
    return f"RUN {_json(['/bin/sh', '-c', exports + _CHOOSE_SHELL + script, 'sh', *values.values(), *steps])}"


def _exported_by_shell(spec: BuildSpec) -> dict[str, str]:
    """Return the variables that do not fit into ENV, but that a shell can export. Jobs get all variables anyway."""
    return {name: value for name, value in spec.env.items() if _EXPORTABLE.match(name) and not _fits_env(value)}


def _fits_env(value: str) -> bool:
    """Return whether a value is one line that is short enough, or can be cut."""
    return "\n" not in value and _is_foldable(_quoted(value))


def _json(items: list[str]) -> str:
    """Return a JSON array. If a long text cannot be cut otherwise, all its special characters are escaped."""
    text = json.dumps(items)
    if _is_foldable(text):
        return text
    escaped = (re.sub(r"[^A-Za-z0-9]", lambda match: _escape(match[0]), item) for item in items)
    return "[" + ", ".join(f'"{item}"' for item in escaped) + "]"


def _escape(character: str) -> str:
    text = json.dumps(character)[1:-1]
    return text if text.startswith("\\u") else f"\\u{ord(character):04x}"


def _quoted(value: str) -> str:
    """Quote a value so that the Engine expands nothing in it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _is_foldable(line: str) -> bool:
    return all(len(part) <= LINE_CHARACTERS for part in _cut(line))


def _folded(line: str) -> str:
    """Return an instruction as lines that are short enough."""
    return "\\\n".join(_cut(line))


def _cut(line: str) -> list[str]:
    parts = []
    while len(line) > LINE_CHARACTERS:
        matches = _CUT.finditer(line, LINE_CHARACTERS // 2, LINE_CHARACTERS)
        end = next((match.end() for match in matches), None)
        if end is None:
            break
        parts.append(line[:end])
        line = line[end:]
    return [*parts, line]
