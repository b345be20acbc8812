"""Every instant at which state changes: the process dies there, the next one goes on, and nothing shows of it.

Each story is told once undisturbed, which tells the crash points on its way and what is to come of it. Then it is told
for each of those points by a process that dies there, and by another to its end.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.remote import start as start_cluster
from tests.require import require_root

from .life import STORIES, Nursery, look, tell
from .starts import Starts, StartsOfPods, settings_of

SIDE_BY_SIDE = 2
CHANCE = {"log", "note", "call-logs", "call-poll", "call-check"}
"""Points that a telling may come by or not, as it happens."""
WALK = {
    "whole": None,
    "failing": {"built", "exit", "terminal", "call-build", "call-finish"},
    "ended": {
        "stop", "term", "timeout", "delete", "erase", "exit", "terminal", "call-stop", "call-finish", "call-erase",
    },
    "unbuilt": {"stop", "cancel", "call-build"},
}  # fmt: skip
"""The points of a story at which to die; None for all that it comes by. The others stand for the same as in `whole`."""
WHOLE = {
    "migrate", "first-start", "code", "upload", "accept", "claim", "prepare", "build", "built", "handle", "running",
    "exit", "seal", "seal-index", "terminal", "pass", "copy", "restart", "call-build", "call-start", "call-finish",
}  # fmt: skip
"""What `whole` comes by at least: a point that nobody comes by any more is missed."""
RUNS: dict[str, dict[str, dict[str, int] | list[int]]] = {
    "fake": {},
    "process": {
        "whole": {"runs-one": 3}, "failing": {"runs-bad": 1},
        "ended": {"runs-stopped": 1, "runs-late": 1, "runs-deleted": 1},
    },
    "docker": {"whole": [1, 1, 1], "failing": [1], "ended": [1, 1, 1]},
    "kubernetes": {"whole": [1, 1, 1], "failing": [1], "ended": [1, 1, 1]},
}  # fmt: skip
"""How often commands run: by the name of the job, with its clones; or of each container."""


def outcome(nursery: Nursery, folder: Path, runner: str) -> dict[str, Any]:
    result = folder / "outcome.json"
    assert nursery.live(look, str(folder), runner, str(result)) == 0
    return json.loads(result.read_text())


def runs(folder: Path, starts: Starts | StartsOfPods | None) -> dict[str, int] | list[int]:
    """How often the commands of a folder's jobs have run. The fake runner by itself refuses a second time."""
    if starts is not None:
        return starts.of((folder / "installation").read_text())
    return {path.name: path.read_text().count("ran") for path in folder.glob("runs-*")}


@pytest.mark.parametrize("story", sorted(STORIES))
@pytest.mark.parametrize("runner", ["fake", "process", "docker", "kubernetes"])
def test_a_death_at_any_instant_shows_nowhere(request, runner, story, tmp_path):
    with contextlib.ExitStack() as stack:
        starts: Starts | StartsOfPods | None = None
        environment = {}
        if runner == "docker":
            request.getfixturevalue("images")
            starts = stack.enter_context(Starts())
        if runner == "kubernetes":
            require_root()
            cluster = stack.enter_context(start_cluster(tmp_path / "cluster"))
            environment = stack.enter_context(settings_of(cluster))
            starts = StartsOfPods(cluster)
        walk(runner, story, tmp_path, starts, environment)


def walk(
    runner: str, story: str, tmp_path: Path, starts: Starts | StartsOfPods | None, environment: dict[str, str]
) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    with Nursery(**environment) as nursery:
        assert nursery.live(tell, str(calm), runner, story, None, str(calm / "passed")) == 0
        wanted = outcome(nursery, calm, runner)
    passed = dict.fromkeys((calm / "passed").read_text().split())
    names = {point.partition(":")[0] for point in passed}
    assert names >= (WALK[story] or WHOLE)
    points = [point for point in passed if point.partition(":")[0] in (WALK[story] or names)]
    assert wanted["left"] == []
    assert runs(calm, starts) == RUNS[runner].get(story, [] if starts else {})

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
        if runs(folder, starts) != runs(calm, starts):
            return f"{point}: ran {runs(folder, starts)} times"
        return None

    def die_at_each(some: list[str]) -> list[str]:
        with Nursery(**environment) as nursery:
            return [text for point in some if (text := die(nursery, point))]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        lanes = [points[lane::SIDE_BY_SIDE] for lane in range(SIDE_BY_SIDE)]
        wrong = [text for texts in pool.map(die_at_each, lanes) for text in texts]
    assert not wrong, "\n".join(wrong)
