"""One pass of the engine: compare the rows with what the back ends say, and take the next step of each job.

A pass reads the claimed rows, the rows with wishes, the builds under way and the head of the queue. It decides first,
then commits all its changes in one transaction, then begins the calls that those changes allow. It keeps nothing that
it could not find out again: after a crash, the first pass is like any other.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from polyjob.crash_points import crash_point
from polyjob.db.database import write
from polyjob.db.models import CLAIMED, DELETED, LIVE_BUILDS, QUEUED, Build, Job, Project
from polyjob.db.prepared import Prepared
from polyjob.engine.backends import Backends
from polyjob.engine.build_driver import BuildDriver
from polyjob.engine.call_pools import Done
from polyjob.engine.cleanup import Housekeeping
from polyjob.engine.context import Context
from polyjob.engine.job_driver import JobDriver
from polyjob.engine.orphans import Unclaimed
from polyjob.engine.removal import Erasing
from polyjob.engine.writes import Step
from polyjob.services import specs
from polyjob.services.job_queue import gpus_taken, slots_taken
from polyjob.services.transitions import transition
from polyjob.statuses import Status
from runners.base import Runner
from runners.capabilities import CAPABILITIES

LOOKED_THROUGH = 500
"""Of the queue, for jobs whose GPUs are free."""

_CLAIMED = Prepared(lambda: Job.select().where(CLAIMED).order_by(Job.id))
_DELETED_PROJECTS = Prepared(lambda: Project.select(Project.id).where(DELETED))
_LIVE_BUILDS = Prepared(lambda: Build.select().where(LIVE_BUILDS).order_by(Build.id))
_QUEUE = Prepared(lambda: Job.select().where(QUEUED).order_by(Job.id).limit(1))


log = logging.getLogger("polyjob.engine")


class Engine:
    """Passes over one data folder. Owned by one thread; only `Calls` has others."""

    def __init__(
        self, context: Context, load_runner: Callable[[str, Callable[[], None]], Runner], wake: Callable[[], None]
    ) -> None:
        self.context = context
        self.backends = Backends(context, load_runner, wake)
        self.builds = BuildDriver(context, self.backends)
        self.jobs = JobDriver(context, self.backends)
        self.erasing = Erasing(context, self.backends)
        self.housekeeping = Housekeeping(context, self.backends)
        self.unclaimed = Unclaimed(context, self.backends)

    def run_pass(self) -> bool:
        """Take the next step of everything; whether another pass may find more to do at once."""
        ended = {done.key: self._ended(done) for done in self.context.calls.take()}
        groups = [[step] for step in ended.values() if step]
        decided = {key for key, step in ended.items() if step}
        claimed = _CLAIMED()
        self.jobs.forget_all_but(claimed)
        self.jobs.hear(claimed)
        groups += [self.builds.steps(build) for build in _LIVE_BUILDS() if ("build", build.id) not in decided]
        groups += [self.jobs.steps_or_rest(job) for job in claimed if ("job", job.id) not in decided]
        self.erasing.go_on(decided)
        groups += [[step] for step in self.housekeeping.steps()]
        self.unclaimed.look()
        groups += [[step] for step in map(self._empty, _DELETED_PROJECTS()) if step]
        committed = self._commit([group for group in groups if group], self._may_claim())
        return committed or self.context.calls.any_ended()

    def _empty(self, project: Project) -> Step | None:
        """The removal of a deleted project, once nothing belongs to it any more."""
        if any(table.select().where(table.project == project).exists() for table in (Job, Build)):
            return None
        return Step("erase", lambda: Project.delete().where(Project.id == project.id).execute())

    def close(self) -> None:
        """Begin nothing more, end the builds under way, let go of the back ends. Jobs go on."""
        self.builds.cancel_all()
        self.context.calls.close()
        self.backends.close()

    def _ended(self, done: Done) -> Step | None:
        """The step that the end of a call asks for."""
        kind, subject = done.key
        if done.verb in ("erase", "drop"):
            return self.erasing.ended(done)
        if kind == "build":
            return self.builds.ended(subject, done)
        if kind == "job":
            return self.jobs.ended(subject, done)
        if kind == "sweep":
            self.housekeeping.ended(done)
            return None
        if kind == "unclaimed":
            self.unclaimed.ended(subject, done)
            return None
        self.backends.ended(subject, done)
        return None

    def _commit(self, groups: list[list[Step]], may_claim: bool) -> bool:
        """Commit all steps, each group being what one job or build needs in that order."""
        if not groups and not may_claim:
            return False
        try:
            any_claimed = self._commit_together(groups, may_claim)
        except Exception:
            log.exception("the steps could not be committed together; those of each job are tried by themselves")
            groups = [group for group in groups if self._commit_alone(group)]
            any_claimed = may_claim and self._claim_alone()
        for step in itertools.chain.from_iterable(groups):
            if step.after:
                _guarded(step.after, step.name)
        return bool(groups) or any_claimed

    def _commit_together(self, groups: list[list[Step]], may_claim: bool) -> bool:
        names = []
        with write("pass"):
            for step in itertools.chain.from_iterable(groups):
                step.apply()
                names.append(step.name)
            claims = self._admit() if may_claim else 0
            names += ["claim"] * claims
            for name in names:
                crash_point(f"{name}:before")
        for name in names:
            crash_point(f"{name}:after")
        return claims > 0

    def _commit_alone(self, group: list[Step]) -> bool:
        """One row that cannot be written must not hold up all others."""

        def commit() -> None:
            with write(group[-1].name):
                for step in group:
                    step.apply()

        return _guarded(commit, group[-1].name)

    def _claim_alone(self) -> bool:
        claimed = []

        def commit() -> None:
            with write("claim"):
                claimed.append(self._admit())

        return _guarded(commit, "claim") and any(claimed)

    def _may_claim(self) -> bool:
        return bool(_QUEUE(1)) and slots_taken() < self.context.settings.slots

    def _admit(self) -> int:
        """Claim the head of the queue, as much of it as there are free slots, and bring each job as far as its rows
        allow. Slots are counted from rows, here and now, and kept nowhere."""
        free = self.context.settings.slots - slots_taken()
        head = self._with_gpus(free) if self.context.settings.gpus else _QUEUE(max(0, free))
        for job in head:
            if transition(job, Status.SCHEDULED, message=_left_out(job), gpus=job.gpus):
                self.jobs.prepare(job)
        return len(head)

    def _with_gpus(self, free: int) -> list[Job]:
        """The first of the queue, each with the GPUs that it asks for. A job whose GPUs are not free lets those pass
        that ask for none, and no other that asks for some."""
        unheld = [index for index in self.context.settings.gpus if index not in gpus_taken()]
        admitted: list[Job] = []
        for job in _QUEUE(LOOKED_THROUGH) if free > 0 else []:
            asked = specs.requested_gpus(job.config, job.runner)
            if asked > len(unheld):
                unheld = unheld if asked > len(self.context.settings.gpus) else []
                continue
            job.gpus, unheld = unheld[:asked] or None, unheld[asked:]
            admitted.append(job)
            if len(admitted) == free:
                break
        return admitted


def _left_out(job: Job) -> str | None:
    """Return the parts of the config that the runner leaves out, for clients that show statuses and no notes."""
    return (
        " ".join(note["text"] for note in job.notes or [] if note["kind"] in CAPABILITIES.get(job.runner, ())) or None
    )


def _guarded(act: Callable[[], object], name: str) -> bool:
    """Whether `act` went well; what went wrong is logged."""
    try:
        act()
    except Exception:
        log.exception("step `%s` failed", name)
        return False
    return True
