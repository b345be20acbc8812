"""Every instant at which state changes: the process dies there, the next one goes on, and nothing shows of it.

Each story is told once undisturbed, which tells the crash points on its way and what is to come of it. Then it is told
for each of those points by a process that dies there, and by another to its end.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .life import STORIES, Nursery, look, tell

SIDE_BY_SIDE = 2
CHANCE = {"log", "note", "call-logs", "call-poll", "call-check"}
"""Points that a telling may come by or not, as it happens."""
WALK = {
    "whole": None,
    "failing": {"built", "exit", "terminal", "call-build", "call-finish"},
    "ended": {
        "stop",
        "term",
        "timeout",
        "delete",
        "erase",
        "exit",
        "terminal",
        "call-stop",
        "call-finish",
        "call-erase",
    },
    "unbuilt": {"stop", "cancel", "call-build"},
}
"""The points of a story at which to die; None for all that it comes by. The others stand for the same as in `whole`."""
WHOLE = {
    "migrate", "first-start", "code", "upload", "accept", "claim", "prepare", "build", "built", "handle", "running",
    "exit", "seal", "seal-index", "terminal", "pass", "copy", "restart", "call-build", "call-start", "call-finish",
}  # fmt: skip
"""What `whole` comes by at least: a point that nobody comes by any more is missed."""
TIMES = {"runs-one": 3}
"""How often a command runs, with those of its clones."""


def outcome(nursery: Nursery, folder: Path, runner: str) -> dict[str, Any]:
    result = folder / "outcome.json"
    assert nursery.live(look, str(folder), runner, str(result)) == 0
    return json.loads(result.read_text())


def runs(folder: Path) -> dict[str, int]:
    return {path.name: path.read_text().count("ran") for path in folder.glob("runs-*")}


@pytest.mark.parametrize("story", sorted(STORIES))
@pytest.mark.parametrize("runner", ["fake", "process", "docker"])
def test_a_death_at_any_instant_shows_nowhere(request, runner, story, tmp_path):
    if runner == "docker":
        request.getfixturevalue("images")
    calm = tmp_path / "calm"
    calm.mkdir()
    with Nursery() as nursery:
        assert nursery.live(tell, str(calm), runner, story, None, str(calm / "passed")) == 0
        wanted = outcome(nursery, calm, runner)
    passed = dict.fromkeys((calm / "passed").read_text().split())
    names = {point.partition(":")[0] for point in passed}
    assert names >= (WALK[story] or WHOLE)
    points = [point for point in passed if point.partition(":")[0] in (WALK[story] or names)]
    assert wanted["left"] == []
    assert all(count == TIMES.get(name, 1) for name, count in runs(calm).items())

    def die(nursery: Nursery, point: str) -> str | None:
        folder = tmp_path / point.replace(":", "-")
        folder.mkdir()
        code = nursery.live(tell, str(folder), runner, story, point, None)
        if code != -9 and not (code == 0 and point.partition(":")[0] in CHANCE):
            return f"{point}: ended with {code} instead of dying there"
        if (code := nursery.live(tell, str(folder), runner, story, None, None)) != 0:
            return f"{point}: the next telling ended with {code}"
        found = outcome(nursery, folder, runner)
        if found != wanted:
            return f"{point}: {found} instead of {wanted}"
        if runs(folder) != runs(calm):
            return f"{point}: ran {runs(folder)} times"
        return None

    def die_at_each(some: list[str]) -> list[str]:
        with Nursery() as nursery:
            return [text for point in some if (text := die(nursery, point))]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        lanes = [points[lane::SIDE_BY_SIDE] for lane in range(SIDE_BY_SIDE)]
        wrong = [text for texts in pool.map(die_at_each, lanes) for text in texts]
    assert not wrong, "\n".join(wrong)
