"""Deaths of the engine between fires of schedules: no fire is lost or doubled, whatever crashes when."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import random
import sys
from collections.abc import Iterator

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job, Project, Schedule, ScheduleFire, User
from polyjob.services import schedules
from polyjob.settings import Settings
from polyjob.statuses import Status
from tests.engine.conftest import World
from tests.require import is_long_run

FIRES, DEATHS = (1000, 200) if is_long_run() else (400, 40)
SCHEDULES = 10
MINUTE = datetime.timedelta(minutes=1)


class Died(BaseException):
    """The engine died at a crash point. No handler of an error catches it."""


class Deaths:
    """Lets the engine die at some of the crash points that it passes, always at the same ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, probability: float) -> None:
        self._random, self._probability = random.Random(7), probability
        self.count = 0
        self.points: set[str] = set()
        self.is_armed = False
        modules = [module for name, module in list(sys.modules.items()) if name.startswith("polyjob.")]
        for module in modules:
            if hasattr(module, "crash_point"):
                monkeypatch.setattr(module, "crash_point", self._pass)

    def _pass(self, point: str) -> None:
        if self.is_armed and self._random.random() < self._probability:
            self.count += 1
            self.points.add(point)
            raise Died

    def settle(self, world: World) -> None:
        """Make passes until nothing is left to do. A new engine continues after each death."""
        self.is_armed = True
        while True:
            try:
                world.settle()
            except Died:
                world.restart()
                continue
            break
        self.is_armed = False


@pytest.fixture
def create(project: Project, user: User, settings: Settings):
    def create(world: World, seconds: float = 0, **fields: str) -> Schedule:
        variables = [["FAKE_SECONDS", str(seconds)]]
        config = {"version": 1, "kind": "job", "run": {"cmd": "true"}, "environment": {"env_vars": variables}}
        body = {"cron": "* * * * *", "missed": "all", "job": {"config": config}} | fields
        schedule = schedules.create(project, user, body, settings)
        first = world.clock.wall().replace(second=0, microsecond=0) + MINUTE
        with write("test"):
            Schedule.update(next_at=first).where(Schedule.id == schedule.id).execute()
        schedule.next_at = first
        return schedule

    return create


def minutes(first: datetime.datetime, count: int) -> Iterator[datetime.datetime]:
    return (first + number * MINUTE for number in range(count))


def test_fires_survive_deaths_exactly_once(project, user, settings, create, monkeypatch):
    world = World(dataclasses.replace(settings, slots=0), project, user)
    created = [create(world) for _ in range(SCHEDULES)]
    deaths = Deaths(monkeypatch, 0.1)
    pauses = random.Random(3)
    passed, count = 0, FIRES // SCHEDULES
    while passed < count:
        step = min(pauses.choice((1, 1, 1, 1, 7)), count - passed)  # an engine that is down for a while
        world.clock.move(60.0 * step)
        passed += step
        deaths.settle(world)
    assert deaths.count >= DEATHS
    assert deaths.points >= {"fire:before", "fire:after", "pass:before", "pass:after"}
    for schedule in created:
        rows = ScheduleFire.select().where(ScheduleFire.schedule == schedule).order_by(ScheduleFire.due_at)
        assert [row.due_at for row in rows] == list(minutes(schedule.next_at, count))
        assert {row.outcome for row in rows} == {"submitted"}
    jobs = [row.job_id for row in ScheduleFire.select()]
    assert sorted(jobs) == [job.id for job in Job.select(Job.id).order_by(Job.id)]
    assert len(jobs) == len(set(jobs)) == FIRES


def test_waiting_fires_survive_deaths_and_never_overlap(project, user, settings, create, monkeypatch):
    world = World(settings, project, user)
    schedule = create(world, 80, overlap="queue")
    deaths = Deaths(monkeypatch, 0.05)
    for _ in range(10 * 12):
        world.clock.move(5)
        deaths.settle(world)
    with write("test"):
        Schedule.update(next_at=None).execute()
    while Job.select().where(Job.finished_at.is_null()).exists() or ScheduleFire.select().where(
        ScheduleFire.outcome == "waiting"
    ):
        world.clock.move(5)
        deaths.settle(world)
    assert deaths.count > 20
    rows = list(ScheduleFire.select().order_by(ScheduleFire.due_at))
    assert [row.due_at for row in rows] == list(minutes(schedule.next_at, len(rows)))
    assert len(rows) in (9, 10)
    assert {(row.outcome, row.job.status) for row in rows} == {("submitted", Status.SUCCEEDED)}
    jobs = [row.job for row in rows]
    assert all(a.finished_at <= b.created_at for a, b in itertools.pairwise(jobs))
