"""`phase_of` and `decide` as tables: what a row and a memory lead to. No database, no runner, no clock."""

from __future__ import annotations

import copy
import datetime
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from polyjob.clock import now as wall_now
from polyjob.db.models import Build, Job
from polyjob.engine.finalize import LogPosition
from polyjob.engine.job_calls import ClearJob, FetchLog, FinishJob, JobCall, PreventStart, StartJob, StopJob
from polyjob.engine.job_decisions import KILL_INTERVAL_SECONDS, BackendState, Phase, decide, phase_of, quiet_until
from polyjob.engine.job_memory import JobMemory, LogFetch, Observation
from polyjob.engine.now import Now
from polyjob.engine.retries import TICK, Backoff
from polyjob.engine.writes import Decision
from polyjob.statuses import Status
from runners.base import Exit, Exited, Missing, Pending, Reason, RemoteRunner, Runner, Running

NOW = Now("boot-1", 1000.0, wall_now())
EARLIER = NOW.wall - datetime.timedelta(seconds=60)
EXIT = Exit(Reason.EXITED, 0)
GRACE, TIMEOUT = 10, 100
CONFIG = {"termination": {"grace": GRACE, "timeout": TIMEOUT}}

CLAIMED: dict[str, Any] = {"status": Status.SCHEDULED}
ATTEMPTED = CLAIMED | {"attempt_at": EARLIER, "attempt_clock": "boot-1:940.0"}
STARTED = ATTEMPTED | {"handle": "h"}
RUNNING = STARTED | {"status": Status.RUNNING}
ENDED = RUNNING | {"exit": EXIT.to_json()}
STOPPED = {"stop_at": EARLIER, "stop_kind": "person"}


class Remote(RemoteRunner):
    """Any remote runner. Decisions read its attributes and call nothing."""

    def __init__(self) -> None:
        pass

    def _refuse(self, *arguments: Any) -> Any:
        raise AssertionError("a decision calls no runner")

    check = probe = build = start = poll = stop = clean = prevent_start = inventory = logs = outputs = _refuse
    cached_artifacts = artifact_name = remove_artifact = _refuse


class Local(Runner):
    """Any local runner."""

    is_local = True
    __init__, _refuse = Remote.__init__, Remote._refuse
    check = probe = build = start = poll = stop = clean = prevent_start = inventory = Remote._refuse


def make_job(**columns: Any) -> Job:
    return Job(**{"id": 7, "uuid": "a" * 32, "runner": "fake", "config": CONFIG, "log_cursor": None} | columns)


def waiting(status: Status) -> dict[str, Any]:
    """Columns of a job that uses a build with this status."""
    return CLAIMED | {"status": Status.BUILDING, "build": Build(id=3, status=status)}


@pytest.fixture
def tools(settings):
    return SimpleNamespace(context=SimpleNamespace(settings=settings, clock=None))


@pytest.fixture
def make_decision(tools):
    """Return a function that decides on a job, and checks that neither row nor memory have changed."""

    def make(
        columns: dict[str, Any], memory: JobMemory | None = None, runner: Any = None, outage: str | None = None
    ) -> Decision:
        memory = memory or JobMemory()
        job = make_job(**columns)
        before = copy.deepcopy(job.__data__), copy.deepcopy(memory)
        decision = decide(job, memory, BackendState(runner or Remote(), outage), NOW, tools)
        assert (job.__data__, memory) == before
        return decision

    return make


def names(decision: Decision) -> list[str]:
    return [write.name for write in decision.writes]


def kind(decision: Decision) -> type[JobCall] | None:
    return None if decision.call is None else type(decision.call)


def seen(state: Any, **fields: Any) -> JobMemory:
    return JobMemory(observation=Observation(state), **fields)


def just_fetched() -> LogFetch:
    return LogFetch(began_at=NOW.seconds)


BUSY = JobMemory(call="a call")  # type: ignore[arg-type]
PAUSED = JobMemory(backoff=Backoff(retry_at=NOW.seconds + 1))


