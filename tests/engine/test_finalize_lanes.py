"""Large outputs: their packing takes turns, delays no other job, ends with a deleted job, and notes its progress."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Callable, Iterator

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, User
from polyjob.engine import finalize_lanes
from polyjob.errors import Invalid
from polyjob.services import cloning, jobs, submission
from polyjob.services.notes import MISSING_OUTPUTS_NOTE, PACKING_NOTE, note_text
from polyjob.storage import store
from runners.base import HandleNotFound, RunnerRefused, RunnerUnavailable
from tests.engine.conftest import World

SECONDS = 0.1
"""The time that each piece of a slow backend takes."""


NOISE = random.Random(0).randbytes(1 << 16)
"""Longer than the window of the compression, so that a repetition does not get smaller."""


def noise(size: int) -> bytes:
    return (NOISE * (size // len(NOISE) + 1))[:size]


def tar(size: int, name: str = "large") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = size
        archive.addfile(info, io.BytesIO(noise(size)))
    return buffer.getvalue()


class Slow:
    """The outputs of some jobs come slowly, in so many pieces; those of others as always."""

    def __init__(self, world: World) -> None:
        self.world, self.real = world, world.runner.outputs
        self.pieces: dict[str, int] = {}
        self.sent_pieces = 0
        self.closed: list[str] = []
        self.raises: Callable[[int], Exception | None] = lambda number: None
        world.runner.outputs = self.outputs

    def outputs(self, handle: str) -> Iterator[bytes]:
        uuid = self.world.runner._uuid(handle)
        if uuid not in self.pieces:
            yield from self.real(handle)
            return
        data = tar(self.pieces[uuid] << 16)
        try:
            for at in range(0, len(data), 1 << 16):
                if (error := self.raises(at >> 16)) is not None:
                    raise error
                self.world.clock.move(SECONDS)
                self.sent_pieces += 1
                yield data[at : at + (1 << 16)]
        finally:
            self.closed.append(uuid)


@pytest.fixture
def slow(world):
    return Slow(world)


@pytest.fixture
def other_user(world):
    with write("test"):
        return User.create(username="bob", created_at=now())


def ended(world: World, slow: Slow, pieces: int, user: User | None = None) -> Job:
    """A job whose command has ended, with outputs in so many pieces."""
    job = submission.create(
        world.project, user or world.user, {"config": {"version": 1, "run": {"cmd": "true"}}}, world.settings
    )
    slow.pieces[job.uuid] = pieces
    return job


def passes(world: World, count: int) -> None:
    for _ in range(count):
        world.engine.run_pass()


def is_done(world: World, job: Job) -> bool:
    return world.read(job).status.is_done


def note(world: World, job: Job, kind: str = PACKING_NOTE) -> str | None:
    return note_text(world.read(job).notes, kind)


def until(world: World, what: Callable[[], object]) -> None:
    for _ in range(400):
        if what():
            return
        if not world.engine.run_pass():
            world.clock.move(1.0)
    raise AssertionError("it never comes to that")


@pytest.mark.parametrize("count", [1, 5])
def test_small_ends_do_not_wait_for_large_ones(world, slow, count):
    large = [ended(world, slow, 200) for _ in range(count)]
    until(world, lambda: all(note(world, job) for job in large))
    small = world.submit(outputs='{"a": "A"}')
    passes(world, 12)
    assert is_done(world, small)
    assert not all(is_done(world, job) for job in large)
    until(world, lambda: all(is_done(world, job) for job in large))
    for job in large:
        size, content = world.store.outputs(job.uuid).open_file("large")
        assert size == 200 << 16 and b"".join(content) == noise(size)


def test_large_ends_take_turns(world, slow, other_user):
    one, other = ended(world, slow, 300), ended(world, slow, 100, other_user)
    until(world, lambda: is_done(world, other))
    assert not is_done(world, one)
    until(world, lambda: is_done(world, one))


def test_user_has_a_bounded_number_of_lanes(world, slow, other_user):
    mine = [ended(world, slow, 300) for _ in range(4)]
    until(world, lambda: all(note(world, job) for job in mine))
    texts = [note(world, job) for job in mine]
    assert texts.count(finalize_lanes.WAITING_NOTE) == 2
    other = ended(world, slow, 300, other_user)
    until(world, lambda: note(world, other))
    world.clock.move(finalize_lanes.NOTE_INTERVAL_SECONDS)
    passes(world, 3)
    assert "so far" in note(world, other)
    until(world, lambda: all(is_done(world, job) for job in [*mine, other]))


def test_note_tells_how_far_packing_is(world, slow):
    job = ended(world, slow, 400)
    until(world, lambda: note(world, job))
    seen = set()

    def step():
        seen.add(note(world, job))
        return is_done(world, job)

    until(world, step)
    assert len(seen - {None}) > 3
    assert all(text.startswith("Packing outputs: ") for text in seen - {None, finalize_lanes.WAITING_NOTE})
    assert note(world, job) is None


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_delete_gives_up_the_packing(world, slow, restarted, waits):
    others = [ended(world, slow, 500) for _ in range(2)] if waits else []
    until(world, lambda: all(note(world, job) for job in others))
    job = ended(world, slow, 1000)
    until(world, lambda: note(world, job))
    jobs.delete(world.read(job), world.user, world.settings)
    if restarted:
        world.restart()
        slow.world.runner.outputs = slow.outputs
    sent_before = slow.sent_pieces
    until(world, lambda: Job.get_or_none(Job.id == job.id) is None)
    assert not world.store.job_folder(job.uuid).exists()
    if not waits:
        assert slow.sent_pieces - sent_before < 30
    if not restarted:
        assert slow.closed.count(job.uuid) == 1 + (not waits)


@pytest.mark.parametrize("pieces", [30, 100])
def test_packing_ends_with_its_time(world, slow, monkeypatch, pieces):
    monkeypatch.setattr(finalize_lanes, "MAX_PACKING_SECONDS", 2)
    job = ended(world, slow, pieces)
    until(world, lambda: is_done(world, job))
    assert finalize_lanes.PACKING_TIMEOUT_NOTE in note(world, job, "outputs")
    assert world.store.outputs(job.uuid).tree("") == ([], [])
    assert world.read(job).status == "succeeded"


def test_packing_that_breaks_is_begun_again(world, slow):
    job = ended(world, slow, 60)
    broken = itertools.count()
    slow.raises = lambda number: RunnerUnavailable("away") if number == 40 and next(broken) < 2 else None
    until(world, lambda: is_done(world, job))
    assert world.store.outputs(job.uuid).open_file("large")[0] == 60 << 16


@pytest.mark.parametrize("error", [RunnerRefused, ValueError])
@pytest.mark.parametrize("at", [0, 30, 90])
def test_outputs_that_always_break_end(world, slow, at, error):
    job = ended(world, slow, 120)
    slow.raises = lambda number: error("broken") if number == at else None
    until(world, lambda: is_done(world, job))
    assert note(world, job, MISSING_OUTPUTS_NOTE) == "Its outputs could not be fetched: broken"


def test_packing_waits_longer_for_each_outage(world, slow):
    job = ended(world, slow, 60)
    tries = []
    slow.raises = lambda number: (
        tries.append(world.clock.seconds()) or RunnerUnavailable("away") if number == 40 else None
    )
    until(world, lambda: len(tries) > 5)
    assert tries[5] - tries[4] > 2 * (tries[1] - tries[0])
    assert not is_done(world, job)


def test_single_large_end_waits_for_no_other(world, slow):
    job = ended(world, slow, 100)
    seen = set()
    until(world, lambda: seen.add(note(world, job)) or is_done(world, job))
    assert finalize_lanes.WAITING_NOTE not in seen


def test_sealed_outputs_do_not_wait_to_be_packed(world, slow, monkeypatch):
    job = ended(world, slow, 100)

    def away(handle):
        raise RunnerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.runner, "clean", away)
        until(world, lambda: note(world, job, "retry"))
        world.later(finalize_lanes.NOTE_INTERVAL_SECONDS + 1)
        assert note(world, job) is None
    world.end(job)


@pytest.mark.parametrize("is_large", [False, True])
def test_sealed_outputs_wait_for_no_lane(world, slow, monkeypatch, is_large):
    job = ended(world, slow, 60 if is_large else 1)

    def away(handle):
        raise RunnerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.runner, "clean", away)
        until(world, lambda: note(world, job, "retry"))
        others = [ended(world, slow, 500) for _ in range(finalize_lanes.MAX_LANES_PER_USER)]
        until(world, lambda: all(note(world, other) for other in others))
    world.clock.move(60)
    passes(world, 12)
    assert is_done(world, job)
    assert not any(is_done(world, other) for other in others)


@pytest.fixture
def remove_slowly(world, monkeypatch):
    """A function that has the removal of `what` a job has left take so many steps; the remaining steps by job."""
    remaining: dict[str, int] = {}

    def steps(uuid: str) -> Iterator[None]:
        while remaining.get(uuid, 0):
            remaining[uuid] -= 1
            world.clock.move(SECONDS)
            yield

    def clean_in_steps(handle: str) -> Iterator[None]:
        yield from steps(world.runner._uuid(handle))
        world.runner.clean(handle)

    def begin(what: str, count: int, *jobs_: Job) -> dict[str, int]:
        remaining.update({job.uuid: count for job in jobs_})
        if what == "outputs":
            monkeypatch.setattr(store, "removing_tree", lambda folder: steps(folder.parent.name))
        elif what == "in place of the log":
            monkeypatch.setattr(store, "restoring_file", lambda log: steps(log.parent.name))
        else:
            monkeypatch.setattr(world.runner, "clean_in_steps", clean_in_steps)
        return remaining

    return begin


REMOVALS = pytest.mark.parametrize("what", ["outputs", "temporary files", "in place of the log"])


@REMOVALS
@pytest.mark.parametrize("count", [1, 5])
def test_long_removals_wait_for_no_lane(world, slow, remove_slowly, what, count):
    others = [ended(world, slow, 400) for _ in range(finalize_lanes.MAX_LANES_PER_USER)]
    until(world, lambda: all(note(world, other) for other in others))
    removed = [ended(world, slow, 1) for _ in range(count)]
    remove_slowly(what, 30, *removed)
    seen = set()

    def are_done():
        seen.update(note(world, job) for job in removed)
        return all(is_done(world, job) for job in removed)

    until(world, are_done)
    assert seen == {None}
    assert not any(is_done(world, other) for other in others)


@REMOVALS
@pytest.mark.parametrize("pieces", [1, 60])
def test_long_removals_take_no_lane(world, slow, remove_slowly, what, pieces):
    removed = [ended(world, slow, pieces) for _ in range(finalize_lanes.MAX_LANES_PER_USER)]
    remaining = remove_slowly(what, 200, *removed)
    until(world, lambda: all(remaining[job.uuid] < 200 for job in removed))
    passes(world, 1)
    assert [note(world, job) for job in removed] == [None] * len(removed)
    large = ended(world, slow, 40)
    until(world, lambda: is_done(world, large))
    assert not any(is_done(world, job) for job in removed)
    until(world, lambda: all(is_done(world, job) for job in removed))


@REMOVALS
@pytest.mark.parametrize("restarted", [False, True])
def test_long_removal_packs_outputs_once(world, slow, remove_slowly, monkeypatch, what, restarted):
    job = ended(world, slow, 1)
    remaining = remove_slowly(what, 100, job)
    until(world, lambda: remaining[job.uuid] < 100)
    if restarted:
        real = world.runner.clean_in_steps
        world.restart()
        monkeypatch.setattr(world.runner, "clean_in_steps", real)
        world.runner.outputs = slow.outputs
    until(world, lambda: is_done(world, job))
    assert slow.closed == [job.uuid]
    assert world.store.outputs(job.uuid).open_file("large")[0] == 1 << 16


def test_missing_log_is_noted_after_a_long_removal(world, slow, remove_slowly, monkeypatch):
    job = ended(world, slow, 1)
    remove_slowly("temporary files", 100, job)

    def gone(*_):
        raise HandleNotFound("The pod is not there any more.")

    monkeypatch.setattr(world.runner, "logs", gone)
    until(world, lambda: is_done(world, job))
    assert note(world, job, "log") == "The rest of its log could not be fetched: The pod is not there any more."


def test_outputs_that_come_after_all_are_not_noted_as_missing(world, slow, remove_slowly, monkeypatch):
    job = ended(world, slow, 1)
    remove_slowly("temporary files", 100, job)
    real, handles = slow.outputs, []

    def outputs(handle):
        handles.append(handle)
        if len(handles) == 1:
            raise HandleNotFound("The pod is not there any more.")
        yield from real(handle)

    monkeypatch.setattr(world.runner, "outputs", outputs)
    until(world, lambda: is_done(world, job))
    assert len(handles) > 1
    assert note(world, job, MISSING_OUTPUTS_NOTE) is None


def test_removal_that_breaks_is_tried_with_pauses(world, slow, remove_slowly, monkeypatch):
    job = ended(world, slow, 1)
    remaining = remove_slowly("temporary files", 5, job)
    tries = []

    def away(handle):
        tries.append(world.clock.seconds())
        remaining[job.uuid] = 5
        raise RunnerUnavailable("away")

    monkeypatch.setattr(world.runner, "clean", away)
    until(world, lambda: len(tries) > 5)
    assert tries[5] - tries[4] > 2 * (tries[1] - tries[0])


@pytest.mark.parametrize("count", [1, 5])
def test_small_ends_do_not_wait_for_long_removals(world, remove_slowly, count):
    large = [world.submit() for _ in range(count)]
    remaining = remove_slowly("temporary files", 200, *large)
    until(world, lambda: all(remaining[job.uuid] < 200 for job in large))
    small = world.submit()
    passes(world, 12)
    assert is_done(world, small)
    assert not all(is_done(world, job) for job in large)
    until(world, lambda: all(is_done(world, job) for job in large))


# Outputs that are not there any more.


@pytest.mark.parametrize("at", [0, 30])
def test_outputs_that_are_gone_are_noted(world, slow, at):
    job = ended(world, slow, 60)
    slow.raises = lambda number: HandleNotFound("The pod is not there any more.") if number == at else None
    until(world, lambda: is_done(world, job))
    assert note(world, job, MISSING_OUTPUTS_NOTE) == "Its outputs could not be fetched: The pod is not there any more."
    for strategy in ("resume", "copy"):
        with pytest.raises(Invalid, match="missing"):
            cloning.clone(world.read(job), world.user, strategy, {}, world.settings)
    cloning.clone(world.read(job), world.user, "restart", {}, world.settings)


def test_log_that_is_gone_is_noted(world, monkeypatch):
    job = world.submit(log="x", outputs='{"a": "A"}')

    def gone(*_):
        raise HandleNotFound("The pod is not there any more.")

    monkeypatch.setattr(world.runner, "logs", gone)
    world.end(job)
    assert note(world, job, "log") == "The rest of its log could not be fetched: The pod is not there any more."
    assert note(world, job, MISSING_OUTPUTS_NOTE) is None


@pytest.mark.parametrize("refused", ["logs", "outputs"])
def test_note_of_what_was_refused_survives_a_crash(world, monkeypatch, refused):
    """A crash between the removal in the backend and the terminal status."""
    job = world.submit(log="x", outputs='{"a": "A"}', faults=json.dumps({refused: "refused"}))
    with monkeypatch.context() as patch:
        patch.setattr("polyjob.engine.job_writes.record_terminal_status", lambda *_: None)
        until(world, lambda: world.read(job).exit and not world.runner.inventory())
    assert not is_done(world, job)
    world.restart()
    world.end(job)
    text = note(world, job, "log" if refused == "logs" else MISSING_OUTPUTS_NOTE)
    assert text.endswith(f"could not be fetched: the fake backend refuses {refused}")


@pytest.mark.parametrize("outputs", ["{}", '{"a": "A"}'])
def test_cleared_backend_is_not_missing_outputs(world, monkeypatch, outputs):
    """A crash between the removal in the backend and the terminal status."""
    job = world.submit(log="x", outputs=outputs)
    with monkeypatch.context() as patch:
        patch.setattr("polyjob.engine.job_writes.record_terminal_status", lambda *_: None)
        for _ in range(20):
            world.engine.run_pass()
            world.clock.move(1.0)
    assert not is_done(world, job) and not world.runner.inventory()
    world.restart()
    world.end(job)
    assert world.read(job).notes is None
    assert world.store.job_log(job.uuid).read_bytes() == b"x"


@pytest.mark.parametrize("reason", ["start", "image"])
def test_command_that_never_ran_misses_nothing(world, slow, reason):
    job = world.submit(reason=reason)
    slow.pieces[job.uuid] = 1
    slow.raises = lambda number: HandleNotFound("never started")
    world.end(job)
    assert note(world, job, MISSING_OUTPUTS_NOTE) is None
