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

from tests.require import require_root
from tests.runners.docker_engine import remove_marks
from tests.simulators.kubernetes.remote import start as start_cluster

from .life import Nursery, look, tell
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
LOCAL = {
    "migrate", "first-start", "code", "upload", "accept", "clear", "prepare", "copy", "restart", "call-look",
}  # fmt: skip
"""Points at which nothing is asked of a backend. A death there is the same with every runner, so `fake` and `process`,
which are the fastest, walk them for all. These two also die before each point of `whole`. The other walks only die
after a point: nothing that outlives the process changes between one point and the next."""
CALLS = {
    "served": {
        "POST-containers-create", "PUT-container-archive", "POST-container-start", "GET-container-logs",
        "GET-container-archive", "DELETE-container", "POST-volumes-create", "POST-networks-create",
    },
    "halted": {"POST-container-kill", "DELETE-container"},
}  # fmt: skip
"""The calls to the Docker Engine in stories that are told for them alone: those that change something, and those whose
answer is kept. What comes between two of them changes nothing."""
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
    "docker": {"whole": [1, 1, 1], "failing": [1], "ended": [1, 1, 1], "served": [1], "halted": [1]},
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


@pytest.mark.parametrize(
    ("runner", "story"),
    [(runner, story) for runner in ("fake", "process", "docker", "kubernetes") for story in WALK]
    + [("docker", name) for name in CALLS],
)
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


def points_of(runner: str, story: str, passed: list[str]) -> list[str]:
    """The points at which to die, of those that the undisturbed telling came by."""
    if story in CALLS:
        points = [point for point in passed if _call(point) in CALLS[story]]
        assert {_call(point) for point in points} == CALLS[story]
        changes = {_call(point) for point in passed if point.startswith(("engine-P", "engine-DELETE"))}
        assert changes <= CALLS[story] | CALLS["served"], "a call that nobody has heard of"
        return points
    points = [point for point in passed if not point.startswith("engine-")]
    names = {point.partition(":")[0] for point in points}
    assert names >= (WALK[story] or WHOLE)
    if story == "whole" and runner in ("fake", "process"):
        return points
    walked = WALK[story] or names - LOCAL
    return [point for point in points if point.partition(":")[0] in walked and not point.endswith(":before")]


def _call(point: str) -> str:
    return point.removeprefix("engine-").partition(":")[0]


def may_miss(point: str) -> bool:
    """Whether a telling comes by it only as it happens."""
    return point.partition(":")[0] in CHANCE or point.startswith(("engine-GET", "engine-HEAD"))


def walk(
    runner: str, story: str, tmp_path: Path, starts: Starts | StartsOfPods | None, environment: dict[str, str]
) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    with Nursery(**environment) as nursery:
        assert nursery.live(tell, str(calm), runner, story, None, str(calm / "passed")) == 0
        wanted = outcome(nursery, calm, runner)
    passed = dict.fromkeys((calm / "passed").read_text().split())
    points = points_of(runner, story, list(passed))
    assert wanted["left"] == []
    assert runs(calm, starts) == RUNS[runner].get(story, [] if starts else {})

    def die(nursery: Nursery, point: str) -> str | None:
        folder = tmp_path / point.replace(":", "-")
        folder.mkdir()
        code = nursery.live(tell, str(folder), runner, story, point, None)
        if code != -9 and not (code == 0 and may_miss(point)):
            return f"{point}: ended with {code} instead of dying there"
        if (code := nursery.live(tell, str(folder), runner, story, None, None)) != 0:
            return f"{point}: the next telling ended with {code}"
        found = outcome(nursery, folder, runner)
        if found != wanted:
            return f"{point}: {found} instead of {wanted}"
        if runs(folder, starts) != runs(calm, starts):
            return f"{point}: ran {runs(folder, starts)} times"
        if isinstance(starts, Starts):
            remove_marks((folder / "installation").read_text())
        return None

    def die_at_each(some: list[str]) -> list[str]:
        with Nursery(**environment) as nursery:
            return [text for point in some if (text := die(nursery, point))]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        lanes = [points[lane::SIDE_BY_SIDE] for lane in range(SIDE_BY_SIDE)]
        wrong = [text for texts in pool.map(die_at_each, lanes) for text in texts]
    assert not wrong, "\n".join(wrong)
    if isinstance(starts, Starts):
        remove_marks((calm / "installation").read_text())