@pytest.mark.parametrize(
    ("columns", "memory", "phase"),
    [
        (CLAIMED, JobMemory(), Phase.PREPARING),
        (CLAIMED | STOPPED, JobMemory(), Phase.PREPARING),
        (waiting(Status.RUNNING), JobMemory(), Phase.WAITING_FOR_BUILD),
        (waiting(Status.SUCCEEDED), JobMemory(), Phase.PREPARING),
        (waiting(Status.RUNNING) | STOPPED, JobMemory(), Phase.PREPARING),
        (waiting(Status.RUNNING) | {"build": None}, JobMemory(), Phase.PREPARING),
        (ATTEMPTED, JobMemory(), Phase.STARTING),
        (ATTEMPTED | STOPPED, JobMemory(), Phase.WITHDRAWING),
        (ATTEMPTED, JobMemory(handle="h"), Phase.RUNNING),
        (ATTEMPTED | STOPPED, JobMemory(handle="h"), Phase.STOPPING),
        (STARTED, JobMemory(), Phase.RUNNING),
        (RUNNING, JobMemory(), Phase.RUNNING),
        (RUNNING | STOPPED, JobMemory(), Phase.STOPPING),
        (ENDED, JobMemory(), Phase.FINISHING),
        (ENDED | STOPPED, JobMemory(), Phase.FINISHING),
        (ENDED, JobMemory(is_finished=True), Phase.FINISHED),
        (CLAIMED | {"exit": EXIT.to_json()}, JobMemory(), Phase.FINISHING),
    ],
)
def test_phase_follows_from_row_and_memory(columns, memory, phase):
    assert phase_of(make_job(**columns), memory) is phase


def test_every_row_and_memory_have_a_phase():
    for status, attempt_at, handle, stop_at, exit_, handle_in_memory, is_finished in itertools.product(
        (Status.SCHEDULED, Status.BUILDING, Status.RUNNING),
        *((None, EARLIER), (None, "h"), (None, EARLIER), (None, EXIT.to_json()), (None, "h"), (False, True)),
    ):
        job = make_job(status=status, attempt_at=attempt_at, handle=handle, stop_at=stop_at, exit=exit_, build=None)
        assert isinstance(phase_of(job, JobMemory(handle=handle_in_memory, is_finished=is_finished)), Phase)


@pytest.mark.parametrize(
    ("columns", "memory", "writes", "call"),
    [
        (CLAIMED, JobMemory(), ["prepare"], None),
        (waiting(Status.RUNNING), JobMemory(), [], None),
        # Start.
        (ATTEMPTED, JobMemory(), [], StartJob),
        (ATTEMPTED, BUSY, [], None),
        (ATTEMPTED, PAUSED, [], None),
        (ATTEMPTED | {"attempt_clock": "boot-1:1.0"}, JobMemory(), ["timeout"], None),
        (ATTEMPTED | {"attempt_clock": "boot-1:1.0"}, BUSY, ["timeout"], None),
        (ATTEMPTED | {"attempt_clock": "boot-0:999999.0"}, JobMemory(), [], StartJob),
        (ATTEMPTED | STOPPED, JobMemory(), [], PreventStart),
        (ATTEMPTED | STOPPED, BUSY, [], None),
        # Run.
        (ATTEMPTED, JobMemory(handle="h", log=just_fetched()), ["handle"], None),
        (STARTED, seen(Pending(), log=just_fetched()), [], None),
        (STARTED, seen(Pending("waits"), log=just_fetched()), ["note"], None),
        (STARTED, seen(Running("node"), log=just_fetched()), ["running"], None),
        (RUNNING, seen(Running("node"), log=just_fetched()), [], None),
        (RUNNING, JobMemory(log=just_fetched()), [], None),
        (RUNNING, JobMemory(), [], FetchLog),
        (RUNNING, BUSY, [], None),
        (RUNNING | {"attempt_clock": "boot-1:1.0"}, JobMemory(), ["timeout"], None),
        (RUNNING, seen(Exited(EXIT)), ["exit"], FinishJob),
        (RUNNING | {"attempt_clock": "boot-1:1.0"}, seen(Exited(EXIT)), ["exit"], FinishJob),
        (STARTED, seen(Exited(EXIT)), ["running", "exit"], FinishJob),
        (STARTED, seen(Exited(Exit(Reason.IMAGE))), ["exit"], FinishJob),
        (RUNNING, seen(Missing()), ["exit"], FinishJob),
        (ATTEMPTED, seen(Exited(EXIT), handle="h"), ["running", "exit"], FinishJob),
        # Stop.
        (RUNNING | STOPPED, JobMemory(), [], StopJob),
        (RUNNING | STOPPED, BUSY, [], None),
        (RUNNING | STOPPED, PAUSED, [], None),
        (RUNNING | STOPPED, seen(Exited(EXIT)), ["exit"], FinishJob),
        (RUNNING | STOPPED, seen(Exited(EXIT), call="a call"), ["exit"], None),
        (RUNNING | STOPPED | {"term_clock": "boot-1:995.0"}, JobMemory(), [], None),
        # The end.
        (ENDED, JobMemory(), [], FinishJob),
        (ENDED, BUSY, [], None),
        (ENDED, JobMemory(log=LogFetch(LogPosition("c", 5))), ["log"], FinishJob),
        (ENDED, JobMemory(packing_note="Packing outputs: 1 MB so far."), ["note"], FinishJob),
        (ENDED, JobMemory(is_finished=True, is_cleared=True), ["terminal"], None),
    ],
)
def test_decision_on_a_remote_job(make_decision, columns, memory, writes, call):
    decision = make_decision(columns, memory)
    assert (names(decision), kind(decision)) == (writes, call)


