"""Deaths at every change of state: a process dies there, the next one continues, and the outcome is the same.

Each scenario runs once undisturbed, which yields its crash points and the expected outcome. Then it runs for each of
those points: in a process that dies there, and in another one to its end. With `POLYJOB_TEST_LONG=1` it dies at all
points, in a short run only at some of them, at other ones each day.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.require import require_root
from tests.runners.docker_engine import remove_engine_objects
from tests.sampling import sample
from tests.simulators.kubernetes.remote import start as start_cluster
from tests.simulators.webhook_receiver import Receiver

from .scenario_run import RECEIVER, ForkServer, inspect, play
from .start_counts import ContainerStarts, PodStarts, cluster_settings

PARALLEL_WALKS = 2
SHORT_RUN_POINTS = {"fake": 4, "process": 3, "docker": 1, "kubernetes": 1}
"""Points of each scenario at which a short run dies."""
OPTIONAL_POINTS = {"log", "note", "call-logs", "call-poll", "call-check", "call-clear"}
"""Points that a run may pass or not, depending on timing."""
POINTS_OF_SCENARIO = {
    "whole": None,
    "failing": {"built", "exit", "terminal", "call-build", "call-finish"},
    "ended": {
        "stop", "term", "timeout", "delete", "erase", "exit", "terminal", "call-stop", "call-finish", "call-erase",
    },
    "unbuilt": {"stop", "cancel", "call-build"},
    "told": {"webhook", "accept", "running", "exit", "terminal", "stop", "delivered", "call-deliver"},
    "confided": {"secret-key", "secret", "exit", "terminal", "call-start", "call-finish"},
    "chained": {"exit", "terminal", "release", "claim", "call-inputs", "call-start"},
}  # fmt: skip
"""The points of a scenario at which to die; None for all that it passes.

The other points of a scenario test the same as those in `whole`.
"""
LOCAL = {
    "migrate", "first-start", "first-token", "code", "upload", "accept", "clear", "prepare", "copy", "restart",
    "call-look", "call-leftovers",
}  # fmt: skip
"""Points that do not involve a backend.

A death there is the same with every runner, so only the fastest ones, `fake` and `process`, die there. These two also
die before each point of `whole`. The others only die after a point: nothing that outlives the process changes between
one point and the next.
"""
WITHOUT_RUNNER = {"migrate", "first-start", "first-token", "code", "upload", "accept", "copy", "restart"}
"""The points of `LOCAL` at which no runner has been loaded. A death there is tested with `fake` alone."""
CALLS_OF_SCENARIO = {
    "served": {
        "POST-containers-create", "PUT-container-archive", "POST-container-start", "GET-container-logs",
        "GET-container-archive", "DELETE-container", "POST-volumes-create", "POST-networks-create",
    },
    "halted": {"POST-container-kill", "DELETE-container"},
}  # fmt: skip
"""Scenario → the calls to the Docker Engine that it tests.

These calls change something, or their answer is stored. What comes between two of them changes nothing.
"""
REQUIRED_POINTS = {
    "migrate", "first-start", "first-token", "code", "upload", "accept", "claim", "prepare", "build", "built", "handle",
    "running", "exit", "seal", "seal-index", "terminal", "pass", "copy", "restart", "call-build", "call-start",
    "call-finish",
}  # fmt: skip
"""Points that `whole` has to pass, so that a point that has disappeared is noticed."""
WRITTEN_WITH_RUNNING = {"handle"}
"""Points that a local runner does not pass, because it reports a state as soon as it has a handle."""
EXPECTED_RUNS: dict[str, dict[str, dict[str, int] | list[int]]] = {
    "fake": {},
    "process": {
        "whole": {"runs-one": 3}, "failing": {"runs-bad": 1},
        "ended": {"runs-stopped": 1, "runs-late": 1, "runs-deleted": 1},
        "chained": {"runs-flaky": 2, "runs-cleaning": 1, "runs-last": 1, "runs-reader": 1},
        "told": {"runs-good": 1, "runs-bad": 1, "runs-stopped": 1}, "confided": {"runs-masked": 1},
    },
    "docker": {
        "whole": [1, 1, 1], "failing": [1], "ended": [1, 1, 1], "chained": [1] * 5,
        "served": [1], "halted": [1], "confided": [1],
    },
    "kubernetes": {"whole": [1, 1, 1], "failing": [1], "ended": [1, 1, 1], "chained": [1] * 5, "confided": [1]},
}  # fmt: skip
"""The number of runs of each command: by the name of the job, including its clones, or for each container."""


@pytest.fixture(scope="session")
def fork_servers() -> Iterator[list[ForkServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ForkServer()) for _ in range(PARALLEL_WALKS)]


def outcome(fork_server: ForkServer, folder: Path, runner: str) -> dict[str, Any]:
    result = folder / "outcome.json"
    assert fork_server.fork(inspect, str(folder), runner, str(result)) == 0
    return json.loads(result.read_text())


def runs(folder: Path, starts: ContainerStarts | PodStarts | None) -> dict[str, int] | list[int]:
    """Return how often the commands of a folder's jobs have run. The fake runner itself refuses a second run."""
    if starts is not None:
        return starts.of((folder / "installation").read_text())
    return {path.name: path.read_text().count("ran") for path in folder.glob("runs-*")}


