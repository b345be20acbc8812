"""Take turns at finishing jobs: small outputs are packed at once, large ones in lanes, slice by slice.

The first call for a job's end works only for a moment. Outputs that are not sealed by then count as large, and their
packing begins again in a lane. Lanes have threads of their own, and each slice of a lane is a call of its own. So large
outputs do not delay small ones, all large ones advance side by side, and packing for a deleted job ends after the
current slice.

A job whose outputs are packed needs no lane. If many of its files have to be removed, it takes its slices in threads
for removals, and each slice begins the end again: sealed outputs are not packed again, and removed files are not
removed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass

from polyjob.clock import Clock
from polyjob.db.models import Job
from polyjob.engine.finalize import FinishProgress
from polyjob.formatting import format_size

FIRST_SLICE_SECONDS = 0.25
SLICE_SECONDS = 1.0
MAX_LANES = 8
MAX_LANES_PER_USER = 2
MAX_PACKING_SECONDS = 7200
"""Work on the outputs of one job. Time in which other lanes have their turn does not count."""
PACKING_TIMEOUT_NOTE = f"packing took longer than {MAX_PACKING_SECONDS // 3600} hours"
NOTE_INTERVAL_SECONDS = 5.0
WAITING_NOTE = "Its outputs wait to be packed, as other large outputs are packed first."

Deadline = Callable[[], str | None]
"""Returns why packing has to end now, or None."""
FinishSteps = Generator[FinishProgress, None, None]


@dataclass(frozen=True)
class Slice:
    """A part of a job's end: one call."""

    pool: str
    run: Callable[[], FinishProgress]


@dataclass
class Lane:
    """The end of one job with large outputs."""

    user_id: int
    steps: FinishSteps | None = None
    seconds: float = 0.0
    """Spent in all slices so far."""
    slice_began_at: float = 0.0
    packed_bytes: int = 0


class FinalizeLanes:
    """Choose the next slice for each job that is finishing.

    Only the engine's thread uses it. A lane belongs to its slice while that runs. All of it can be lost: then the end
    of each job begins again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._large: set[int] = set()
        self._removing: set[int] = set()
        self._lanes: dict[int, Lane] = {}
        self._notes: dict[int, tuple[float, str | None]] = {}

    def next_slice(self, job: Job, begin: Callable[[Deadline], FinishSteps]) -> Slice | None:
        """Return the next slice of a job's end, or None if the job has to wait for a lane.

        The caller runs the slice, and calls `record` afterwards. No slice of the job may be running. `begin` returns
        the steps of the end; they stop packing once the deadline returns a reason.
        """
        if job.deleted_at is not None and job.id in self._large:
            abandoned = self._lanes.pop(job.id, None)
            self._forget_state(job.id)
            return Slice("pack", lambda: self._restart(abandoned, begin))
        if job.id in self._removing:
            return Slice("remove", lambda: self._run(begin, SLICE_SECONDS))
        if job.id not in self._large:
            return Slice("files", lambda: self._run(begin, FIRST_SLICE_SECONDS))
        if job.id in self._lanes or self._has_free_lane(job.user_id):
            lane = self._lanes.setdefault(job.id, Lane(job.user_id))
            return Slice("pack", lambda: self._run_in_lane(lane, begin))
        return None

    def record(self, job_id: int, progress: FinishProgress | None) -> None:
        """Record the result of a slice. None means that it failed, and its steps with it."""
        self._removing.discard(job_id)
        if progress is None or progress.is_complete or progress.is_removing:
            self._lanes.pop(job_id, None)
            self._large.discard(job_id)  # after a failure the rest may be small: what is sealed is not packed again
        if progress is not None and progress.is_removing:
            self._removing.add(job_id)
        elif progress is not None and progress.packed_bytes is not None:
            self._large.add(job_id)

    def note(self, job: Job) -> str | None:
        """Return the note on the packing of a job's outputs, or None. It changes only every few seconds."""
        if job.id not in self._large:
            return None
        now, text = self._clock.seconds(), self._progress_note(job)
        changed_at, current = self._notes.get(job.id, (float("-inf"), None))
        if now - changed_at < NOTE_INTERVAL_SECONDS:
            return current
        if text != current:
            self._notes[job.id] = now, text
        return text

    def forget(self, job_id: int) -> None:
        """Abandon what was begun for a job. No slice of the job may be running."""
        _close(self._lanes.pop(job_id, None))
        self._forget_state(job_id)

    def _progress_note(self, job: Job) -> str | None:
        """Return how far the packing is; None before its first slice, and while the job waits for its backend."""
        lane = self._lanes.get(job.id)
        if lane is not None:
            return f"Packing outputs: {format_size(lane.packed_bytes)} so far." if lane.packed_bytes else None
        return None if self._has_free_lane(job.user_id) else WAITING_NOTE

    def _forget_state(self, job_id: int) -> None:
        self._large.discard(job_id)
        self._removing.discard(job_id)
        self._notes.pop(job_id, None)

    def _has_free_lane(self, user_id: int) -> bool:
        lanes_of_user = sum(lane.user_id == user_id for lane in self._lanes.values())
        return len(self._lanes) < MAX_LANES and lanes_of_user < MAX_LANES_PER_USER

    # The methods below run in a pool's thread.

    def _run(self, begin: Callable[[Deadline], FinishSteps], seconds: float) -> FinishProgress:
        """Begin the end, work on it for a while, and close it. Packing that is not done by then is abandoned."""
        with contextlib.closing(begin(lambda: None)) as steps:
            return self._work(steps, seconds)

    def _restart(self, abandoned: Lane | None, begin: Callable[[Deadline], FinishSteps]) -> FinishProgress:
        """Abandon a lane, which takes long if much is on the disk, and begin the end of the deleted job."""
        _close(abandoned)
        return self._run(begin, FIRST_SLICE_SECONDS)

    def _run_in_lane(self, lane: Lane, begin: Callable[[Deadline], FinishSteps]) -> FinishProgress:
        lane.slice_began_at = self._clock.seconds()
        if lane.steps is None:
            lane.steps = begin(lambda: self._timeout_note(lane))
        progress = self._work(lane.steps, SLICE_SECONDS)
        lane.seconds += self._clock.seconds() - lane.slice_began_at
        lane.packed_bytes = max(lane.packed_bytes, progress.packed_bytes or 0)
        if progress.packed_bytes is None:
            _close(lane)
            lane.steps = None
        return progress

    def _timeout_note(self, lane: Lane) -> str | None:
        seconds = lane.seconds + self._clock.seconds() - lane.slice_began_at
        return PACKING_TIMEOUT_NOTE if seconds > MAX_PACKING_SECONDS else None

    def _work(self, steps: FinishSteps, seconds: float) -> FinishProgress:
        """Take steps for this many seconds, and return the progress after the last one."""
        deadline = self._clock.seconds() + seconds
        for progress in steps:
            if not progress.can_continue or self._clock.seconds() >= deadline:
                return progress
        raise RuntimeError("the steps of a job's end stopped before it was complete")


def _close(lane: Lane | None) -> None:
    if lane is not None and lane.steps is not None:
        lane.steps.close()
