"""A data folder lived through in processes that may die: stories of jobs, told by a web worker and an engine in one.

A story is told again from its begin by the next process, which finds what the last one has done: each of its acts does
nothing where it was done. Each telling is a fork of a process that has loaded everything, and so costs little.
"""

from __future__ import annotations

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runners
import runners.docker
import runners.fake
import runners.process
from polyjob import jobs, projects, submitting
from polyjob.clock import Clock
from polyjob.engine import housekeeping
from polyjob.engine.calls import Calls
from polyjob.engine.context import Context
from polyjob.engine.passes import Engine
from polyjob.first_start import open_folder
from polyjob.models import Build, Job, Meta, Project, User
from polyjob.schemas.config import load_config
from polyjob.settings import read_settings
from polyjob.specs import runner_settings
from polyjob.store import Store
from tests.lives.left import left_in

PATIENCE = 40.0
CLUSTER = ("POLYJOB_KUBE_", "POLYJOB_REGISTRY", "POLYJOB_BUILDER_")
"""Beginnings of the variables that say which cluster it is."""
IN_IMAGES = ("docker", "kubernetes")
"""Runners whose jobs need an image."""
IMAGE = "polyjob-test:latest"
ROOT = Path(__file__).resolve().parent.parent.parent


class Life:
    """One process's part of it: the folder is opened, and made on the first start."""

    def __init__(self, folder: Path, runner: str) -> None:
        self.folder = folder
        self.runner = runner
        told = {name: value for name, value in os.environ.items() if name.startswith(CLUSTER)}
        self.settings = read_settings(
            told, data_dir=folder / "data", runner=runner, slots=4, disk_low=0, port=1, build_slots=2
        )
        open_folder(self.settings)
        self.store = Store(self.settings.data_dir)
        self.user = User.get(User.username == "root")
        self.project = Project.get(Project.user == self.user)
        self.meta = {row.key: row.value for row in Meta.select()}
        self.woken = threading.Event()
        of_runners = runner_settings(self.settings, self.meta["installation"])
        calls = Calls(self.woken.set, self.settings.build_slots)
        context = Context(self.settings, self.store, calls, Clock(), self.meta["installation"], self.meta["secret"])
        self.engine = Engine(context, lambda name, wake: runners.load(name, of_runners, wake), self.woken.set)

    # What people do; each does nothing where it was done.

    def upload(self) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            member = tarfile.TarInfo("hello.txt")
            member.size = 6
            archive.addfile(member, io.BytesIO(b"hello\n"))
        data.seek(0)
        projects.upload_code(self.project, self.user, data, self.settings)
        self.project = Project.get_by_id(self.project.id)

    def submit(self, name: str, config: dict[str, Any]) -> None:
        if not self.was(name):
            loaded = load_config({"version": 1, "kind": "job", **config})
            submitting.create(self.project, self.user, {"name": name, "config": loaded}, self.settings)
            self.remember(name)

    def clone(self, name: str, strategy: str, source: str) -> None:
        if not self.was(name):
            submitting.clone(self.job(source), self.user, strategy, {"config": {"name": name}}, self.settings)
            self.remember(name)

    def stop(self, name: str) -> None:
        jobs.request_stop(self.job(name), self.user, self.settings)

    def delete(self, name: str) -> None:
        if job := Job.get_or_none(Job.name == name):
            jobs.delete(job, self.user, self.settings)

    def was(self, name: str) -> bool:
        """A job that was accepted is remembered also where it has been deleted since."""
        if Job.select().where(Job.name == name).exists():
            self.remember(name)
        return (self.folder / name).exists()

    def remember(self, name: str) -> None:
        (self.folder / name).touch()

    # What the engine does.

    def job(self, name: str) -> Job:
        return Job.get(Job.name == name)

    def until(self, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, [
                (job.name, str(job.status), job.notes, job.exit) for job in Job.select()
            ] + [(str(build.status), build.notes) for build in Build.select()]
            self.woken.clear()
            if not self.engine.run_pass():
                self.woken.wait(0.05)

    def until_done(self, *names: str) -> None:
        self.until(lambda: all(self.job(name).status.is_done for name in names))

    def until_running(self, name: str) -> None:
        def says_so() -> bool:
            job = self.job(name)
            log = self.store.job_log(job.uuid)
            return job.status.is_done or (job.status == "running" and log.exists() and b"begun" in log.read_bytes())

        self.until(says_so)

    # What is to be seen.

    def outcome(self) -> dict[str, Any]:
        """Everything that people see of the jobs, and all that is left over."""
        self.until(lambda: not Job.select().where(Job.finished_at.is_null()).exists())
        self.until(lambda: not Job.select().where(Job.deleted_at.is_null(False)).exists())
        self.until(lambda: not Build.select().where(Build.finished_at.is_null()).exists())
        self.engine.run_pass()
        self.until(lambda: not self.engine.context.calls.busy(("sweep", 0)))
        known = {job.uuid for job in Job.select(Job.uuid)}
        return {
            "jobs": {job.name: self._of(job) for job in Job.select()},
            "builds": sorted(str(build.status) for build in Build.select()),
            "left": sorted(
                [*left_in(self.settings.data_dir, known), *self.engine.backends.runner(self.runner).inventory()]
            ),
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
        for name in runner.held() if self.runner == "docker" else {}:
            runner.drop(name)


# Stories.


def whole(life: Life) -> None:
    """Code, a build, a run that leaves a file, and clones of it."""
    life.upload()
    life.submit("one", _config(life, "one", build=True))
    life.until_done("one")
    life.clone("two", "copy", "one")
    life.clone("three", "restart", "one")
    life.until_done("two", "three")


def failing(life: Life) -> None:
    life.submit("bad", _config(life, "bad", code=3))
    life.submit("unbuilt", _config(life, "unbuilt", build=True, build_code=4))
    life.until_done("bad", "unbuilt")


def ended(life: Life) -> None:
    """A stop, a time that is over, and a delete."""
    life.submit("stopped", _config(life, "stopped", stubborn=True))
    life.submit("late", _config(life, "late", stubborn=True) | {"termination": {"timeout": 1, "grace": 1}})
    life.submit("deleted", _config(life, "deleted", stubborn=True))
    life.until_running("stopped")
    life.stop("stopped")
    if Job.select().where(Job.name == "deleted").exists():
        life.until_running("deleted")
        life.delete("deleted")
    life.until_done("stopped", "late")
    life.until(lambda: not Job.select().where(Job.name == "deleted").exists())


def unbuilt(life: Life) -> None:
    """A stop while the build is made, which nobody else waits for."""
    life.submit("early", _config(life, "early", build=True, endless_build=True))
    life.until(lambda: life.job("early").status.is_done or Build.select().where(Build.status == "running").exists())
    life.stop("early")
    life.until_done("early")


STORIES = {story.__name__: story for story in (whole, failing, ended, unbuilt)}


def _config(
    life: Life,
    name: str,
    *,
    code: int = 0,
    stubborn: bool = False,
    build: bool = False,
    build_code: int = 0,
    endless_build: bool = False,
) -> dict[str, Any]:
    config: dict[str, Any] = {"termination": {"grace": 1}}
    if life.runner == "fake":
        pairs = {"FAKE_LOG": f"begun {name}\n", "FAKE_CODE": str(code), "FAKE_SECONDS": "1000" if stubborn else "0.1"}
        if stubborn:
            pairs["FAKE_IGNORE_TERM"] = "yes"
        elif not code:
            pairs["FAKE_OUTPUTS"] = json.dumps({"file": name})
        config["environment"] = {"env_vars": sorted(map(list, pairs.items()))}
        variables = {"FAKE_BUILD_FAIL": f"1:{build_code}"} if build_code else {}
        variables |= {"FAKE_BUILD_HANG": "yes"} if endless_build else {}
        config["run"] = {"cmd": "true"}
        made: dict[str, Any] = {"image": "a", "build_steps": ["true"], "env_vars": sorted(map(list, variables.items()))}
    else:
        rest = "trap '' TERM; sleep 1000 & wait; sleep 1000" if stubborn else f"sleep 0.1; exit {code}"
        keep = "" if code or stubborn else "echo kept > $POLYAXON_RUN_OUTPUTS_PATH/file; "
        mark = f"echo ran >> {life.folder}/runs-{name}; " if life.runner == "process" else ""
        config["run"] = {"cmd": f"{mark}echo begun {name}; {keep}{rest}"}
        steps = ["sleep 1000" if endless_build else f"exit {build_code}"]
        needs_steps = life.runner in IN_IMAGES or build_code or endless_build  # a virtualenv takes its time
        made = {"image": IMAGE, "build_steps": steps if needs_steps else []}
    if build or life.runner in IN_IMAGES:
        config["build"] = made if build else {"image": IMAGE}
    return config


# Processes.


def tell(folder: str, runner: str, story: str, die_at: str | None, passed: str | None) -> None:
    """The story's next telling, in this process, which dies when it first comes by the crash point `die_at`. Names of
    the points that it comes by are written to the file `passed`."""
    _die_at_points(die_at, passed)
    life = Life(Path(folder), runner)
    STORIES[story](life)
    life.until(lambda: not Job.select().where(Job.finished_at.is_null()).exists())
    life.engine.close()
    os._exit(0)


def look(folder: str, runner: str, result: str) -> None:
    """What has come of it all. What nobody names is swept away first, however young."""
    housekeeping.SWEPT_AFTER = -1.0
    life = Life(Path(folder), runner)
    (life.folder / "installation").write_text(life.meta["installation"])
    Path(result).write_text(json.dumps(life.outcome()))
    life.close()
    os._exit(0)


def _die_at_points(die_at: str | None, passed: str | None) -> None:
    def come_by(name: str) -> None:
        if passed is not None:
            with open(passed, "a") as file:
                file.write(f"{name}\n")
        if name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    for module in _modules_with("crash_point"):
        module.crash_point = come_by


def _modules_with(name: str) -> list[Any]:
    return [
        module
        for module in sys.modules.values()
        if getattr(module, "__name__", "").startswith("polyjob") and hasattr(module, name)
    ]


class Nursery:
    """A process that has loaded everything, and lives each life in a fork. Used as a context, by one thread."""

    def __init__(self, **environment: str) -> None:
        self._environment = environment

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lives.life"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | self._environment,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=4 * PATIENCE)

    def live(self, act: Callable[..., None], *arguments: str | None) -> int:
        """The exit code of a fork that did this; negative where a signal ended it, as one does after a while."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([act.__name__, *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _nurse() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(int(3 * PATIENCE))
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(2, 1)
                {"tell": tell, "look": look}[name](*arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _nurse()
