"""Schedules in the engine: fires, missed runs, overlap, refusals, and changes of the wall clock."""

from __future__ import annotations

import datetime

import pytest

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Job, Project, Schedule, ScheduleFire, User
from polyjob.errors import Invalid
from polyjob.services import jobs, projects, schedule_fires, schedules
from polyjob.services.schedule_fires import DEFECT_REASON, MAX_CAUGHT_UP_RUNS, MAX_KEPT_FIRES, MAX_WAITING_RUNS

MINUTE = datetime.timedelta(minutes=1)
HOUR = 3600.0


@pytest.fixture
def minutely(world):
    """Create a schedule that fires every minute; arguments change its fields. The clock is just after a full minute."""
    wall = world.clock.wall()
    world.clock._start += wall.replace(second=0, microsecond=0) + MINUTE - wall + datetime.timedelta(seconds=0.5)

    def create(seconds=0, cron="* * * * *", **fields):
        variables = [["FAKE_SECONDS", str(seconds)]]
        config = {"version": 1, "kind": "job", "run": {"cmd": "true"}, "environment": {"env_vars": variables}}
        job = fields.pop("job", {}) | {"config": config}
        schedule = schedules.create(world.project, world.user, {"cron": cron, "job": job} | fields, world.settings)
        _set_next(schedule, world.clock.wall())
        return schedule

    return create


def _set_next(schedule, moment):
    """Let the schedule be one that was created at this moment of the test's clock."""
    with write("test"):
        Schedule.update(next_at=schedule_fires.times_of(schedule).next_after(moment)).execute()


def fires(schedule):
    """Return (outcome, number of the job) of each fire, oldest first."""
    rows = ScheduleFire.select().where(ScheduleFire.schedule == schedule).order_by(ScheduleFire.id)
    return [(row.outcome, row.job_id) for row in rows]


def last_reason(schedule):
    return ScheduleFire.select().where(ScheduleFire.schedule == schedule).order_by(ScheduleFire.id.desc()).get().reason


def sleep(world, seconds):
    """Move the clock while no engine runs."""
    world.clock.move(seconds)
    world.restart()
    world.settle()


def test_schedule_submits_a_job_at_each_time(world, minutely):
    schedule = minutely(job={"name": "tick", "tags": ["a"]})
    world.later(180)
    assert fires(schedule) == [("submitted", 1), ("submitted", 2), ("submitted", 3)]
    assert world.statuses(Job.get_by_id(3)) == ["created", "scheduled", "running", "succeeded"]
    first = Job.get_by_id(1)
    assert (first.user, first.tags) == (world.user, ["a"])
    due_at = ScheduleFire.get_by_id(1).due_at
    assert first.name == f"tick-{due_at:%Y%m%dT%H%M}00Z"
    assert ScheduleFire.get_by_id(1).key == f"schedule:{schedule.id}:{due_at.isoformat()}"
    assert schedule_fires.schedule_id_of(first) == schedule.id


def test_schedule_does_not_fire_before_its_time(world, minutely):
    schedule = minutely()
    world.later(59)
    assert fires(schedule) == []
    world.later(1)
    assert len(fires(schedule)) == 1


def test_one_time_schedule_fires_once_and_ends(world, minutely):
    at = (world.clock.wall() + datetime.timedelta(hours=2)).isoformat()
    schedule = minutely(cron=None, at=at)
    sleep(world, 2 * HOUR - 30)
    assert fires(schedule) == []
    world.later(120)
    assert fires(schedule) == [("submitted", 1)]
    assert Schedule.get().next_at is None


def test_idle_passes_look_up_once_per_second(world, minutely, monkeypatch):
    minutely()
    world.settle()
    count = 0
    next_due = schedule_fires.next_due

    def counted():
        nonlocal count
        count += 1
        return next_due()

    monkeypatch.setattr(schedule_fires, "next_due", counted)
    world.clock.move(1.0)
    for _ in range(50):
        world.engine.run_pass()
        world.clock.move(0.01)
    assert count == 1


