"""Drive claimed jobs from the committed intent to their terminal status: start, watch, stop, finish.

The driver polls the backends, lets `job_decisions.decide` decide on each job, and keeps the memory of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from polyjob.db.models import Job
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Key, execute
from polyjob.engine.claimed_jobs import ClaimedJobs
from polyjob.engine.clearing import Clearing
from polyjob.engine.context import Context
from polyjob.engine.finalize_lanes import FinalizeLanes
from polyjob.engine.job_calls import JobCall, JobTools, StartJob
from polyjob.engine.job_decisions import BackendState, decide, quiet_until
from polyjob.engine.job_memory import JobMemory
from polyjob.engine.job_writes import back_off, prepare_or_back_off, retry_note_writes
from polyjob.engine.now import Now
from polyjob.engine.writes import NOTHING, Decision
from polyjob.statuses import Status
from runners.base import Exited, RemoteRunner, Running, State

SLOW_END_SECONDS = 120.0
"""Seconds after which a job that is still finishing is reported."""


class JobDriver:
    """Decides on all claimed jobs, once in each pass."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self.context = context
        self.backends = backends
        self._claimed = ClaimedJobs()
        self._memories: dict[int, JobMemory] = {}
        self.clearing = Clearing(context, backends)
        self._lanes = FinalizeLanes(context.clock)
        self._tools = JobTools(context, backends, self._lanes, self.clearing)

    def decisions(self, decided: Collection[Key]) -> list[Decision]:
        """Poll the backends, and decide on each claimed job, but not on those in `decided`.

        Skips running jobs whose row and state have not changed and for which nothing is due.
        """
        changed = self._claimed.read()
        if changed is not None:
            self._forget_ended()
            for job_id in changed:
                self._memory(job_id).quiet_until = 0.0
        self._poll_backends()
        now = Now.read(self.context.clock)
        are_reachable = all(self.backends.outage(name) is None for name in self._claimed.runners)
        self._claimed.forget(job_id for kind, job_id in decided if kind == "job")
        return self._decide_on(
            [
                job
                for job_id, job in self._claimed.rows.items()
                if not (are_reachable and now.seconds < self._memory(job_id).quiet_until)
            ],
            now,
        )

    def first_decisions(self, claimed: Sequence[Job]) -> list[Decision]:
        """Decide on jobs whose claim has just been committed."""
        return self._decide_on([job for job in claimed if not job.status.is_done], Now.read(self.context.clock))

    def _decide_on(self, jobs: Sequence[Job], now: Now) -> list[Decision]:
        backends = {name: self._backend_state(name) for name in {job.runner for job in jobs}}
        decisions = []
        for job in jobs:
            memory, backend = self._memory(job.id), backends[job.runner]
            decision = self._decide_or_back_off(job, backend, now)
            is_quiet = decision == NOTHING and backend.outage is None
            memory.quiet_until = quiet_until(job, memory, backend, now, self._tools) if is_quiet else 0.0
            decisions.append(decision)
        self._claimed.forget(job.id for job, decision in zip(jobs, decisions, strict=True) if decision.writes)
        return decisions

    def prepare(self, job: Job) -> None:
        """Prepare a job that has just been claimed. Must be called inside `database.write`."""
        prepare_or_back_off(job, self._memory(job.id), self.context)

    def slow_ends(self) -> list[int]:
        """Return the ids of jobs that have been finishing for minutes; for `/readyz`."""
        earliest = self.context.clock.seconds() - SLOW_END_SECONDS
        memories = self._memories.items()
        return [job_id for job_id, memory in memories if memory.ending_since and memory.ending_since < earliest]

    def _forget_ended(self) -> None:
        """Drop the memory of jobs that are not claimed any more, except of those with a running call."""
        for job_id in self._memories.keys() - self._claimed.rows.keys():
            if self._memories[job_id].call is None:
                del self._memories[job_id]
                self._lanes.forget(job_id)

    def _poll_backends(self) -> None:
        """Poll the backends of the claimed jobs, if they may have news, and remember their reports."""
        for runner_name in self._claimed.runners:
            if not self.backends.may_have_news(runner_name):
                continue
            by_handle = {}
            for job_id, job in self._claimed.rows.items():
                if job.runner == runner_name and job.exit is None:
                    handle = job.handle or self._memory(job_id).handle
                    if handle is not None:
                        by_handle[handle] = job
            if by_handle:
                self._record(by_handle, self.backends.poll(runner_name, list(by_handle)))

    def _record(self, by_handle: Mapping[str, Job], states: Mapping[str, State]) -> None:
        """Remember the reports of a backend on these jobs, and which of them are news."""
        for handle, state in states.items():
            job = by_handle.get(handle)
            if job is None:
                continue
            memory = self._memory(job.id)
            last = memory.observation.last
            if memory.quiet_until and (last is state or last == state):
                continue
            memory.quiet_until = 0.0
            memory.observation.record(state)
            if isinstance(state, Running) and job.status is not Status.RUNNING:
                memory.log.expect_output(self.context.clock.seconds())
            if isinstance(state, Exited) and not isinstance(self.backends.runner(job.runner), RemoteRunner):
                memory.has_left_nothing = self.context.store.has_nothing_to_seal(job.uuid)

    def _decide_or_back_off(self, job: Job, backend: BackendState, now: Now) -> Decision:
        """Decide on a job. If that fails, let the job wait for a while, so that it holds up no other."""
        memory = self._memory(job.id)
        self._note_progress(job, memory, now)
        if memory.is_broken and now.seconds < memory.backoff.retry_at:
            return NOTHING
        try:
            decision = self._decide(job, memory, backend, now)
        except Exception as error:
            return Decision(back_off(job, memory, error, self.context.clock))
        if memory.is_broken:
            memory.is_broken = False
            memory.backoff.succeed()
        return decision

    def _note_progress(self, job: Job, memory: JobMemory, now: Now) -> None:
        """Remember a new stop request or exit, and let no earlier failure delay what follows."""
        is_new_stop = job.stop_at is not None and not memory.is_stopping
        is_new_exit = job.exit is not None and memory.ending_since is None
        if is_new_stop:
            memory.is_stopping = True
        if is_new_exit:
            memory.ending_since = now.seconds
        if is_new_stop or is_new_exit:
            memory.backoff.end_pause()

    def _decide(self, job: Job, memory: JobMemory, backend: BackendState, now: Now) -> Decision:
        if job.exit is not None:
            memory.packing_note = self._lanes.note(job)
        memory.is_call_awaited = job.stop_at is not None or job.exit is not None
        decision = decide(job, memory, backend, now, self._tools)
        memory.observation.state = None
        if isinstance(decision.call, JobCall):
            decision.call.prepare()
            if isinstance(decision.call, StartJob) and decision.call.runner.is_local:
                return self._start_now(job, memory, decision, backend, now)
        return decision

    def _start_now(self, job: Job, memory: JobMemory, decision: Decision, backend: BackendState, now: Now) -> Decision:
        """Start a local job within the pass, so that its handle and its first state are committed together."""
        assert isinstance(decision.call, StartJob)
        write = decision.call.on_done(execute(decision.call))
        if memory.handle is None:
            return Decision([*decision.writes, *([write] if write else retry_note_writes(job, memory))])
        self._record({memory.handle: job}, self.backends.look(job.runner, memory.handle))
        following = self._decide(job, memory, backend, now)
        return dataclasses.replace(following, writes=[*decision.writes, *following.writes])

    def _backend_state(self, runner_name: str) -> BackendState:
        return BackendState(self.backends.runner(runner_name), self.backends.outage(runner_name))

    def _memory(self, job_id: int) -> JobMemory:
        memory = self._memories.get(job_id)
        if memory is None:
            memory = self._memories[job_id] = JobMemory()
        return memory
