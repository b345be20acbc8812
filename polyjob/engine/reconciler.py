"""One pass of the engine: compare the rows with the backends, and take the next step of each job and build.

A pass reads the claimed jobs, the unfinished builds, the deleted rows and the head of the queue. It decides on each
but running jobs without news, commits all writes in one transaction, and then begins the calls, also those that start
what it has just claimed. It keeps nothing that it could not find out again, so the first pass after a crash is like any
other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from polyjob.crash_points import crash_point
from polyjob.db.database import database, write
from polyjob.db.models import DELETED, LIVE_BUILDS, Build, Job, Project
from polyjob.db.prepared import Prepared
from polyjob.engine.admission import Admission
from polyjob.engine.backends import Backends
from polyjob.engine.build_driver import BuildDriver
from polyjob.engine.cleanup import Cleanup
from polyjob.engine.context import Context
from polyjob.engine.delays import Delays
from polyjob.engine.deliveries import Deliveries
from polyjob.engine.job_driver import JobDriver
from polyjob.engine.orphans import OrphanRemoval
from polyjob.engine.removal import Removal
from polyjob.engine.schedules import Schedules
from polyjob.engine.writes import Decision, Write
from polyjob.statuses import Status
from runners.base import Runner

_DELETED_PROJECTS = Prepared(lambda: Project.select(Project.id).where(DELETED))
_LIVE_BUILDS = Prepared(lambda: Build.select().where(LIVE_BUILDS).order_by(Build.id))
_HAS_BUILDS_OR_DELETED_ROWS = (
    f"SELECT EXISTS (SELECT 1 FROM build WHERE {LIVE_BUILDS.sql}), EXISTS (SELECT 1 FROM job WHERE {DELETED.sql})"
    f" OR EXISTS (SELECT 1 FROM build WHERE {DELETED.sql}) OR EXISTS (SELECT 1 FROM project WHERE {DELETED.sql})"
)

log = logging.getLogger("polyjob.engine")


class Engine:
    """Makes passes over one data folder. Only one thread may use it."""

    def __init__(
        self, context: Context, load_runner: Callable[[str, Callable[[], None]], Runner], wake: Callable[[], None]
    ) -> None:
        self.context = context
        self.backends = Backends(context, load_runner, wake)
        self.builds = BuildDriver(context, self.backends)
        self.jobs = JobDriver(context, self.backends)
        self.admission = Admission(context, self.jobs.prepare)
        self.removal = Removal(context, self.backends)
        self.cleanup = Cleanup(context, self.backends)
        self.orphans = OrphanRemoval(context, self.backends)
        self.delays = Delays(context.clock)
        self.deliveries = Deliveries(context)
        self.schedules = Schedules(context)

    def run_pass(self) -> bool:
        """Take the next step of everything. Return whether another pass may find more to do at once."""
        results = [(result.call.key, result.call.on_done(result)) for result in self.context.calls.take()]
        after_calls = {key: Decision([write]) for key, write in results if write is not None}
        decided = after_calls.keys()
        has_builds, has_deleted_rows = database.execute_sql(_HAS_BUILDS_OR_DELETED_ROWS).fetchone()
        decisions = [
            *after_calls.values(),
            *self.builds.decisions(_LIVE_BUILDS() if has_builds else (), decided),
            *self.jobs.decisions(decided),
        ]
        if has_deleted_rows:
            self.removal.submit_calls(decided)
            decisions += [Decision([write]) for write in self._project_removals()]
        self.orphans.submit_calls()
        timed = (*self.cleanup.writes(), *self.delays.writes(), *self.schedules.writes())
        decisions += [Decision([write]) for write in timed]
        may_follow, claimed = self._carry_out(decisions)
        if claimed:  # the intent to start them is committed, so they start at once
            may_follow |= self._carry_out(self.jobs.first_decisions(claimed), may_claim=False)[0]
            may_follow |= any(job.status is not Status.SCHEDULED for job in claimed)
        self.jobs.clearing.submit_calls()
        self.deliveries.submit_calls()
        return may_follow or self.context.calls.has_urgent_results()

    def close(self) -> None:
        """Begin no more calls, end the running builds, and close the runners. Jobs keep running."""
        self.builds.cancel_all()
        self.context.calls.close()
        self.deliveries.close()
        self.backends.close()

    def _project_removals(self) -> list[Write]:
        """Return the removal of each deleted project without jobs and builds."""
        return [_project_removal(project) for project in _DELETED_PROJECTS() if not _has_runs(project)]

    # Commit.

    def _carry_out(self, decisions: Sequence[Decision], may_claim: bool = True) -> tuple[bool, list[Job]]:
        """Commit all writes and claims, then submit the calls.

        Return whether any of the writes were committed, and the claimed jobs. A slot that the writes free is claimed
        again in the same transaction.
        """
        with_writes = [decision for decision in decisions if decision.writes]
        failed: list[Decision] = []
        claimed: list[Job] = []
        may_claim = may_claim and (bool(with_writes) or bool(self.admission.free_slots()))
        if with_writes or may_claim:
            try:
                claimed = self._commit_together(with_writes, may_claim)
            except Exception:
                log.exception("the writes could not be committed together; now each job's writes are committed alone")
                failed = [decision for decision in with_writes if not self._commit_alone(decision)]
                claimed = self._claim_alone() if may_claim else []
        for decision in decisions:
            if decision.call is not None and not (decision.needs_commit and decision in failed):
                _succeeds(decision.call.submit, "the submission of a call")
        return len(failed) < len(with_writes), claimed

    def _commit_together(self, decisions: Sequence[Decision], may_claim: bool) -> list[Job]:
        """Commit the writes of all decisions in one transaction. Return the claimed jobs."""
        names = []
        with write("pass"):
            for decision in decisions:
                for one in decision.writes:
                    one.apply()
                    names.append(one.name)
            claimed = self.admission.claim() if may_claim else []
            names += ["claim"] * len(claimed)
            for name in names:
                crash_point(f"{name}:before")
        for name in names:
            crash_point(f"{name}:after")
        return claimed

    def _commit_alone(self, decision: Decision) -> bool:
        """Commit the writes of one decision, so that a row that cannot be written does not hold up others."""
        name = decision.writes[-1].name

        def commit() -> None:
            with write(name):
                for one in decision.writes:
                    one.apply()

        return _succeeds(commit, f"the write `{name}`")

    def _claim_alone(self) -> list[Job]:
        claimed = []

        def commit() -> None:
            with write("claim"):
                claimed.extend(self.admission.claim())

        return claimed if _succeeds(commit, "the write `claim`") else []


def _project_removal(project: Project) -> Write:
    return Write("erase", lambda: Project.delete().where(Project.id == project.id).execute())


def _has_runs(project: Project) -> bool:
    return any(table.select().where(table.project == project).exists() for table in (Job, Build))


def _succeeds(act: Callable[[], object], subject: str) -> bool:
    """Call `act`, and return whether it raised nothing. Logs what it raised."""
    try:
        act()
    except Exception:
        log.exception("%s failed", subject)
        return False
    return True
