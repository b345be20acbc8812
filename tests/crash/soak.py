"""Soak test: send jobs of every kind to a real server, kill its parts at random, and then check each job.

    python -m tests.crash.soak --runner process --seconds 1200 --seed 7

The seed decides which jobs are sent when, and what is killed when. Some jobs are retried, some wait for others, some
are submitted by schedules, and a webhook receives the events of all. The last line counts jobs, fires, events, kills
and losses. Each loss is printed, and the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import http.client
import io
import random
import sqlite3
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from polyjob.clock import from_microseconds
from tests.crash.leftovers import leftover_files, processes_naming
from tests.crash.soak_events import EVENTS, SoakReceiver
from tests.crash.soak_kills import Killer
from tests.crash.soak_plan import JOBS_PER_SECOND, PlannedJob, SoakPlan, content
from tests.crash.start_counts import ContainerStarts, container_names, remove_containers
from tests.e2e.conftest import JOBS, Answer, Server, eventually, installation_of
from tests.e2e.conftest import processes_of as processes_of_job
from tests.runners.docker_engine import make_images, remove_engine_objects

SCHEDULES = JOBS.replace("/jobs", "/schedules")
WEBHOOKS = JOBS.replace("/jobs", "/webhooks")
TIMEOUT_SECONDS = 120.0
"""Seconds in which the server has to answer a request, despite kills, and to end all jobs after the last kill.

A job that takes longer while kills go on is late, which is not a loss.
"""
CLEANUP_SECONDS = 10.0
"""Seconds after which nothing of an ended job may be left."""
MAX_FOLLOWED_JOBS = 64
"""Jobs that are followed at once, each by a thread."""
MINUTE = datetime.timedelta(minutes=1)


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A job that waits for another one, and the jobs that wait for it."""

    planned: PlannedJob
    response: dict[str, Any]
    waiting: list[Submitted]


def moment(text: str) -> datetime.datetime:
    """Return a time of the API."""
    return datetime.datetime.fromisoformat(text)


