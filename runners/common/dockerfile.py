"""The Dockerfile of a build. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from runners.base import BuildSpec

FOLDER = "/code"
"""The working folder of steps and jobs."""
OPEN_FOLDER = "polyjob"
"""A folder of the context that holds the working folder as every user may write to it."""
LINE = 15_000
"""Characters of one line; the Engine takes no longer one than 64 KiB, and joins what a backslash continues."""
SEPARATE_STEPS = 64
"""Steps that have a layer of their own. An image has at most 127 layers, with those of its base; the last layer holds
all further steps."""
_CUT = re.compile(r"[^\s\\](?=[^\s#])")
"""Where a line may be cut: an Engine drops lines that begin with `#`, and blanks before a line's end."""
_EXPORTABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHELL = "if command -v bash >/dev/null 2>&1; then s=bash; else s=/bin/sh; fi; "
_ONE = 'exec $s -e -c "$1"'
_REST = (
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
    """Return what makes the image of a build: its base, variables, requirement files, and its steps.

    `labels` are on everything that a build leaves, even if it fails; `last_labels` on the complete image only, so that
    layers of different builds are shared. With `has_open_folder` the context has `OPEN_FOLDER`. The code itself is not
    in it: each job gets that in its own container. Requires `spec.image`.
    """
    lines = [
        *_before_steps(spec, labels, has_open_folder),
        *(_run(spec, _ONE, step) for step in _separate(spec)),
        *_joined(spec),
        *(_label(*item) for item in (last_labels or {}).items()),
    ]
    return "\n".join(map(_folded, lines)) + "\n"


def first_step(spec: BuildSpec, labels: Mapping[str, str], *, has_open_folder: bool = False) -> int:
    """The number that the Engine gives to the instruction of the first step; it counts from 1."""
    return len(_before_steps(spec, labels, has_open_folder)) + 1


def _before_steps(spec: BuildSpec, labels: Mapping[str, str], has_open_folder: bool) -> list[str]:
    assert spec.image is not None
    return [
        f"FROM {spec.image}",
        *(_label(*item) for item in labels.items()),
        *(f"ENV {name}={_quoted(value)}" for name, value in spec.env.items() if _fits_env(value)),
        *([f"COPY {json.dumps([f'{OPEN_FOLDER}/', '/'])}"] if has_open_folder else []),
        f"WORKDIR {FOLDER}",
        *(f"COPY {json.dumps([name, f'{FOLDER}/{name}'])}" for name in sorted(spec.requirement_files)),
    ]


def _label(name: str, value: str) -> str:
    return f"LABEL {name}={_quoted(value)}"


def _separate(spec: BuildSpec) -> tuple[str, ...]:
    return spec.build_steps if len(spec.build_steps) <= SEPARATE_STEPS else spec.build_steps[: SEPARATE_STEPS - 1]


def _joined(spec: BuildSpec) -> list[str]:
    """One instruction for the steps that have no layer of their own; it says which one has failed."""
    alone = len(_separate(spec))
    rest = spec.build_steps[alone:]
    return [_run(spec, _REST.format(number=alone + 1), *rest)] if rest else []


def _run(spec: BuildSpec, script: str, *steps: str) -> str:
    """A RUN of steps: by bash if the image has it, as a job's command. Each step and each variable that no ENV can hold
    is an argument of its own, as Linux passes no longer one than 128 KiB."""
    values = _by_shell(spec)
    exports = "".join(f'export {name}="$1"; shift; ' for name in values)
    return f"RUN {_json(['/bin/sh', '-c', exports + _SHELL + script, 'sh', *values.values(), *steps])}"


def _by_shell(spec: BuildSpec) -> dict[str, str]:
    """Variables that no ENV can hold and a shell can. Jobs get all variables anyway."""
    return {name: value for name, value in spec.env.items() if _EXPORTABLE.match(name) and not _fits_env(value)}


def _fits_env(value: str) -> bool:
    """Whether it is one line, and short enough or somewhere to be cut."""
    return "\n" not in value and _is_foldable(_quoted(value))


def _json(items: list[str]) -> str:
    """As JSON; of a long text, everything is escaped that a line could not be cut at."""
    text = json.dumps(items)
    if _is_foldable(text):
        return text
    escaped = (re.sub(r"[^A-Za-z0-9]", lambda match: _escape(match[0]), item) for item in items)
    return "[" + ", ".join(f'"{item}"' for item in escaped) + "]"


def _escape(character: str) -> str:
    text = json.dumps(character)[1:-1]
    return text if text.startswith("\\u") else f"\\u{ord(character):04x}"


def _quoted(value: str) -> str:
    """A value as it is: nothing in it is expanded."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _is_foldable(line: str) -> bool:
    return all(len(piece) <= LINE for piece in _pieces(line))


def _folded(line: str) -> str:
    """An instruction in lines that are short enough."""
    return "\\\n".join(_pieces(line))


def _pieces(line: str) -> list[str]:
    pieces = []
    while len(line) > LINE:
        cut = next((match.end() for match in _CUT.finditer(line, LINE // 2, LINE)), None)
        if cut is None:
            break
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]
