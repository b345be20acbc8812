"""Errors of a refused config name the option or the file to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyjob.cli.errors import ServerError
from polyjob.cli.origins import OPTIONS, Origins
from polyjob.cli.run import job_body, run
from polyjob.errors import Invalid
from polyjob.jobconfig.validation import load_config
from tests.cli.helpers import polyjob
from tests.cli.test_run import NO_OPTIONS
from tests.e2e.conftest import Server


def refusal(*command: str, **options: Any) -> str:
    """Return the command's error for a config that the server refuses."""
    origins, options = Origins(), NO_OPTIONS | options
    config = origins.read(options["file"]) if options["file"] else {}
    body = job_body(command, config, None, origins, **options)
    with pytest.raises(Invalid) as refused:
        load_config(body["config"])
    problems = [(problem.pointer, problem.detail) for problem in refused.value.problems]
    with pytest.raises(ServerError) as error, origins.name_in_errors():
        raise ServerError(400, "refused", problems)
    return str(error.value)


def test_missing_image_names_the_option() -> None:
    problems = [("/config/build/image", "The docker runner needs `build.image`")]
    with pytest.raises(ServerError, match=r"^--image: The docker runner"), Origins().name_in_errors():
        raise ServerError(400, "refused", problems)


RUN = "run: {cmd: x}\n"
LIMITS = RUN + "environment: {resources: {cpu: {limits: %s}}}"
VARIABLES = RUN + "environment: {env_vars: %s}"
REFUSED = {
    "section of the file": ("build: [a]\n" + RUN, {"image": "i"}, "FILE: build: Not an object"),
    "list of the file": (RUN + "build: {build_steps: text}", {"build_steps": ("s",)}, "FILE: build.build_steps: "),
    "item of the file": (
        RUN + "build: {build_steps: ['', b]}", {"build_steps": ("s",)}, "FILE: build.build_steps.0: "
    ),
    "item of the option": (RUN + "build: {build_steps: [a]}", {"build_steps": ("",)}, "--step: "),
    "list of the option": (RUN, {"build_steps": ("a", "")}, "--step: "),
    "pair of the file": (VARIABLES % "[[1 2, x]]", {"env_vars": ("A=1",)}, "FILE: environment.env_vars.0: "),
    "key of the file": (VARIABLES % "{A: 1, 1 2: x}", {"env_vars": ("B=1",)}, "FILE: environment.env_vars.1 2: "),
    "key of the option": (VARIABLES % "{A: 1}", {"env_vars": ("1 2=x",)}, "--env: "),
    "resource of the file": (LIMITS % "z", {"memory": "1Gi"}, "FILE: environment.resources.cpu.limits: "),
    "resource of the option": (LIMITS % "1", {"cpu": "z"}, "--cpu: "),
    "param of the file": (RUN + "params: {a b: 1}", {"params": ("c=1",)}, "FILE: params.a b: "),
    "param of the option": (RUN + "params: {a: 1}", {"params": ("b c=1",)}, "--param: "),
    "image of the option": (RUN + "build: {image: ok}", {"image": "a b"}, "--image: "),
    "image of the file": (RUN + "build: {image: a b}", {"build_steps": ("s",)}, "FILE: build.image: "),
    "missing in the file": ("build: {image: i}", {"image": "j"}, "FILE: run: "),
    "unknown in the file": (RUN + "a/b: 1", {"cpu": "1"}, "FILE: a/b: "),
    "template of the file": ("run: {cmd: 'x {{ y }}'}\nparams: {a: 1}", {"params": ("b=2",)}, "FILE: run.cmd: "),
    "timeout of the file": (RUN + "termination: {timeout: -1}", {"cpu": "1"}, "FILE: termination.timeout: "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "options", "start"), REFUSED.values(), ids=REFUSED)
def test_file_or_option_at_fault_is_named(text: str, options: dict[str, Any], start: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text(text)
    assert refusal(file=file, **options).startswith(start.replace("FILE", str(file)))


@pytest.mark.parametrize(
    ("command", "options", "start"),
    [(("x {{ y }}",), {"params": ("a=1",)}, "COMMAND: "), (("x",), {"gpu": "z"}, "--gpu: ")],
)
def test_option_is_named_without_a_file(command: tuple[str, ...], options: dict[str, Any], start: str) -> None:
    assert refusal(*command, **options).startswith(start)


def test_each_fault_names_its_own_origin(tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text(RUN + "environment: {resources: {memory: {limits: z}}}\nzzz: 1\n")
    lines = refusal(file=file, cpu="z").splitlines()
    starts = ["--cpu: ", f"{file}: environment.resources.memory.limits: ", f"{file}: zzz: "]
    assert sorted(lines) == sorted(line for start in starts for line in lines if line.startswith(start))
    assert len(lines) == 3


def test_options_exist() -> None:
    spellings = {spelling for option in run.params for spelling in option.opts} | {"COMMAND"}
    spellings |= {"the current folder", "a variable of this shell"}
    assert set(OPTIONS.values()) <= spellings


@pytest.mark.parametrize("words", [["run"], ["restart", "JOB"], ["copy", "JOB", "--param", "a=1"]])
def test_commands_name_the_file_at_fault(server: Server, done_job: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("run: {cmd: x}\nenvironment: {resources: {cpu: {limits: z}}}\n")
    words = [done_job if word == "JOB" else word for word in words]
    done = polyjob(server, *words, "-f", str(file), "-e", "A=1")
    expected = f"{file}: environment.resources.cpu.limits: ".encode()
    assert (done.returncode, expected in done.stderr) == (125, True), done.stderr


def test_commands_name_the_options_at_fault(server: Server) -> None:
    done = polyjob(server, "run", "-i", "a b", "-e", "1=2", "--", "x")
    assert done.returncode == 125
    assert b"--image: Invalid docker image `a b`;" in done.stderr
    assert b"--env: " in done.stderr
