"""The ends of jobs under way: small outputs are sealed at once, large ones in lanes whose slices take turns.

The first call for an end works for a moment only. Outputs that are not sealed by then count as large, and are begun
again in a lane. Lanes have threads of their own, and each slice of a lane is a call of its own: so a large end delays
no small one, all large ones go on side by side, and between two slices the end of a deleted job is given up.

An end whose outputs are packed needs no lane. If it has many files to remove, it takes its slices in threads for
removals, and each slice begins the end again: sealed outputs are not packed again, and removed files are not removed
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass

from polyjob.clock import Clock
from polyjob.db.models import Job
from polyjob.engine.call_pools import Calls
from polyjob.engine.finalize import Finished

FIRST_SECONDS = 0.25
SLICE_SECONDS = 1.0
MAX_LANES = 8
MAX_LANES_PER_USER = 2
MAX_SEAL_SECONDS = 7200
"""Of work on the outputs of one job; time in which other lanes have their turn does not count."""
OVERDUE = f"packing took longer than {MAX_SEAL_SECONDS // 3600} hours"
NOTE_EVERY = 5.0
WAITS = "Its outputs wait to be packed, as other large outputs are packed first."

Deadline = Callable[[], str | None]
Steps = Generator[Finished, None, None]


@dataclass
class Lane:
    """The end of one job with large outputs."""

    user: int
    steps: Steps | None = None
    spent: float = 0.0
    slice_began: float = 0.0
    packed: int = 0


class Endings:
    """Makes the calls for the ends of jobs. All of it can be lost: an end is begun again. Owned by the engine's thread;
    a lane belongs to its call while that is under way."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._large: set[int] = set()
        self._removing: set[int] = set()
        self._lanes: dict[int, Lane] = {}
        self._notes: dict[int, tuple[float, str | None]] = {}

    def go_on(self, job: Job, begin: Callable[[Deadline], Steps]) -> None:
        """Submit the next call of a job's end, unless the job waits for a lane. No call for the job may be under way.

        `begin` makes the steps of the end, which stop packing once the deadline says why.
        """
        key = ("job", job.id)
        if job.deleted_at is not None and job.id in self._large:
            begun = self._lanes.pop(job.id, None)
            self._forget(job.id)
            self._calls.submit("pack", key, "finish", lambda: self._instead_of(begun, begin))
        elif job.id in self._removing:
            self._calls.submit("remove", key, "finish", lambda: self._run(begin, SLICE_SECONDS))
        elif job.id not in self._large:
            self._calls.submit("files", key, "finish", lambda: self._run(begin, FIRST_SECONDS))
        elif job.id in self._lanes or self._has_lane(job.user_id):
            lane = self._lanes.setdefault(job.id, Lane(job.user_id))
            self._calls.submit("pack", key, "finish", lambda: self._slice(lane, begin))

    def came_to(self, number: int, done: Finished | None) -> None:
        """Record what a call returned; None = it failed, and its steps with it."""
        self._removing.discard(number)
        if done is None or done.is_whole or done.is_removing:
            self._lanes.pop(number, None)
            self._large.discard(number)  # after a failure the rest may be small: what is sealed is not packed again
        if done is not None and done.is_removing:
            self._removing.add(number)
        elif done is not None and done.packed is not None:
            self._large.add(number)

    def note(self, job: Job) -> str | None:
        """Return the note on the packing of a job's outputs, or None. It changes only every few seconds."""
        if job.id not in self._large:
            return None
        now, text = self._clock.seconds(), self._progress(job)
        said_at, said = self._notes.get(job.id, (float("-inf"), None))
        if now - said_at < NOTE_EVERY:
            return said
        if text != said:
            self._notes[job.id] = now, text
        return text

    def _progress(self, job: Job) -> str | None:
        """Return how far the packing is; None before its first slice, and while the job waits for its backend."""
        lane = self._lanes.get(job.id)
        if lane is not None:
            return f"Packing outputs: {_size(lane.packed)} so far." if lane.packed else None
        return None if self._has_lane(job.user_id) else WAITS

    def forget(self, number: int) -> None:
        """Give up what was begun for a job; nothing of it stays. No call for the job may be under way."""
        _close(self._lanes.pop(number, None))
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._large.discard(number)
        self._removing.discard(number)
        self._notes.pop(number, None)

    def _has_lane(self, user: int) -> bool:
        own = sum(lane.user == user for lane in self._lanes.values())
        return len(self._lanes) < MAX_LANES and own < MAX_LANES_PER_USER

    def _run(self, begin: Callable[[Deadline], Steps], seconds: float) -> Finished:
        """Begin the end, work on it for so many seconds, and close it. Packing that is not done by then is given up."""
        with contextlib.closing(begin(lambda: None)) as steps:
            return self._work(steps, seconds)

    def _instead_of(self, begun: Lane | None, begin: Callable[[Deadline], Steps]) -> Finished:
        """Give up what was begun, which takes long where much is on the disk, and begin the end of the deleted job."""
        _close(begun)
        return self._run(begin, FIRST_SECONDS)

    def _slice(self, lane: Lane, begin: Callable[[Deadline], Steps]) -> Finished:
        lane.slice_began = self._clock.seconds()
        if lane.steps is None:
            lane.steps = begin(lambda: self._overdue(lane))
        done = self._work(lane.steps, SLICE_SECONDS)
        lane.spent += self._clock.seconds() - lane.slice_began
        lane.packed = max(lane.packed, done.packed or 0)
        if done.packed is None:
            _close(lane)
            lane.steps = None
        return done

    def _overdue(self, lane: Lane) -> str | None:
        spent = lane.spent + self._clock.seconds() - lane.slice_began
        return OVERDUE if spent > MAX_SEAL_SECONDS else None

    def _work(self, steps: Steps, seconds: float) -> Finished:
        """Take steps for so long, and return what the last one came to."""
        until = self._clock.seconds() + seconds
        for done in steps:
            if not done.can_continue or self._clock.seconds() >= until:
                return done
        raise RuntimeError("the steps of an end have ended without an end")


def _close(lane: Lane | None) -> None:
    if lane is not None and lane.steps is not None:
        lane.steps.close()


def _size(count: int) -> str:
    """Return bytes as people read them."""
    if count < 1_000_000_000:
        return f"{count / 1_000_000:.0f} MB"
    return f"{count / 1_000_000_000:.1f} GB"