class SoakRun:
    """One run of a plan against a server. `losses` has a line for everything that went wrong."""

    def __init__(self, folder: Path, runner: str, seconds: float, seed: int) -> None:
        self._marks = folder / "marks"
        self._marks.mkdir(parents=True)
        self.plan = SoakPlan(runner, seconds, seed, self._marks)
        self._runner = runner
        settings = {"slots": "8", "stop_grace": "1", "disk_low": "0", "build_slots": "2", "notify_private": "yes"}
        self._server = Server(folder, runner=runner, **settings)
        self._receiver = SoakReceiver(seed)
        self._starts: ContainerStarts | None = None
        self._killer = Killer(self._server, self.plan.kills, seed)
        self.losses: list[str] = []
        self.accepted: set[str] = set()
        self.fires = 0
        self.late = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Send all jobs, make all kills, and check everything. Blocks."""
        with contextlib.ExitStack() as stack:
            if self._runner == "docker":
                self._starts = stack.enter_context(ContainerStarts())
            stack.enter_context(self._receiver)
            self._server.start()
            stack.callback(self._server.__exit__)
            events = [str(event) for event in EVENTS]
            self._request("POST", WEBHOOKS, {"url": self._receiver.url, "events": events}, 201)
            crons = [(planned, self._schedule(planned, cron="* * * * *")) for planned in self.plan.cron_jobs]
            began = time.monotonic()
            with ThreadPoolExecutor(MAX_FOLLOWED_JOBS) as pool:
                killer = pool.submit(self._killer.run, began)
                sent = [pool.submit(self._follow_plan, planned, began) for planned in self.plan.planned_jobs]
                self._record_errors(self.plan.planned_jobs, sent)
                self._killer.stop()
                killer.result()
                checks = [pool.submit(self._check_cron, planned, schedule) for planned, schedule in crons]
                self._record_errors(self.plan.cron_jobs, checks)
            self.losses += self._receiver.losses()
            self._check_leftovers()

    def _record_errors(self, planned_jobs: Sequence[PlannedJob], futures: Sequence[Future[None]]) -> None:
        """Wait for the calls for these jobs."""
        for planned, future in zip(planned_jobs, futures, strict=True):
            if error := future.exception():
                self._record_loss(planned, f"{type(error).__name__}: {error}")

    @property
    def counts(self) -> str:
        """The numbers of what was tested, as text."""
        return f"{len(self.accepted)} jobs, {self.fires} fires, {self._receiver.counts()}, {self._killer.counts()}"

    # Jobs.

    def _follow_plan(self, planned: PlannedJob, began: float) -> None:
        time.sleep(max(0.0, began + planned.at - time.monotonic()))
        if planned.fires_after is None:
            self._follow(planned, self._submit(planned, {}))
        else:
            self._follow(planned, self._await_fire(planned, planned.fires_after))

    def _submit(self, planned: PlannedJob, fields: dict[str, Any]) -> dict[str, Any]:
        body = {"config": planned.config} | fields
        job: dict[str, Any] = self._request("POST", JOBS, body, 201, **{"Idempotency-Key": planned.key}).json
        self.accepted.add(job["uuid"])
        return job

    def _follow(self, planned: PlannedJob, job: dict[str, Any]) -> dict[str, Any]:
        """Submit the jobs that wait for an accepted one, act on it, and check all of them. Return the job at its end.

        The job at its end is that of its last attempt. It is empty if the job was deleted.
        """
        waiting = self._submit_followers(planned, job)
        then = planned.then[1] if planned.then else ""
        if planned.then and then in ("stop", "delete"):
            time.sleep(planned.then[0])
        last: dict[str, Any] = {}
        if then == "delete":
            self._request("DELETE", f"{JOBS}/{job['id']}", None, 204, 404)
            self._check_processes(planned, job["uuid"], TIMEOUT_SECONDS)  # it is answered before it is done
        else:
            if then == "stop":
                self._request("POST", f"{JOBS}/{job['id']}/stop", None, 200)
            last = self._check_attempts(planned, job)
        if then in ("restart", "copy", "resume"):
            key = {"Idempotency-Key": f"{planned.key}-again"}
            clone = self._request("POST", f"{JOBS}/{job['id']}/{then}", {}, 201, **key).json
            self.accepted.add(clone["uuid"])
            self._check_attempts(planned, clone)
        self._check_followers(waiting, last.get("finished_at"))
        return last

    def _submit_followers(self, planned: PlannedJob, job: dict[str, Any]) -> list[Submitted]:
        """Submit the jobs that wait for a job, and those that wait for these."""
        submitted = []
        for condition, follower in planned.followers:
            fields: dict[str, Any] = {"after": [{"job": job["id"], "on": condition}]}
            if follower.reads_outputs:
                environment = follower.config.get("environment", {}) | {"outputs": {"jobs": [job["id"]]}}
                fields["config"] = follower.config | {"environment": environment}
            accepted = self._submit(follower, fields)
            submitted.append(Submitted(follower, accepted, self._submit_followers(follower, accepted)))
        return submitted

    def _check_followers(self, submitted: list[Submitted], finished_at: str | None) -> None:
        """Check jobs that waited for a job that ended at this time."""
        for one in submitted:
            job = self._check_attempts(one.planned, one.response)
            if finished_at and one.planned.runs and moment(job["started_at"]) < moment(finished_at):
                self._record_loss(one.planned, f"began at {job['started_at']}, before the other's end at {finished_at}")
            self._check_followers(one.waiting, job["finished_at"])

    def _check_attempts(self, planned: PlannedJob, job: dict[str, Any]) -> dict[str, Any]:
        """Check a job and its retries, and return its last attempt."""
        identity, last = job["id"], self._check_job(planned, job["id"], job["uuid"])
        for number, attempt in enumerate(planned.retries, 1):
            state = last["retries"]
            expected = {"number": number - 1, "left": len(planned.retries) - number + 1}
            expected |= {"first_job": identity if number > 1 else None, "next_job": state["next_job"]}
            if state != expected or not state["next_job"]:
                self._record_loss(planned, f"attempt {number - 1}: {state} instead of {expected}")
                return last
            retry = self._request("GET", f"{JOBS}/{state['next_job']}", None, 200).json
            self.accepted.add(retry["uuid"])
            last = self._check_job(attempt, retry["id"], retry["uuid"])
            if last["wait_until"] and moment(last["started_at"]) < moment(last["wait_until"]):
                self._record_loss(planned, f"attempt {number} began before the end of its pause")
        if planned.retries and last["retries"]["next_job"]:
            self._record_loss(planned, f"there is another attempt: {last['retries']}")
        return last

    def _check_job(self, planned: PlannedJob, number: int, identity: str) -> dict[str, Any]:
        """Wait for the end of a job, check everything of it, and return it."""
        began = time.monotonic()
        while not (job := self._request("GET", f"{JOBS}/{number}?wait=5", None, 200).json)["finished_at"]:
            last = self._killer.last_killed_at
            if last is not None and time.monotonic() > max(began, last) + TIMEOUT_SECONDS:
                self._record_loss(planned, f"is still {job['last_status']} {TIMEOUT_SECONDS:.0f} s after the last kill")
                raise AssertionError("it was not checked")
        if time.monotonic() > began + TIMEOUT_SECONDS:
            with self._lock:
                self.late += 1
        self._check_processes(planned, identity, CLEANUP_SECONDS)
        rows = self._request("GET", f"{JOBS}/{number}/statuses", None, 200).json["results"]
        statuses = [row["status"] for row in rows]
        found = job["last_status"], (rows[-1]["details"] or {}).get("reason"), job["exit_code"]
        is_stopped = planned.status == "stopped"
        never_began = planned.runs is None and "running" not in statuses
        wanted = planned.status, planned.reason, None if never_began else planned.code
        if found != wanted and not (is_stopped and found[0] == "stopped"):
            self._record_loss(planned, f"{found} instead of {wanted}: {job['exit']}")
        running = 0 if planned.runs == 0 else 1
        if statuses[-1] != planned.status or statuses.count(planned.status) != 1 or len(set(statuses)) != len(statuses):
            self._record_loss(planned, f"statuses {statuses}")
        if not (is_stopped or never_began or statuses.count("running") == running):
            self._record_loss(planned, f"statuses {statuses}")
        log = self._request("GET", f"{JOBS}/{number}/logs", None, 200).body
        if log != planned.log and not (is_stopped and planned.log.startswith(log)) and not (never_began and not log):
            self._record_loss(planned, f"log of {len(log)} bytes instead of {len(planned.log)}: {log[:100]!r}")
        if not is_stopped:
            found_files = self._files(number)
            if found_files != {name: content(what, size) for name, what, size in planned.files}:
                sizes = {name: len(content) for name, content in found_files.items()}
                self._record_loss(planned, f"outputs {sizes} instead of {planned.files}, or of other content")
        self._count_runs(planned, identity)
        is_retried = bool(job["retries"] and job["retries"]["next_job"])
        self._receiver.expect(number, statuses, is_retried=is_retried)
        return job

    def _files(self, number: int) -> dict[str, bytes]:
        """Return path → content of the outputs that a user downloads."""
        tarball = io.BytesIO(self._request("GET", f"{JOBS}/{number}/outputs", None, 200).body)
        with tarfile.open(fileobj=tarball) as archive:
            members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
            return {name: file.read() for name, file in members if file is not None}

    def _count_runs(self, planned: PlannedJob, identity: str) -> None:
        if self._runner == "process":
            path = self._marks / planned.key
            count = path.read_text().split().count(identity) if path.exists() else 0
        elif self._starts is not None:
            count = self._starts.of_job(identity)
        else:
            return  # it refuses a second run by itself
        if count != planned.runs and not (planned.runs is None and count <= 1):
            self._record_loss(planned, f"ran {count} times")

    def _check_processes(self, planned: PlannedJob, identity: str, seconds: float) -> None:
        try:
            eventually(lambda: not processes_of_job(identity), seconds)
        except AssertionError:
            self._record_loss(planned, f"has processes left: {processes_of_job(identity)}")

    def _request(self, method: str, path: str, body: Any, *statuses: int, **headers: str) -> Answer:
        """Send a request until the server answers without an error of its own."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                answer = self._server.call(method, path, body, **headers)
                if answer.status in statuses:
                    return answer
                if answer.status < 500:
                    raise AssertionError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
                last = f"{answer.status} {answer.body[:300]!r}"
            except (OSError, ValueError, http.client.HTTPException) as error:
                last = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {path}: {last} for {TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.1)

    # Schedules.

    def _schedule(self, planned: PlannedJob, **times: str) -> int | None:
        """Create a schedule for a job, and return its id; None if its time is over."""
        body = {"job": {"config": planned.config}, "missed": "all"} | times
        key = {"Idempotency-Key": f"{planned.key} {times}"}
        answer = self._request("POST", SCHEDULES, body, 201, 400, **key)
        return answer.json["id"] if answer.status == 201 else None

    def _await_fire(self, planned: PlannedJob, seconds: float) -> dict[str, Any]:
        """Create a schedule that fires once, and return its job."""
        schedule = None
        while schedule is None:
            at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
            schedule = self._schedule(planned, at=at.isoformat())
        began = time.monotonic()
        while not (fires := self._fires(schedule)):
            last = self._killer.last_killed_at
            if last is not None and time.monotonic() > max(began, last) + TIMEOUT_SECONDS:
                raise AssertionError(f"schedule {schedule} has not fired")
            time.sleep(0.5)
        return self._jobs_of_fires(planned, fires, [at])[0]

    def _check_cron(self, planned: PlannedJob, schedule: int) -> None:
        """Check that each minute since a schedule was created has one fire, and each fire a job of its own."""

        def is_up_to_date() -> bool:
            found = self._request("GET", f"{SCHEDULES}/{schedule}", None, 200).json
            return moment(found["next_at"]) > datetime.datetime.now(datetime.UTC)

        eventually(is_up_to_date, TIMEOUT_SECONDS, "the last fire")
        found = self._request("POST", f"{SCHEDULES}/{schedule}/pause", None, 200).json
        first = moment(found["created_at"]).replace(second=0, microsecond=0) + MINUTE
        fires = self._fires(schedule)
        minutes = [first + number * MINUTE for number in range(len(fires))]
        paused_at = moment(found["updated_at"])
        if first + len(fires) * MINUTE < paused_at - datetime.timedelta(seconds=2):
            self._record_loss(planned, f"{len(fires)} fires from {first} to {paused_at}")
        for job in self._jobs_of_fires(planned, fires, minutes):
            self._check_attempts(planned, job)

    def _fires(self, schedule: int) -> list[tuple[datetime.datetime, str, int | None]]:
        """Return time, outcome and job of all fires. The API shows only the latest ones."""
        sql = "SELECT due_at, outcome, job_id FROM schedule_fire WHERE schedule_id = ? ORDER BY due_at"
        with contextlib.closing(sqlite3.connect(self._server.data_dir / "polyjob.db")) as connection:
            rows = connection.execute(sql, (schedule,)).fetchall()
        return [(from_microseconds(due_at), outcome, job) for due_at, outcome, job in rows]

    def _jobs_of_fires(
        self,
        planned: PlannedJob,
        fires: Sequence[tuple[datetime.datetime, str, int | None]],
        instants: Sequence[datetime.datetime],
    ) -> list[dict[str, Any]]:
        """Return the jobs of fires, which must be at these instants."""
        numbers = [job for _, _, job in fires]
        if [(at, outcome) for at, outcome, _ in fires] != [(at, "submitted") for at in instants]:
            raise AssertionError(f"fires {fires} instead of one at each of {instants}")
        if None in numbers or len(set(numbers)) != len(numbers):
            raise AssertionError(f"jobs {numbers} of {len(fires)} fires")
        jobs = [self._request("GET", f"{JOBS}/{number}", None, 200).json for number in numbers]
        with self._lock:
            self.fires += len(jobs)
            self.accepted |= {job["uuid"] for job in jobs}
        return jobs

    # Leftovers.

    def _check_leftovers(self) -> None:
        folder = self._server.data_dir
        uuids = {job["uuid"] for page in self._pages() for job in page}
        if unexpected := uuids - self.accepted:
            self.losses.append(f"jobs that nobody has submitted: {unexpected}")
        self._expect_none("files", lambda: self._leftovers_of_accepted_jobs(uuids))
        self._server.interrupt()
        self._server.process = None
        self._expect_none("processes", lambda: processes_naming(folder))
        if self._starts is not None:
            self._expect_none("containers", lambda: container_names(installation_of(folder)))

    def remove_docker_objects(self) -> None:
        """Remove what a run has left in the Docker Engine: containers, which are losses, its volume and its network."""
        if self._starts is not None:
            installation = installation_of(self._server.data_dir)
            remove_containers(installation)
            remove_engine_objects(installation)

    def _expect_none(self, what: str, look: Callable[[], list[str]]) -> None:
        try:
            eventually(lambda: not look(), CLEANUP_SECONDS)
        except AssertionError:
            self.losses.append(f"{what} left over: {look()}")

    def _leftovers_of_accepted_jobs(self, uuids: set[str]) -> list[str]:
        """Ignore folders of requests that were killed before they were accepted. The engine's cleanup removes them."""
        try:
            left = leftover_files(self._server.data_dir, uuids)
        except FileNotFoundError:
            return ["a folder that was removed meanwhile"]
        return [name for name in left if not name.startswith("jobs/") or name.split("/")[1] in uuids | self.accepted]

    def _pages(self) -> Iterator[list[dict[str, Any]]]:
        offset = 0
        while page := self._request("GET", f"{JOBS}?limit=100&offset={offset}", None, 200).json["results"]:
            yield page
            offset += len(page)

    def _record_loss(self, planned: PlannedJob, text: str) -> None:
        with self._lock:
            self.losses.append(f"{planned.kind} {planned.key}: {text}")


def run_soak(folder: Path, runner: str, seconds: float, seed: int, say: Callable[[str], None] = print) -> list[str]:
    """Run a soak test, and return its losses. The last line passed to `say` counts jobs, kills and losses."""
    run = SoakRun(folder, runner, seconds, seed)
    run.run()
    for loss in run.losses:
        say(loss)
    say(f"runner {runner}, seed {seed}, {seconds:.0f} s: {run.counts}, {run.late} late, {len(run.losses)} losses")
    try:
        run.remove_docker_objects()
    except Exception as error:  # the verdict above counts, not the cleanup
        print(f"The volume and network of this run could not be removed: {error}", file=sys.stderr)
    return run.losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="process", choices=sorted(JOBS_PER_SECOND))
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    if arguments.runner == "docker":
        make_images()
    with tempfile.TemporaryDirectory(prefix="polyjob-soak-") as folder:
        sys.exit(1 if run_soak(Path(folder), arguments.runner, arguments.seconds, seed) else 0)


if __name__ == "__main__":
    main()