@pytest.mark.parametrize(
    ("runner", "scenario"),
    [
        (runner, scenario)
        for runner in ("fake", "process", "docker", "kubernetes")
        for scenario in POINTS_OF_SCENARIO
        if runner in ("fake", "process") or scenario != "told"  # it does not involve a backend
    ]
    + [("docker", name) for name in CALLS_OF_SCENARIO],
)
def test_death_at_a_crash_point_does_not_change_the_outcome(request, runner, scenario, tmp_path, fork_servers):
    with contextlib.ExitStack() as stack:
        starts: ContainerStarts | PodStarts | None = None
        receiver = stack.enter_context(Receiver())
        environment = {RECEIVER: receiver.url}
        if runner == "docker":
            request.getfixturevalue("images")
            starts = stack.enter_context(ContainerStarts())
        if runner == "kubernetes":
            require_root()
            cluster = stack.enter_context(start_cluster(tmp_path / "cluster"))
            environment |= stack.enter_context(cluster_settings(cluster))
            starts = PodStarts(cluster)
        for fork_server in fork_servers:
            fork_server.environment = environment
        walk(runner, scenario, tmp_path, starts, fork_servers, receiver)


def points_of(runner: str, scenario: str, passed: list[str]) -> list[str]:
    """Return the points at which to die, of those that the undisturbed run has passed."""
    if scenario in CALLS_OF_SCENARIO:
        points = [point for point in passed if _call(point) in CALLS_OF_SCENARIO[scenario]]
        assert {_call(point) for point in points} == CALLS_OF_SCENARIO[scenario]
        changes = {_call(point) for point in passed if point.startswith(("engine-P", "engine-DELETE"))}
        assert changes <= CALLS_OF_SCENARIO[scenario] | CALLS_OF_SCENARIO["served"], "a call that no scenario tests"
        return points
    points = [point for point in passed if not point.startswith("engine-")]
    names = {point.partition(":")[0] for point in points}
    required = REQUIRED_POINTS - WRITTEN_WITH_RUNNING if runner == "process" else REQUIRED_POINTS
    assert names >= (POINTS_OF_SCENARIO[scenario] or required)
    if scenario in ("whole", "told") and runner in ("fake", "process"):
        return [point for point in points if point.partition(":")[0] in (POINTS_OF_SCENARIO[scenario] or names)]
    walked = POINTS_OF_SCENARIO[scenario] or names - LOCAL
    return [point for point in points if point.partition(":")[0] in walked and not point.endswith(":before")]


def _call(point: str) -> str:
    return point.removeprefix("engine-").partition(":")[0]


def is_optional(point: str) -> bool:
    """Return whether a run may pass the point or not, depending on timing."""
    return point.partition(":")[0] in OPTIONAL_POINTS or point.startswith(("engine-GET", "engine-HEAD"))


def received_ids(receiver: Receiver, folder: Path) -> set[str]:
    """Return the ids of the events that were sent for a data folder."""
    requests = [request for request in receiver.received if request.path.endswith(f"/{folder.name}")]
    return {request.headers["webhook-id"] for request in requests}


def walk(
    runner: str,
    scenario: str,
    tmp_path: Path,
    starts: ContainerStarts | PodStarts | None,
    fork_servers: list[ForkServer],
    receiver: Receiver,
) -> None:
    undisturbed = tmp_path / "calm"
    undisturbed.mkdir()
    assert fork_servers[0].fork(play, str(undisturbed), runner, scenario, None, str(undisturbed / "passed")) == 0
    expected = outcome(fork_servers[0], undisturbed, runner)
    passed = dict.fromkeys((undisturbed / "passed").read_text().split())
    points = sample(points_of(runner, scenario, list(passed)), SHORT_RUN_POINTS[runner])
    assert expected["left"] == []
    assert runs(undisturbed, starts) == EXPECTED_RUNS[runner].get(scenario, [] if starts else {})

    def die(fork_server: ForkServer, point: str) -> str | None:
        folder = tmp_path / point.replace(":", "-")
        folder.mkdir()
        code = fork_server.fork(play, str(folder), runner, scenario, point, None)
        if code != -9 and not (code == 0 and is_optional(point)):
            return f"{point}: ended with {code} instead of dying there"
        if (code := fork_server.fork(play, str(folder), runner, scenario, None, None)) != 0:
            return f"{point}: the next run ended with {code}"
        actual = outcome(fork_server, folder, runner)
        if actual != expected:
            return f"{point}: {actual} instead of {expected}"
        if runs(folder, starts) != runs(undisturbed, starts):
            return f"{point}: ran {runs(folder, starts)} times"
        if received_ids(receiver, folder) != set((folder / "deliveries").read_text().split()):
            return f"{point}: the receiver did not get every event with its id"
        if isinstance(starts, ContainerStarts):
            remove_engine_objects((folder / "installation").read_text())
        return None

    def die_at_each(fork_server: ForkServer, some: list[str]) -> list[str]:
        return [text for point in some if (text := die(fork_server, point))]

    lanes = [points[lane::PARALLEL_WALKS] for lane in range(PARALLEL_WALKS)]
    with ThreadPoolExecutor(PARALLEL_WALKS) as pool:
        wrong = [text for texts in pool.map(die_at_each, fork_servers, lanes) for text in texts]
    assert not wrong, "\n".join(wrong)
    if isinstance(starts, ContainerStarts):
        remove_engine_objects((undisturbed / "installation").read_text())
