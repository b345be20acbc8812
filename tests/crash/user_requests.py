"""Random requests of users and jobs, and the expected responses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from polyjob.db.models import Build, Job
from polyjob.services.abandon import abandon_jobs
from polyjob.statuses import DONE, Status

from .invariants import ExpectedJob, Invariants, Script
from .manual_world import World

SCRIPTS = st.builds(
    Script,
    seconds=st.sampled_from([0.0, 0.0, 2.0, 60.0]),
    pending=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
    code=st.sampled_from([0, 0, 3, 255]),
    start=st.sampled_from(["", "", "", "fail", "unavailable"]),
    vanish=st.sampled_from([False, False, False, True]),
    ignore_term=st.booleans(),
    timeout=st.sampled_from([0, 0, 0, 4]),
    build=st.sampled_from(["", "", "true", "echo", "exit 3"]),
)
ANY = st.integers(0, 20)
"""Index of a job or build."""


class UserRequests(RuleBasedStateMachine):
    world: World
    checker: Invariants
    idempotent_requests: dict[str, tuple[dict[str, Any], str]]
    """Idempotency-Key → the first request with it, and its response."""

    # Creating jobs.

    @rule(script=SCRIPTS)
    def submit(self, script: Script) -> None:
        self._submit(script, None)

    @rule(script=SCRIPTS, key=st.sampled_from(["a", "b"]))
    def submit_once(self, script: Script, key: str) -> None:
        self._submit(script, key)

    def _submit(self, script: Script, key: str | None, **more: object) -> None:
        name = f"j{len(self.jobs)}"
        body = {"config": script.config(name), **more}
        answer = self.ask("POST", "/jobs", body, **({"Idempotency_Key": key} if key else {}))
        if key in self.idempotent_requests:
            assert answer.status_code == 422, answer.text
            return
        assert answer.status_code == 201, answer.text
        self.jobs.append(ExpectedJob(answer.json["id"], answer.json["uuid"], name, script))
        if key:
            self.idempotent_requests[key] = body, answer.text

    @precondition(lambda self: self.idempotent_requests)
    @rule(which=ANY)
    def send_again(self, which: int) -> None:
        key, (body, text) = list(self.idempotent_requests.items())[which % len(self.idempotent_requests)]
        answer = self.ask("POST", "/jobs", body, Idempotency_Key=key)
        assert (answer.status_code, answer.text) == (201, text)

    @rule()
    def submit_for_somebody_else(self) -> None:
        answer = self.ask("POST", "/jobs", {"is_managed": False})
        self.jobs.append(ExpectedJob(answer.json["id"], answer.json["uuid"], f"j{len(self.jobs)}", None))

    @precondition(lambda self: Build.select().exists())
    @rule(script=SCRIPTS, which=ANY)
    def submit_on_a_build(self, script: Script, which: int) -> None:
        build = self._build(which)
        is_hidden = build.deleted_at is not None or build.archived_at is not None
        is_bad = build.stop_at is not None or build.status in (Status.FAILED, Status.STOPPED)
        if not is_hidden and not is_bad:
            self._submit(script, None, build_job=build.id)
            return
        body = {"config": script.config("never"), "build_job": build.id}
        assert self.ask("POST", "/jobs", body).status_code == 400

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, strategy=st.sampled_from(["restart", "resume", "copy"]))
    def clone(self, which: int, strategy: str) -> None:
        source = self._job(which)
        row = Job.get_or_none(Job.id == source.number)
        answer = self.ask("POST", f"/jobs/{source.number}/{strategy}")
        if row is None or source.is_deleted or source.is_archived:
            assert answer.status_code == 404
        elif strategy != "restart" and row.status not in DONE:
            assert answer.status_code == 400
        else:
            assert answer.status_code == 201, answer.text
            self._cloned(source, answer.json, strategy)

    def _cloned(self, source: ExpectedJob, page: dict[str, Any], strategy: str) -> None:
        assert page["cloning_strategy"] == strategy
        clone = ExpectedJob(page["id"], page["uuid"], source.name, source.script)
        outputs = _content(self.world.store.job_folder(source.uuid) / "outputs.tar.gz")
        clone.inputs = outputs if strategy != "restart" else None
        self.jobs.append(clone)

    # UserRequests interfere.

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, verb=st.sampled_from(["stop", "stop", "archive", "restore", "delete", "delete"]))
    def interfere(self, which: int, verb: str) -> None:
        getattr(self, f"_{verb}")(self._job(which))

    def _stop(self, job: ExpectedJob) -> None:
        self._expect_stop(job)
        self._expect(job, self.ask("POST", f"/jobs/{job.number}/stop").status_code, 200)

    def _archive(self, job: ExpectedJob) -> None:
        self._expect_stop(job)
        self._expect(job, self.ask("POST", f"/jobs/{job.number}/archive").status_code, 200)
        job.is_archived = job.is_archived or not job.is_deleted

    def _restore(self, job: ExpectedJob) -> None:
        found = self.ask("POST", f"/jobs/{job.number}/restore").status_code
        assert found == (404 if job.is_deleted else 200)
        job.is_archived = job.is_archived and job.is_deleted

    def _delete(self, job: ExpectedJob) -> None:
        self._expect_stop(job)
        self._expect(job, self.ask("DELETE", f"/jobs/{job.number}").status_code, 204)
        job.is_deleted = job.is_deleted or not job.is_archived

    def _expect(self, job: ExpectedJob, found: int, wanted: int) -> None:
        assert found == (404 if job.is_deleted or job.is_archived else wanted)

    def _expect_stop(self, job: ExpectedJob) -> None:
        row = Job.get_or_none(Job.id == job.number)
        if row is None or job.is_deleted or job.is_archived:
            return
        job.is_stop_requested |= row.status not in DONE and row.exit is None and row.stop_at is None

    @precondition(lambda self: self.jobs)
    @rule(which=st.lists(ANY, min_size=1, max_size=3), verb=st.sampled_from(["stop", "delete"]))
    def interfere_with_many(self, which: list[int], verb: str) -> None:
        some = {job.number: job for job in map(self._job, which)}
        for job in some.values():
            self._expect_stop(job)
        assert self.ask("POST", f"/jobs/{verb}", {"ids": list(some)}).status_code == 200
        for job in some.values():
            job.is_deleted |= verb == "delete" and not job.is_archived

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, script=SCRIPTS)
    def change_the_config(self, which: int, script: Script) -> None:
        job = self._job(which)
        row = Job.get_or_none(Job.id == job.number)
        answer = self.ask("PATCH", f"/jobs/{job.number}", {"config": script.config(job.name)})
        if row is None or job.is_deleted or job.is_archived:
            assert answer.status_code == 404
        elif row.status is Status.CREATED:
            assert answer.status_code == 200, answer.text
            job.script = script if job.script else None
        else:
            assert answer.status_code == 400

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, verb=st.sampled_from(["bookmark", "unbookmark", "_heartbeat", "describe"]))
    def touch(self, which: int, verb: str) -> None:
        job = self._job(which)
        if verb == "describe":
            self._expect(job, self.ask("PATCH", f"/jobs/{job.number}", {"description": "new"}).status_code, 200)
            return
        calls = {"bookmark": ("POST", 201), "unbookmark": ("DELETE", 204), "_heartbeat": ("POST", 200)}
        method, code = calls[verb]
        status = self.ask(method, f"/jobs/{job.number}/{verb}").status_code
        if verb == "unbookmark" and status == 404 and not job.is_bookmarked:
            return
        self._expect(job, status, code)
        if verb != "_heartbeat" and status == code:
            job.is_bookmarked = verb == "bookmark"

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, status=st.sampled_from([status for status in Status if status is not Status.CREATED]))
    def report(self, which: int, status: Status) -> None:
        job = self._job(which)
        before = Job.get_or_none(Job.id == job.number)
        if status is Status.STOPPED and job.script:
            self._expect_stop(job)
        answer = self.ask("POST", f"/jobs/{job.number}/statuses", {"status": status, "message": "reported"})
        self._expect(job, answer.status_code, 201)
        if answer.status_code != 201:
            return
        now = Job.get_by_id(job.number).status
        assert answer.json["status"] == now
        if before.status in DONE or (job.script and status is not Status.STOPPED):
            assert now is before.status
        if job.script is None and before.status not in DONE and status in DONE:
            assert now is status

    @rule()
    def abandon_jobs(self) -> None:
        abandoned = {job.id for job in abandon_jobs(None, self.world.settings)}
        for job in self.jobs:
            job.is_abandoned |= job.number in abandoned

    # Builds.

    @rule(step=st.sampled_from(["true", "exit 3"]))
    def ask_for_a_build(self, step: str) -> None:
        config = Script(build=step).config("build")
        body = {"config": {"version": 1, "kind": "build", "build": config["build"]}}
        assert self.ask("POST", "/builds", body).status_code == 201

    @precondition(lambda self: Build.select().exists())
    @rule(which=ANY, verb=st.sampled_from(["stop", "invalidate", "archive", "restore", "delete"]))
    def interfere_with_a_build(self, which: int, verb: str) -> None:
        build = self._build(which)
        users = Job.select().where(Job.build == build, Job.finished_at.is_null()).exists()
        method, path = ("DELETE", "") if verb == "delete" else ("POST", f"/{verb}")
        found = self.ask(method, f"/builds/{build.id}{path}").status_code
        is_hidden = build.deleted_at is not None or (build.archived_at is not None and verb != "restore")
        if is_hidden:
            assert found == 404
        elif users and verb in ("archive", "delete"):
            assert found == 409
        else:
            assert found == (204 if verb == "delete" else 200)

    # Helpers.

    @property
    def jobs(self) -> list[ExpectedJob]:
        return self.checker.jobs

    @property
    def ask(self) -> Callable[..., Any]:
        return self.world.ask

    def _job(self, which: int) -> ExpectedJob:
        return self.jobs[which % len(self.jobs)]

    def _build(self, which: int) -> Build:
        builds = list(Build.select().order_by(Build.id))
        return builds[which % len(builds)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