def test_changed_schedule_is_not_fired_by_an_older_plan(world, minutely):
    schedule = minutely()
    world.clock.move(60)
    record = schedule_fires.plan(Schedule.get(), world.clock.wall(), world.settings, lambda user, project: True)
    schedules.pause(schedules.find(world.project, schedule.id))
    with write("test"):
        record()
    assert fires(schedule) == []


def test_paused_schedule_does_not_fire_and_misses_nothing(world, minutely):
    schedule = schedules.find(world.project, minutely(missed="all").id)
    schedules.pause(schedule)
    world.later(120)
    schedules.resume(schedule)
    _set_next(schedule, world.clock.wall())
    world.later(60)
    assert fires(schedule) == [("submitted", 1)]


class TestMissed:
    """Runs that were due while no engine ran."""

    def test_skip_records_them_and_waits_for_the_next_time(self, world, minutely):
        schedule = minutely(cron="0 * * * *", missed="skip")
        sleep(world, 5.5 * HOUR)
        [fire] = ScheduleFire.select()
        assert (fire.outcome, fire.job, "did not run" in fire.reason) == ("missed", None, True)
        assert fire.count in (5, 6)
        assert schedules.missed_counts([schedule]) == {schedule.id: fire.count}
        assert Schedule.get().next_at > world.clock.wall()

    def test_skip_still_runs_one_that_is_just_due(self, world, minutely):
        schedule = minutely(missed="skip")
        sleep(world, 180)
        assert fires(schedule) == [("missed", None), ("submitted", 1)]

    def test_once_runs_the_latest_one(self, world, minutely):
        schedule = minutely(cron="0 * * * *", missed="once")
        sleep(world, 5.5 * HOUR)
        assert fires(schedule) == [("missed", None), ("submitted", 1)]
        assert ScheduleFire.get_by_id(1).due_at + datetime.timedelta(hours=1) == ScheduleFire.get_by_id(2).due_at

    def test_all_runs_each_in_order(self, world, minutely):
        schedule = minutely(missed="all")
        sleep(world, 300)
        assert fires(schedule) == [("submitted", number) for number in range(1, 6)]
        dues = [fire.due_at for fire in ScheduleFire.select().order_by(ScheduleFire.id)]
        assert dues == sorted(set(dues))

    def test_all_runs_at_most_the_documented_number(self, world, minutely):
        schedule = minutely(missed="all")
        world.clock.move(30 * 24 * HOUR)
        world.restart()
        world.engine.run_pass()
        assert [outcome for outcome, _ in fires(schedule)] == ["missed", *["submitted"] * MAX_CAUGHT_UP_RUNS]
        assert "more of them" in ScheduleFire.get_by_id(1).reason

    def test_one_time_schedule_follows_its_policy(self, world, minutely):
        at = (world.clock.wall() + datetime.timedelta(hours=1)).isoformat()
        late, skipped = minutely(cron=None, at=at, missed="once"), minutely(cron=None, at=at)
        sleep(world, 5 * HOUR)
        assert (fires(late), fires(skipped)) == ([("submitted", 1)], [("missed", None)])