@pytest.mark.parametrize(
    ("columns", "memory", "writes", "call"),
    [
        (RUNNING, seen(Exited(EXIT), has_left_nothing=True), ["terminal"], ClearJob),
        (ATTEMPTED, seen(Exited(EXIT), handle="h", has_left_nothing=True), ["terminal"], ClearJob),
        (RUNNING | STOPPED, seen(Exited(EXIT), has_left_nothing=True), ["terminal"], ClearJob),
        (RUNNING, seen(Exited(EXIT), has_left_nothing=True, call="a call"), ["exit"], None),
        (RUNNING | {"deleted_at": EARLIER}, seen(Exited(EXIT), has_left_nothing=True), ["exit"], FinishJob),
        (RUNNING, seen(Missing(), has_left_nothing=True), ["exit"], FinishJob),
        (RUNNING, seen(Exited(EXIT)), ["exit"], FinishJob),
        (ENDED, JobMemory(is_finished=True), ["terminal"], ClearJob),
        (ENDED, JobMemory(is_finished=True, is_cleared=True), ["terminal"], None),
        (ENDED | {"handle": None}, JobMemory(is_finished=True), ["terminal"], None),
    ],
)
def test_decision_on_the_end_of_a_local_job(make_decision, columns, memory, writes, call):
    decision = make_decision(columns, memory, Local())
    assert (names(decision), kind(decision)) == (writes, call)
    assert decision.call is None or decision.needs_commit


@pytest.mark.parametrize(
    ("runner", "columns", "state", "is_cleared_first"),
    [
        (Remote, {}, Exited(EXIT), True),
        (Local, {}, Exited(EXIT), False),
        (Local, {}, Missing(), True),
        (Local, {"deleted_at": EARLIER}, Exited(EXIT), True),
    ],
)
def test_only_ended_local_jobs_are_cleared_after_their_status(make_decision, runner, columns, state, is_cleared_first):
    decision = make_decision(RUNNING | columns, seen(state), runner())
    assert isinstance(decision.call, FinishJob)
    assert decision.call.clears is is_cleared_first


@pytest.mark.parametrize(
    ("state", "writes"),
    [(None, []), (Pending(), []), (Running(), ["running"]), (Missing(), ["handle", "exit"])],
)
def test_local_handle_is_committed_with_the_first_state(make_decision, state, writes):
    decision = make_decision(ATTEMPTED, seen(state, handle="h", log=just_fetched()), Local())
    assert names(decision) == writes


@pytest.mark.parametrize(
    ("term_clock", "killed_at", "force"),
    [
        (None, None, False),
        ("boot-0:995.0", None, False),
        ("boot-1:990.5", None, None),
        ("boot-1:990.0", None, True),
        ("boot-1:900.0", NOW.seconds - KILL_INTERVAL_SECONDS / 2, None),
        ("boot-1:900.0", NOW.seconds - KILL_INTERVAL_SECONDS, True),
    ],
)
def test_kill_follows_term_after_the_grace_period(make_decision, term_clock, killed_at, force):
    decision = make_decision(RUNNING | STOPPED | {"term_clock": term_clock}, JobMemory(killed_at=killed_at))
    assert (decision.call and decision.call.force) is force


