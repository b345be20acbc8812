"""Run a scenario in processes that may die. Each process is a web worker and an engine in one.

After a death, the next process runs the scenario from its beginning. Each step does nothing if an earlier process has
done it. Each process is a fork of one that has loaded all modules, and so starts fast.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import runners
import runners.docker.runner
import runners.fake
import runners.kubernetes.runner
import runners.process.runner
from polyjob.clock import Clock
from polyjob.db.models import PENDING, Build, Delivery, Job, Meta, Project, User
from polyjob.engine import backends, cleanup
from polyjob.engine.call_pools import Calls
from polyjob.engine.clearing import leftovers
from polyjob.engine.context import Context
from polyjob.engine.reconciler import Engine
from polyjob.errors import NotFound
from polyjob.jobconfig.validation import load_config
from polyjob.server.bootstrap import prepare_data_dir
from polyjob.services import cloning, job_secrets, jobs, projects, submission, webhooks
from polyjob.services.dependencies import Condition, Requested
from polyjob.services.outbox import EVENTS
from polyjob.services.specs import runner_settings
from polyjob.settings import read_settings
from polyjob.storage.store import Store
from tests.crash.crash_injection import install_crash_points
from tests.crash.leftovers import leftover_files
from tests.crash.scenarios import SCENARIOS, SECRET
from tests.fast_python import python_without_pip

TIMEOUT_SECONDS = 150.0
PASS_PAUSE_SECONDS = {"fake": 0.05, "process": 0.1, "docker": 0.25, "kubernetes": 0.25}
"""Pause after a pass that had nothing to do. The fake runner alone does not wake the engine."""
CLUSTER = ("POLYJOB_KUBE_", "POLYJOB_REGISTRY", "POLYJOB_BUILDER_")
"""Prefixes of the variables that name the cluster."""
RECEIVER = "POLYJOB_TEST_RECEIVER"
"""Variable with the URL of the receiver of webhooks."""
ROOT = Path(__file__).resolve().parent.parent.parent


class ScenarioRun:
    """One process of a scenario. Opens the data folder, or creates it at the first start."""

    def __init__(self, folder: Path, runner: str) -> None:
        self.pause = backends.TICK = PASS_PAUSE_SECONDS[runner]  # so every pass polls the runner
        self.folder = folder
        self.runner = runner
        cluster_variables = {name: value for name, value in os.environ.items() if name.startswith(CLUSTER)}
        self.settings = read_settings(
            cluster_variables, data_dir=folder / "data", runner=runner, python=python_without_pip(folder),
            slots=4, disk_low=0, port=1, build_slots=2, notify_private=True,
        )  # fmt: skip
        prepare_data_dir(self.settings)
        self.store = Store(self.settings.data_dir)
        self.user = User.get(User.username == "root")
        self.project = Project.get(Project.user == self.user)
        self.meta = {row.key: row.value for row in Meta.select()}
        self.woken = threading.Event()
        calls = Calls(self.woken.set, self.settings.build_slots)
        context = Context(self.settings, self.store, calls, Clock(), self.meta["installation"], self.meta["secret"])
        self.engine = Engine(context, self._load, self.woken.set)

    def _load(self, name: str, wake: Callable[[], None]) -> runners.base.Runner:
        return runners.load(name, runner_settings(self.settings, self.meta["installation"], name), wake)

    # Steps of scenarios. Each does nothing if it has been done.

    def upload(self) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            member = tarfile.TarInfo("hello.txt")
            member.size = 6
            archive.addfile(member, io.BytesIO(b"hello\n"))
        data.seek(0)
        projects.store_upload(self.project, self.user, data, self.settings)
        self.project = Project.get_by_id(self.project.id)

    def submit(
        self,
        name: str,
        config: dict[str, Any],
        notify: str | None = None,
        after: dict[str, str] | None = None,
        inputs_from: str | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Submit a job, and then call `then` before the engine can see it."""
        if not self.is_accepted(name):
            if inputs_from is not None:
                outputs = {"jobs": [self.job(inputs_from).id]}
                config = config | {"environment": config.get("environment", {}) | {"outputs": outputs}}
            loaded = load_config({"version": 1, "kind": "job", **config})
            attributes = {"name": name, "config": loaded, "notify": notify}
            attributes["dependencies"] = [
                Requested(self.job(job).id, Condition(on)) for job, on in (after or {}).items()
            ]
            submission.create(self.project, self.user, attributes, self.settings, find_job=int)
            self.remember(name)
        then()

    def clone(self, name: str, strategy: str, source: str) -> None:
        if not self.is_accepted(name):
            cloning.clone(self.job(source), self.user, strategy, {"config": {"name": name}}, self.settings)
            self.remember(name)

    @property
    def receiver(self) -> str:
        """The URL of a receiver for this data folder."""
        return f"{os.environ[RECEIVER]}/{self.folder.name}"

    def add_webhook(self) -> None:
        if not webhooks.list_webhooks(self.project).exists():
            webhooks.create(self.project, self.user, self.receiver, EVENTS, self.settings)

    def set_secret(self, name: str) -> None:
        if not (self.folder / f"secret-{name}").exists():
            job_secrets.set_secret(self.project, self.user, name, SECRET, self.settings.data_dir)
            self.remember(f"secret-{name}")

    def delete_secret(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            job_secrets.delete(self.project, name)

    def stop(self, name: str) -> None:
        jobs.request_stop(self.job(name), self.user, self.settings)

    def delete(self, name: str) -> None:
        if job := Job.get_or_none(Job.name == name):
            jobs.delete(job, self.user, self.settings)

    def is_accepted(self, name: str) -> bool:
        """Return whether a job was accepted, even if it has been deleted since."""
        if Job.select().where(Job.name == name).exists():
            self.remember(name)
        return (self.folder / name).exists()

    def remember(self, name: str) -> None:
        (self.folder / name).touch()

    # Waiting, with passes of the engine.

    def job(self, name: str) -> Job:
        return Job.get(Job.name == name)

    def until(self, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not what():
            assert time.monotonic() < deadline, [
                (job.name, str(job.status), job.notes, job.exit) for job in Job.select()
            ] + [(str(build.status), build.notes) for build in Build.select()]
            self.woken.clear()
            if not self.engine.run_pass():
                self.woken.wait(self.pause)

    def until_done(self, *names: str) -> None:
        self.until(lambda: all(self.job(name).status.is_done for name in names))

    def until_running(self, name: str) -> None:
        def says_so() -> bool:
            job = self.job(name)
            log = self.store.job_log(job.uuid)
            return job.status.is_done or (job.status == "running" and log.exists() and b"begun" in log.read_bytes())

        self.until(says_so)

    # The outcome.

    def outcome(self) -> dict[str, Any]:
        """Return everything that users see of the jobs, and everything that is left over."""
        self.until(lambda: not Job.select().where(Job.finished_at.is_null()).exists())
        self.until(lambda: not Job.select().where(Job.deleted_at.is_null(False)).exists())
        self.until(lambda: not Build.select().where(Build.finished_at.is_null()).exists())
        self.until(lambda: not Delivery.select().where(PENDING).exists())
        (self.folder / "deliveries").write_text("".join(f"{row.uuid}\n" for row in Delivery.select()))
        self.engine.run_pass()
        self.until(lambda: not self.engine.context.calls.is_busy(("sweep", 0)))
        runner = self.engine.backends.runner(self.runner)
        self.until(lambda: not (runner.is_local and leftovers(runner)))
        uuids = {job.uuid for job in Job.select(Job.uuid)}
        return {
            "jobs": {job.name or f"retry {job.retry_number}": self._of(job) for job in Job.select()},
            "builds": sorted(str(build.status) for build in Build.select()),
            "events": sorted((row.event, row.job["name"], row.error or "") for row in Delivery.select()),
            "left": sorted([*leftover_files(self.settings.data_dir, uuids), *runner.inventory()]),
        }

    def _of(self, job: Job) -> dict[str, Any]:
        rows = list(jobs.list_statuses(job))
        moments = [row.created_at for row in rows]
        assert moments == sorted(moments)
        outputs = self.store.outputs(job.uuid)
        log = self.store.job_log(job.uuid)
        return {
            "statuses": [str(row.status) for row in rows],
            "exit": (job.exit or {}).get("reason"),
            "code": job.exit_code,
            "log": log.read_text() if log.exists() else "",
            "outputs": sorted(name for name, _ in outputs.tree("")[0]),
        }

    def close(self) -> None:
        self.engine.close()
        runner = self.engine.backends.runner(self.runner)
        for name in runner.cached_artifacts() if self.runner == "docker" else {}:
            runner.remove_artifact(name)


# Processes.


def play(folder: str, runner: str, scenario: str, die_at: str | None, passed: str | None) -> None:
    """Run a scenario in this process, which dies when it first passes the crash point `die_at`.

    The names of all passed points are written to the file `passed`.
    """
    install_crash_points(die_at, passed)
    life = ScenarioRun(Path(folder), runner)
    SCENARIOS[scenario](life)
    life.until(lambda: not Job.select().where(Job.finished_at.is_null()).exists())
    life.engine.close()
    os._exit(0)


def inspect(folder: str, runner: str, result: str) -> None:
    """Write the outcome of a scenario to `result`. Files without a row are removed first, whatever their age."""
    cleanup.STALE_AFTER_SECONDS = -1.0
    life = ScenarioRun(Path(folder), runner)
    (life.folder / "installation").write_text(life.meta["installation"])
    Path(result).write_text(json.dumps(life.outcome()))
    life.close()
    os._exit(0)


class ForkServer:
    """A process that has loaded all modules, and forks a child for each call. A context manager, for one thread."""

    environment: Mapping[str, str] = {}
    """Variables of the next forks."""

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.scenario_run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=4 * TIMEOUT_SECONDS)

    def fork(self, act: Callable[..., None], *arguments: str | None) -> int:
        """Call a function in a fork, and return the exit code; negative if a signal or the time limit ended it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([dict(self.environment), act.__name__, *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _serve_forks() -> None:
    gc.freeze()  # else each fork would copy the pages of all objects that it collects
    for line in sys.stdin:
        environment, name, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(int(3 * TIMEOUT_SECONDS))
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(2, 1)
                os.environ.update(environment)
                {"play": play, "inspect": inspect}[name](*arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve_forks()
