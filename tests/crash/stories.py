"""Stories of jobs, for each runner alike. Told again, an act that was done does nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from polyjob.db.models import Build, Job

if TYPE_CHECKING:
    from tests.crash.life import Life

IMAGE = "polyjob-test:latest"
IN_IMAGES = ("docker", "kubernetes")
"""Runners whose jobs need an image."""


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
    limits = {"timeout": 4 if life.runner in IN_IMAGES else 1, "grace": 1}  # longer than a death and the next start
    life.submit("late", _config(life, "late", stubborn=True) | {"termination": limits})
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


def served(life: Life) -> None:
    """A run with code and outputs, of which each call of the back end counts."""
    life.upload()
    life.submit("served", _config(life, "served"))
    life.until_done("served")


def halted(life: Life) -> None:
    """A stop, of which each call of the back end counts."""
    life.submit("halted", _config(life, "halted", stubborn=True))
    life.until_running("halted")
    life.stop("halted")
    life.until_done("halted")


STORIES = {story.__name__: story for story in (whole, failing, ended, unbuilt, served, halted)}


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