@pytest.mark.parametrize(
    ("log", "max_pause", "is_due"),
    [
        (LogFetch(began_at=NOW.seconds - TICK), 1.0, True),
        (LogFetch(began_at=NOW.seconds - TICK / 2), 1.0, False),
        (LogFetch(began_at=NOW.seconds - 3, seconds=1.0), 1.0, False),
        (LogFetch(began_at=NOW.seconds - 4, seconds=1.0), 1.0, True),
        (LogFetch(began_at=NOW.seconds - 4, quiet_pause=5.0), 10.0, False),
        (LogFetch(began_at=NOW.seconds - 4, quiet_pause=5.0), 2.0, True),
    ],
)
def test_log_is_fetched_when_it_is_due(make_decision, log, max_pause, is_due):
    runner = Remote()
    runner.max_log_pause = max_pause
    assert kind(make_decision(RUNNING, JobMemory(log=log), runner)) is (FetchLog if is_due else None)


def test_committed_log_position_is_not_written_again(make_decision):
    position = LogPosition("c", 5)
    memory = JobMemory(log=LogFetch(position, began_at=NOW.seconds))
    assert names(make_decision(RUNNING | {"log_cursor": {"cursor": "c", "length": 4}}, memory)) == ["log"]
    assert names(make_decision(RUNNING | {"log_cursor": position.to_json()}, memory)) == []


@pytest.mark.parametrize(
    ("notes", "memory", "outage", "writes"),
    [
        (None, JobMemory(), None, []),
        (None, JobMemory(), "away", ["note"]),
        ([{"kind": "unreachable", "text": "away"}], JobMemory(), "away", []),
        ([{"kind": "unreachable", "text": "away"}], JobMemory(), None, ["note"]),
        (None, JobMemory(observation=Observation(unknown_reason="other cluster")), None, ["note"]),
        (None, JobMemory(backoff=Backoff(reason="tried again")), None, ["note"]),
        ([{"kind": "retry", "text": "tried again"}], JobMemory(backoff=Backoff(reason="tried again")), None, []),
        (None, JobMemory(backoff=Backoff(reason="tried again"), is_broken=True), None, []),
    ],
)
def test_notes_follow_outages_and_retries(make_decision, notes, memory, outage, writes):
    assert names(make_decision(waiting(Status.RUNNING) | {"notes": notes}, memory, outage=outage)) == writes


@pytest.mark.parametrize(
    ("columns", "memory", "runner", "until"),
    [
        (RUNNING, JobMemory(), Local(), 1040.0),
        (RUNNING | {"config": {}}, JobMemory(), Local(), float("inf")),
        (RUNNING | {"attempt_clock": "boot-0:5.0"}, JobMemory(), Local(), 0.0),
        (RUNNING, JobMemory(log=just_fetched()), Remote(), NOW.seconds + TICK),
        (RUNNING, JobMemory(log=just_fetched(), backoff=Backoff(retry_at=1030.0)), Remote(), 1030.0),
        (RUNNING, BUSY, Local(), 0.0),
        (RUNNING, JobMemory(is_broken=True), Local(), 0.0),
        (RUNNING | STOPPED, JobMemory(), Local(), 0.0),
        (ATTEMPTED, JobMemory(), Local(), 0.0),
        (ENDED, JobMemory(), Local(), 0.0),
    ],
)
def test_running_job_is_quiet_until_something_is_due(tools, columns, memory, runner, until):
    assert quiet_until(make_job(**columns), memory, BackendState(runner), NOW, tools) == until


def test_timeout_counts_by_the_wall_clock_after_a_reboot(make_decision):
    begun_at = NOW.wall - datetime.timedelta(seconds=TIMEOUT)
    columns = RUNNING | {"attempt_clock": "boot-0:5.0", "attempt_at": begun_at}
    assert names(make_decision(columns)) == ["timeout"]
