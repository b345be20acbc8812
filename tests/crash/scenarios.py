"""Scenarios for every runner. A step that was done does nothing when the scenario runs again."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from polyjob.db.models import PENDING, Build, Delivery, Job

if TYPE_CHECKING:
    from tests.crash.scenario_run import ScenarioRun

IMAGE = "polyjob-test:latest"
IN_IMAGES = ("docker", "kubernetes")
"""Runners whose jobs need an image."""


def whole(run_: ScenarioRun) -> None:
    """An upload, a build, a job with an output, and clones of it."""
    run_.upload()
    run_.submit("one", _config(run_, "one", build=True))
    run_.until_done("one")
    run_.clone("two", "copy", "one")
    run_.clone("three", "restart", "one")
    run_.until_done("two", "three")


def failing(run_: ScenarioRun) -> None:
    run_.submit("bad", _config(run_, "bad", code=3))
    run_.submit("unbuilt", _config(run_, "unbuilt", build=True, build_code=4))
    run_.until_done("bad", "unbuilt")


def ended(run_: ScenarioRun) -> None:
    """A stop, a timeout and a delete."""
    run_.submit("stopped", _config(run_, "stopped", stubborn=True))
    limits = {"timeout": 8 if run_.runner in IN_IMAGES else 1, "grace": 1}  # longer than a death and the next start
    run_.submit("late", _config(run_, "late", stubborn=True) | {"termination": limits})
    run_.submit("deleted", _config(run_, "deleted", stubborn=True))
    run_.until_running("stopped")
    run_.stop("stopped")
    if Job.select().where(Job.name == "deleted").exists():
        run_.until_running("deleted")
        run_.delete("deleted")
    run_.until_done("stopped", "late")
    run_.until(lambda: not Job.select().where(Job.name == "deleted").exists())


def unbuilt(run_: ScenarioRun) -> None:
    """A stop during a build that no other job waits for."""
    run_.submit("early", _config(run_, "early", build=True, endless_build=True))
    run_.until(lambda: run_.job("early").status.is_done or Build.select().where(Build.status == "running").exists())
    run_.stop("early")
    run_.until_done("early")


def served(run_: ScenarioRun) -> None:
    """A job with an upload and outputs, to test each call to the backend."""
    run_.upload()
    run_.submit("served", _config(run_, "served"))
    run_.until_done("served")


def halted(run_: ScenarioRun) -> None:
    """A stop, to test each call to the backend."""
    run_.submit("halted", _config(run_, "halted", stubborn=True))
    run_.until_running("halted")
    run_.stop("halted")
    run_.until_done("halted")


def chained(run_: ScenarioRun) -> None:
    """A retry after a pause that begins with the outputs, and jobs that wait for the end of the chain.

    One of them reads the outputs of another.
    """
    rule = {"times": 1, "delay": 0.2, "resume": True}
    run_.submit("flaky", _config(run_, "flaky", code=3, keeps=True) | {"termination": {"grace": 1, "retry": [rule]}})
    run_.submit("cleaning", _config(run_, "cleaning"), after={"flaky": "failure"})
    run_.submit("never", _config(run_, "never"), after={"flaky": "success"})
    run_.submit("last", _config(run_, "last"), after={"never": "end", "cleaning": "success"})
    run_.submit("reader", _config(run_, "reader", reads=True), inputs_from="cleaning")
    run_.until_done("flaky", "last", "reader")


def told(run_: ScenarioRun) -> None:
    """A webhook of the project and one of a job: of a success, a failure and a stop."""
    run_.add_webhook()
    run_.submit("good", _config(run_, "good"), notify=run_.receiver)
    run_.until_done("good")  # after a failure it would be fixed
    run_.submit("bad", _config(run_, "bad", code=3))
    run_.submit("stopped", _config(run_, "stopped", stubborn=True))
    run_.until_running("stopped")
    run_.stop("stopped")
    run_.until_done("bad", "stopped")
    run_.until(lambda: not Delivery.select().where(PENDING).exists())


def confided(run_: ScenarioRun) -> None:
    """A job that prints its secret, and one whose secret was deleted."""
    run_.set_secret("GONE")
    run_.set_secret("TOKEN")
    text = f"it is {SECRET}\n{SECRET[:5]}"
    config = _config(run_, "masked", log=text)
    config.setdefault("environment", {})["secret_refs"] = ["TOKEN"]
    run_.submit("masked", config)
    run_.until_done("masked")
    assert run_.store.job_log(run_.job("masked").uuid).read_bytes() == f"it is ***\n{SECRET[:5]}".encode()
    config["environment"]["secret_refs"] = ["GONE"]
    run_.submit("bereft", config, then=lambda: run_.delete_secret("GONE"))
    run_.until_done("bereft")


SECRET = "correct horse"
SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (whole, failing, ended, unbuilt, chained, served, halted, told, confided)
}


def _config(
    run_: ScenarioRun,
    name: str,
    *,
    code: int = 0,
    stubborn: bool = False,
    keeps: bool = False,
    reads: bool = False,
    build: bool = False,
    build_code: int = 0,
    endless_build: bool = False,
    log: str | None = None,
) -> dict[str, Any]:
    config: dict[str, Any] = {"termination": {"grace": 1}}
    if run_.runner == "fake":
        pairs = {
            "FAKE_LOG": f"begun {name}\n" if log is None else log,
            "FAKE_CODE": str(code),
            "FAKE_SECONDS": "1000" if stubborn else "0.1",
        }
        if stubborn:
            pairs["FAKE_IGNORE_TERM"] = "yes"
        elif keeps or not code:
            pairs["FAKE_OUTPUTS"] = json.dumps({"file": name})
        config["environment"] = {"env_vars": sorted(map(list, pairs.items()))}
        variables = {"FAKE_BUILD_FAIL": f"1:{build_code}"} if build_code else {}
        variables |= {"FAKE_BUILD_HANG": "yes"} if endless_build else {}
        config["run"] = {"cmd": "true"}
        build_config: dict[str, Any] = {
            "image": "a",
            "build_steps": ["true"],
            "env_vars": sorted(map(list, variables.items())),
        }
    else:
        rest = "trap '' TERM; sleep 1000 & wait; sleep 1000" if stubborn else f"sleep 0.1; exit {code}"
        read = "cat $POLYJOB_INPUTS_PATH/*/file; " if reads else ""
        keep = "" if (code and not keeps) or stubborn else "echo kept > $POLYAXON_RUN_OUTPUTS_PATH/file; "
        mark = f"echo ran >> {run_.folder}/runs-{name}; " if run_.runner == "process" else ""
        begin = f"echo begun {name}" if log is None else f"printf %s {shlex.quote(log)}"
        config["run"] = {"cmd": f"{mark}{begin}; {read}{keep}{rest}"}
        steps = ["sleep 1000" if endless_build else f"exit {build_code}"]
        needs_steps = run_.runner in IN_IMAGES or build_code or endless_build  # a virtualenv takes its time
        build_config = {"image": IMAGE, "build_steps": steps if needs_steps else []}
    if build or run_.runner in IN_IMAGES:
        config["build"] = build_config if build else {"image": IMAGE}
    return config