class TestOverlap:
    """Runs that are due while an earlier job is not done. Each job takes 150 seconds."""

    def test_allow_runs_both(self, world, minutely):
        schedule = minutely(150, overlap="allow")
        world.later(120)
        assert fires(schedule) == [("submitted", 1), ("submitted", 2)]
        assert not Job.get_by_id(1).status.is_done

    def test_skip_runs_the_next_one_after_the_job_is_done(self, world, minutely):
        schedule = minutely(150, overlap="skip")
        world.later(240)
        assert fires(schedule) == [("submitted", 1), ("skipped", None), ("skipped", None), ("submitted", 2)]
        assert ScheduleFire.get_by_id(2).reason == "Job 1 was not done."

    def test_queue_runs_one_after_the_other(self, world, minutely):
        schedule = minutely(150, overlap="queue")
        world.later(120)
        assert fires(schedule) == [("submitted", 1), ("waiting", None)]
        assert last_reason(schedule) == "Job 1 is not done."
        world.restart()
        world.later(95)
        assert fires(schedule)[:2] == [("submitted", 1), ("submitted", 2)]
        assert Job.get_by_id(2).created_at >= Job.get_by_id(1).finished_at
        assert last_reason(schedule) is not None
        assert ScheduleFire.get_by_id(2).reason is None

    def test_queue_has_a_bound(self, world, minutely):
        schedule = minutely(10**6, overlap="queue")
        with write("test"):
            for number in range(MAX_WAITING_RUNS + 1):  # the first one is submitted
                schedule_fires.record_fire(schedule, now(), "waiting", key=str(number))
        world.later(60)
        assert fires(schedule)[-1] == ("skipped", None)

    def test_stop_ends_the_earlier_job_before_the_next_one_begins(self, world, minutely):
        schedule = minutely(150, overlap="stop")
        world.later(125)
        assert fires(schedule) == [("submitted", 1), ("submitted", 2)]
        assert world.statuses(Job.get_by_id(1))[-1] == "stopped"
        assert Job.get_by_id(2).created_at >= Job.get_by_id(1).finished_at

    def test_stop_replaces_a_run_that_waits(self, world, minutely):
        schedule = minutely(150, overlap="stop")
        world.later(60)
        world.set_available(False)
        world.later(121)
        assert fires(schedule) == [("submitted", 1), ("skipped", None), ("waiting", None)]
        assert ScheduleFire.get_by_id(2).reason == "A later run replaced it."
        world.set_available(True)
        world.later(45)
        assert fires(schedule)[2] == ("submitted", 2)

    def test_retry_counts_as_an_earlier_job(self, world, minutely):
        schedule = minutely(150, overlap="skip")
        with write("test"):
            job = Schedule.get().job
            job["config"] |= {"termination": {"max_retries": 1}}
            job["config"]["environment"]["env_vars"] = [["FAKE_SECONDS", "50"], ["FAKE_CODE", "1"]]
            Schedule.update(job=job).execute()
        world.later(125)
        assert fires(schedule)[:2] == [("submitted", 1), ("skipped", None)]
        assert schedule_fires.schedule_id_of(Job.get_by_id(2)) == schedule.id

    def test_run_on_demand_counts_as_an_earlier_job(self, world, minutely):
        schedule = schedules.find(world.project, minutely(150, overlap="skip").id)
        schedules.run_now(schedule, world.user, world.settings)
        world.later(60)
        assert fires(schedule) == [("submitted", 1), ("skipped", None)]

    def test_waiting_run_is_dropped_by_a_pause(self, world, minutely):
        schedule = schedules.find(world.project, minutely(150, overlap="queue").id)
        world.later(120)
        schedules.pause(schedule)
        world.later(120)
        assert fires(schedule) == [("submitted", 1), ("skipped", None)]
        assert last_reason(schedule) == "The schedule was paused."


