"""Admission: claim the queued jobs for which slots and GPUs are free."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from polyjob.db.models import QUEUED, Job
from polyjob.db.prepared import Prepared
from polyjob.engine.context import Context
from polyjob.engine.prepare import can_start_at_once, intent_columns
from polyjob.services.capacity import Capacity
from polyjob.services.job_queue import assigned_gpus, gpus_taken, read_queues
from polyjob.services.transitions import transition
from polyjob.statuses import Status
from runners.registry import runner_facts

QUEUE_SCAN_ROWS = 500
"""Jobs at the head of the queue among which a pass looks for some whose GPUs are free."""

_QUEUE = Prepared(lambda: Job.select().where(QUEUED, Job.runner == "").order_by(Job.id).limit(1))


class Admission:
    """Counts free slots and GPUs from rows, at the moment of each call, and stores them nowhere."""

    def __init__(self, context: Context, prepare: Callable[[Job], None]) -> None:
        self._context = context
        self._prepare = prepare

    def free_slots(self) -> dict[str, int]:
        """Return the number of free slots of each runner that has queued jobs and free slots."""
        return self._read()[0]

    def _read(self) -> tuple[dict[str, int], Capacity]:
        """Return the number of free slots of each runner that has queued jobs and free slots, and the capacity."""
        slots_taken, changes = read_queues()
        current = Capacity(self._context.settings, changes)
        free = {name: current.slots_of(name) - taken for name, taken in slots_taken.items()}
        return {name: number for name, number in free.items() if number > 0}, current

    def claim(self) -> list[Job]:
        """Claim the head of each runner's queue, as far as its slots are free, and prepare each claimed job.

        Called inside a transaction.
        """
        free_slots, current = self._read()
        if not free_slots:
            return []
        limit = QUEUE_SCAN_ROWS if current.assigns_gpus else None
        heads = [_QUEUE(name, limit or free) for name, free in free_slots.items()]
        queue = sorted(itertools.chain.from_iterable(heads), key=lambda job: job.id)
        admitted = _with_gpus(queue, free_slots, current.gpus) if current.assigns_gpus else queue
        claimed = []
        for job in admitted:
            intent = intent_columns(self._context.clock) if can_start_at_once(job) else {}
            if transition(job, Status.SCHEDULED, message=_ignored_parts(job), gpus=job.gpus, **intent):
                if not intent:
                    self._prepare(job)
                claimed.append(job)
        return claimed


def _with_gpus(queue: Sequence[Job], free_slots: Mapping[str, int], gpus: Sequence[int]) -> list[Job]:
    """Return the first jobs of the queue for which slots are free, each with those of `gpus` that it requests.

    A job whose GPUs are not free lets jobs without GPUs pass, but no other job that requests some, on any runner.
    """
    taken = gpus_taken()
    free_gpus = [index for index in gpus if index not in taken]
    remaining, admitted = dict(free_slots), []
    for job in queue:
        count = assigned_gpus(job)
        if not remaining[job.runner]:
            continue
        if count > len(free_gpus):
            free_gpus = free_gpus if count > len(gpus) else []
            continue
        job.gpus, free_gpus = free_gpus[:count] or None, free_gpus[count:]
        remaining[job.runner] -= 1
        admitted.append(job)
    return admitted


def _ignored_parts(job: Job) -> str | None:
    """Return the parts of the config that the runner ignores, for clients that show statuses but no notes."""
    support = runner_facts(job.runner).support
    return " ".join(note["text"] for note in job.notes or [] if note["kind"] in support) or None
