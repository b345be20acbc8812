"""Invariants of jobs and builds, whatever was requested and whatever has died."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from polyjob.db.database import database
from polyjob.db.models import CLAIMED, DELETED, LISTED, Build, BuildStatus, Job, JobStatus, Project
from polyjob.services.notes import note_text
from polyjob.statuses import DONE, Status
from tests.crash.manual_world import World

GRACE = 3
ORDER = [Status.CREATED, Status.SCHEDULED, Status.BUILDING, Status.RUNNING]
"""Each comes at most once, in this order, before a terminal status."""


@dataclass(frozen=True)
class Script:
    """The course of a job, as variables of the fake runner."""

    seconds: float = 0.0
    pending: float = 0.0
    code: int = 0
    start: str = ""
    vanish: bool = False
    ignore_term: bool = False
    timeout: int = 0
    build: str = ""
    """Its only build step; empty = no build. `exit 3` fails."""

    def config(self, name: str) -> dict[str, Any]:
        pairs = {"FAKE_SECONDS": self.seconds, "FAKE_PENDING": self.pending, "FAKE_CODE": self.code}
        pairs |= {"FAKE_LOG": self.log(name).decode(), "FAKE_OUTPUTS": json.dumps({"out": name})}
        pairs |= {"FAKE_START": self.start} if self.start else {}
        pairs |= {"FAKE_VANISH": "yes"} if self.vanish else {}
        pairs |= {"FAKE_IGNORE_TERM": "yes"} if self.ignore_term else {}
        config: dict[str, Any] = {"version": 1, "kind": "job", "run": {"cmd": "true"}, "tags": [name]}
        config["environment"] = {"env_vars": sorted([key, str(value)] for key, value in pairs.items())}
        config["termination"] = {"grace": GRACE} | ({"timeout": self.timeout} if self.timeout else {})
        if self.build:
            config["build"] = {"image": "a", "build_steps": [self.build]}
            if self.build == "exit 3":
                config["build"]["env_vars"] = [["FAKE_BUILD_FAIL", "1:3"]]
        return config

    @staticmethod
    def log(name: str) -> bytes:
        return f"the log of {name}\n".encode() * 3

    @property
    def end(self) -> tuple[Status, str, int | None]:
        """The terminal status, reason and exit code, if no request interferes."""
        if self.start == "fail":
            return Status.FAILED, "start", None
        if self.vanish:
            return Status.FAILED, "lost", None
        return (Status.FAILED if self.code else Status.SUCCEEDED), "exited", self.code


@dataclass
class ExpectedJob:
    """The expected state of a job, and what was seen of it."""

    number: int
    uuid: str
    name: str
    script: Script | None
    """None for an unmanaged job."""
    inputs: bytes | None = None
    """The outputs that it starts with."""
    is_stop_requested: bool = False
    """A stop was requested before its exit was recorded."""
    is_abandoned: bool = False
    is_deleted: bool = False
    is_archived: bool = False
    is_bookmarked: bool = False
    version: int = 0
    statuses: list[tuple[str, str, int]] = field(default_factory=list)
    end: tuple[Any, ...] | None = None
    pages: dict[str, str] = field(default_factory=dict)
    """ETag → representation."""


class Invariants:
    """Checks a world, and remembers what it saw."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.jobs: list[ExpectedJob] = []
        self._builds: dict[int, list[tuple[str, str, int]]] = {}
        self._begun: dict[str, float] = {}
        self._lists: dict[str, str] = {}

    def look(self) -> None:
        """Check rows and files."""
        assert not self._world.errors.texts, self._world.errors.texts
        rows = {row.id: row for row in Job.select()}
        histories: dict[int, list[tuple[str, str, int]]] = {}
        for status in JobStatus.select().order_by(JobStatus.id):
            line = (status.uuid, str(status.status), status.created_at)
            histories.setdefault(status.job_id, []).append(line)
        for expected in self.jobs:
            row = rows.pop(expected.number, None)
            if row is None:
                assert expected.is_deleted, f"{expected.name} is missing"
                assert not self._world.store.job_log(expected.uuid).parent.exists()
            else:
                self._check_job(expected, row, histories[expected.number])
        assert not rows, f"unexpected jobs: {sorted(rows)}"
        self._check_builds()
        self._check_slots()
        self._check_counts()

    def _check_job(self, expected: ExpectedJob, row: Job, history: list[tuple[str, str, int]]) -> None:
        assert row.uuid == expected.uuid
        inputs = self._world.store.job_inputs(expected.uuid)
        if not expected.is_deleted:
            assert (inputs.read_bytes() if inputs.exists() else None) == expected.inputs
        assert (row.deleted_at is not None, row.archived_at is not None) == (expected.is_deleted, expected.is_archived)
        assert history[: len(expected.statuses)] == expected.statuses, f"{expected.name}: earlier statuses changed"
        assert row.version >= expected.version
        assert row.version > expected.version or history == expected.statuses
        expected.version, expected.statuses = row.version, history
        names, moments = [Status(name) for _, name, _ in history], [moment for *_, moment in history]
        assert names[-1] is row.status
        assert moments == sorted(set(moments)), f"{expected.name}: back in time"
        assert sum(name in DONE for name in names[:-1]) == 0, f"{expected.name}: {names}"
        if expected.script is not None:
            self._check_run(expected, row, names)
        if row.status in DONE:
            self._check_end(expected, row)

    def _check_run(self, expected: ExpectedJob, row: Job, names: list[Status]) -> None:
        before = [name for name in names if name not in DONE]
        assert before == [name for name in ORDER if name in before], f"{expected.name}: {names}"
        if Status.SUCCEEDED in names:
            assert Status.RUNNING in names
        job = self._world.runner._read(expected.uuid)
        if job and "cleaned" not in job:
            assert self._begun.setdefault(expected.uuid, job["started"]) == job["started"], f"{expected.name} ran again"
            assert row.attempt_at is not None
            killed = job["stopped"] and job["stopped"][1] == 9 and row.term_clock
            assert not killed or job["stopped"][0] >= float(row.term_clock.split(":")[1]) + GRACE
        if row.stop_kind == "timeout" and row.status not in DONE and not expected.is_stop_requested:
            assert expected.script
            since = self._world.clock.since(row.attempt_clock)
            assert expected.script.timeout and since is not None and since >= expected.script.timeout

    def _check_end(self, expected: ExpectedJob, row: Job) -> None:
        log, store = self._world.store.job_log(expected.uuid), self._world.store
        last = JobStatus.select().where(JobStatus.job == row).order_by(JobStatus.id.desc()).get()
        end = (row.exit_code, row.exit, row.finished_at, last.message, last.details)
        if not expected.is_deleted:
            content = log.read_bytes() if log.exists() else b""
            end = (*end, content, store.outputs(expected.uuid).tree("")[0])
        if expected.end is None:
            expected.end = end
            if expected.script is not None:
                job = self._world.runner._read(expected.uuid)
                assert expected.is_abandoned or job is None or job == {"cleaned": True}, f"{expected.name} is not dead"
                self._check_result(expected, expected.script, row, last.details or {}, *end[5:])
        assert end == expected.end[: len(end)], f"{expected.name}: an end cannot change"

    def _check_result(
        self,
        expected: ExpectedJob,
        script: Script,
        row: Job,
        details: dict[str, Any],
        log: bytes = b"",
        tree: Any = None,
    ) -> None:
        """Check that a job has ended as expected."""
        came_to = row.status, details.get("reason"), row.exit_code
        of_build = Build.get_or_none(Build.id == row.build_id) if row.attempt_at is None else None
        if expected.is_stop_requested:
            assert row.status is Status.STOPPED, f"{expected.name} was to be stopped: {came_to}"
            return
        if row.stop_kind == "timeout":
            assert came_to[:2] == (Status.FAILED, "timeout"), came_to
        elif of_build is not None and of_build.status is Status.STOPPED:
            assert came_to == (Status.FAILED, "build", None)
        elif of_build is not None:
            assert of_build.status is Status.FAILED
            assert came_to == (Status.FAILED, "build", None)
            assert details["exit_code"] == 3
        elif expected.is_abandoned:
            assert came_to in [(Status.FAILED, "lost", None), script.end]
        else:
            assert came_to == script.end, expected
        was_seen = details.get("reason") in ("exited", "timeout") and row.exit_code is not None
        if was_seen and not expected.is_abandoned and not expected.is_deleted:
            assert log == script.log(expected.name)
            assert tree == [("out", len(expected.name))]
        assert script.log(expected.name).startswith(log)

    def _check_builds(self) -> None:
        histories: dict[int, list[tuple[str, str, int]]] = {}
        for row in BuildStatus.select().order_by(BuildStatus.id):
            histories.setdefault(row.build_id, []).append((row.uuid, str(row.status), row.created_at))
        for number, history in histories.items():
            before = self._builds.get(number, [])
            assert history[: len(before)] == before
            names, moments = [Status(name) for _, name, _ in history], [moment for *_, moment in history]
            assert moments == sorted(set(moments))
            assert not any(name in DONE for name in names[:-1])
        self._builds = histories

    def _check_slots(self) -> None:
        abandoned = {expected.uuid for expected in self.jobs if expected.is_abandoned}
        on_runner = [uuid for uuid in self.on_runner() if uuid not in abandoned]
        claimed = [job.id for job in Job.select(Job.id).where(CLAIMED, Job.exit.is_null())]
        assert len(claimed) <= self._world.settings.slots
        alive = [uuid for uuid in on_runner if "Exited" not in self.state(uuid) and "Missing" not in self.state(uuid)]
        assert len(alive) <= self._world.settings.slots
        claimed = JobStatus.select(JobStatus.job).join(Job).where(JobStatus.status == "scheduled", Job.is_managed)
        numbers = [row.job_id for row in claimed.order_by(JobStatus.id)]
        assert numbers == sorted(numbers), "first come, first served"

    def on_runner(self) -> list[str]:
        """Return the uuids of the jobs that the backend has."""
        names = [path.stem for path in self._world.runner_folder.glob("*.json")]
        return [name for name in names if "cleaned" not in (self._world.runner._read(name) or {})]

    def state(self, uuid: str) -> str:
        return type(self._world.runner._state(self._world.runner._read(uuid))).__name__

    def _check_counts(self) -> None:
        project = Project.get()
        assert project.job_count == Job.select().where(LISTED).count()
        assert project.build_count == Build.select().where(LISTED).count()
        shown = [expected.number for expected in self.jobs if not expected.is_deleted and not expected.is_archived]
        assert project.job_count == len(shown)

    # Representations.

    def check_page(self, expected: ExpectedJob) -> None:
        """Check a job's representation: if it changes, its ETag does."""
        answer = self._world.ask("GET", f"/jobs/{expected.number}")
        if expected.is_deleted or expected.is_archived:
            assert answer.status_code == 404
            return
        page = answer.json
        assert expected.pages.setdefault(answer.headers["ETag"], answer.text) == answer.text, (
            f"{expected.name}: one ETag"
        )
        assert page["bookmarked"] == expected.is_bookmarked
        assert page["last_status"] == expected.statuses[-1][1]
        if expected.script is not None:
            assert page["config"]["tags"][0] == expected.name

    def check_list(self) -> None:
        answer = self._world.ask("GET", "/jobs?limit=100")
        shown = {expected.number for expected in self.jobs if not expected.is_deleted and not expected.is_archived}
        assert {row["id"] for row in answer.json["results"]} == shown
        assert answer.json["count"] == len(shown)
        assert self._lists.setdefault(answer.headers["ETag"], answer.text) == answer.text

    def check_leftovers(self) -> None:
        """Check that nothing is left once everything has ended."""
        assert not Job.select().where(DELETED).exists()
        assert not Build.select().where(Build.finished_at.is_null()).exists()
        assert self.on_runner() == []
        expected = {job.uuid for job in self.jobs if not job.is_deleted}
        assert {path.name for path in (self._world.settings.data_dir / "jobs").iterdir()} <= expected
        for job in Job.select():
            assert not note_text(job.notes, "retry") and not note_text(job.notes, "unreachable"), job.notes
        for table in (JobStatus, BuildStatus):
            owner = "job" if table is JobStatus else "build"
            orphans = f"SELECT COUNT(*) FROM {owner}_status WHERE {owner}_id NOT IN (SELECT id FROM {owner})"
            assert database.execute_sql(orphans).fetchone() == (0,)