class TestRefusals:
    """A run that cannot be submitted is recorded with the reason, and the schedule goes on."""

    @pytest.mark.parametrize(
        ("table", "columns", "reason"),
        [
            (User, {"is_active": False}, "deactivated"),
            (User, {"deleted_at": now()}, "was deleted"),
            (Project, {"archived_at": now()}, "archived"),
        ],
    )
    def test_missing_right_is_the_reason(self, world, minutely, table, columns, reason):
        schedule = minutely()
        with write("test"):
            table.update(columns).execute()
        world.later(120)
        assert fires(schedule) == [("failed", None), ("failed", None)]
        assert reason in last_reason(schedule)
        undone = {name: True if name == "is_active" else None for name in columns}
        with write("test"):
            table.update(undone).execute()
        world.later(60)
        assert fires(schedule)[-1] == ("submitted", 1)

    def test_owner_without_access_to_the_project_is_refused(self, world, minutely):
        schedule = minutely()
        with write("test"):
            bob = User.create(username="bob", created_at=now())
            Schedule.update(user=bob).execute()
        world.later(60)
        assert "`bob`" in last_reason(schedule)

    def test_unlisted_runner_is_the_reason(self, world, minutely):
        schedule = minutely()
        with write("test"):
            Schedule.update(job={"config": {"run": {"cmd": "true"}}, "backend": "docker"}).execute()
        world.later(60)
        assert "docker" in last_reason(schedule)

    def test_low_disk_is_the_reason(self, world, minutely, monkeypatch):
        schedule = minutely()
        monkeypatch.setattr("polyjob.storage.store.Store.free_bytes", lambda self: -1)
        world.later(60)
        assert "disk is low" in last_reason(schedule)

    def test_folder_of_a_former_administrator_is_refused(self, world, minutely):
        schedule = minutely()
        with write("test"):
            config = Schedule.get().job["config"] | {"environment": {"workdir": "/srv"}}
            Schedule.update(job={"config": config}).execute()
        world.later(60)
        assert fires(schedule) == [("failed", None)]

    def test_defect_fails_one_run_and_not_the_pass(self, world, minutely, monkeypatch, caplog):
        broken, fine = minutely(), minutely()
        with write("test"):
            Schedule.update(job={"config": 1}).where(Schedule.id == broken.id).execute()
        world.later(60)
        assert (fires(broken), fires(fine)) == ([("failed", None)], [("submitted", 1)])
        assert last_reason(broken) == DEFECT_REASON

    def test_refusal_while_inserting_leaves_nothing_behind(self, world, minutely, monkeypatch):
        schedule = minutely()
        insert_job = schedule_fires.submission.insert_job

        def refused(*arguments):
            insert_job(*arguments)
            raise Invalid([])

        monkeypatch.setattr(schedule_fires.submission, "insert_job", refused)
        world.later(60)
        assert fires(schedule) == [("failed", None)]
        assert Job.select().count() == 0


class TestClock:
    """Changes of the wall clock."""

    def test_clock_set_back_does_not_fire_again(self, world, minutely):
        schedule = minutely()
        world.later(120)
        world.clock.step(-1 / 60)
        world.later(60)
        assert len(fires(schedule)) == 2
        world.later(60)
        assert len(fires(schedule)) == 3

    def test_clock_set_forward_misses_runs_by_policy(self, world, minutely):
        schedule = minutely(cron="0 * * * *", missed="once")
        world.settle()
        world.clock.step(48)
        world.later(1)
        assert fires(schedule) == [("missed", None), ("submitted", 1)]

    def test_schedule_recovers_from_a_clock_that_was_in_the_future(self, world, minutely):
        schedule = minutely()
        world.clock.step(24 * 365 * 4)
        world.later(1)
        before = len(fires(schedule))
        world.clock.step(-24 * 365 * 4)
        world.later(119)
        assert len(fires(schedule)) == before + 2

    def test_clock_set_back_while_the_engine_was_down_is_noticed(self, world, minutely):
        schedule = minutely()
        world.clock.step(24 * 365)
        world.later(1)
        before = len(fires(schedule))
        world.clock.step(-24 * 365)
        sleep(world, 0)
        world.later(119)
        assert len(fires(schedule)) == before + 2


def test_schedules_of_a_deleted_project_are_removed(world, minutely):
    minutely(150, overlap="queue")
    world.later(120)
    projects.delete(world.project, world.user, world.settings)
    world.later(60)
    assert (Schedule.select().count(), ScheduleFire.select().count(), Project.select().count()) == (0, 0, 0)


def test_removed_job_leaves_its_fire(world, minutely):
    schedule = minutely()
    world.later(60)
    jobs.delete(Job.get_by_id(1), world.user, world.settings)
    world.settle()
    assert fires(schedule) == [("submitted", None)]


def test_old_fires_without_a_job_are_pruned(world, minutely):
    schedule = minutely()
    with write("test"):
        for number in range(2 * MAX_KEPT_FIRES):
            schedule_fires.record_fire(schedule, now(), "skipped", key=str(number))
    world.later(60)
    outcomes = [outcome for outcome, _ in fires(schedule)]
    assert outcomes == ["skipped"] * MAX_KEPT_FIRES + ["submitted"]


def test_removal_of_a_job_finds_its_fire_by_an_index(world):
    plan = database.execute_sql("EXPLAIN QUERY PLAN SELECT rowid FROM schedule_fire WHERE job_id = 1").fetchall()
    assert "schedule_fire_job" in plan[0][3]
