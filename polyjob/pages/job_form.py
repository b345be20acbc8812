"""The fields of the form for a new job: read them as the body of an API request, and map errors back to fields."""

from __future__ import annotations

from typing import Any

from polyjob.api.params import MAX_ID_DIGITS, parse_digits
from polyjob.api.schemas.config_bodies import ParsedBody
from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.compose import RESOURCES, JobFields, compose_job
from polyjob.jobconfig.parsing import parse_content
from polyjob.pages.forms import Form, group_by_field
from polyjob.services.dependencies import Condition

LABELS = {
    "cmd": "Command",
    "image": "Image",
    "steps": "Build steps",
    "env": "Environment variables",
    "volumes": "Volumes",
    "secrets": "Secrets",
    "name": "Name",
    "tags": "Tags",
    "cpu": "CPU cores",
    "memory": "Memory",
    "gpu": "GPUs",
    "backend": "Runner",
    "timeout": "Time limit",
    "retries": "Retries",
    "after": "After other jobs",
    "inputs": "Outputs of other jobs",
    "repeat": "Repeat",
    "cron": "Cron expression",
    "timezone": "Time zone",
    "upload": "Files",
    "config": "Config",
}
CONFIG_FIELDS = (
    *("cmd", "image", "steps", "env", "volumes", "secrets", "backend", "timeout", "retries", "inputs"),
    *RESOURCES,
)
"""The fields that become a part of the config."""
_FIELD_OF_POINTER = {
    "/config/run": "cmd",
    "/config/build/image": "image",
    "/config/build/build_steps": "steps",
    "/config/environment/env_vars": "env",
    "/config/environment/data_refs": "volumes",
    "/config/environment/persistence/data": "volumes",
    "/config/environment/secret_refs": "secrets",
    "/config/environment/outputs/jobs": "inputs",
    "/config/environment/resources/cpu": "cpu",
    "/config/environment/resources/memory": "memory",
    "/config/environment/resources/gpu": "gpu",
    "/config/backend": "backend",
    "/config/termination/timeout": "timeout",
    "/config/termination/max_retries": "retries",
    "/after": "after",
    "/cron": "cron",
    "/timezone": "timezone",
    "/name": "name",
    "/tags": "tags",
    "/upload": "upload",
    "/repo": "upload",
    "/config": "config",
}


def read_job(form: Form) -> tuple[dict[str, Any], ParsedBody]:
    """Return the body of the API request that makes the job, and its parsed form.

    Fields take precedence over the typed config; those with several entries, such as the build steps, are added to the
    entries of the config. Raises Invalid with all problems.
    """
    body, problems = _compose_body(form)
    pointers = {problem.pointer for problem in problems}
    try:
        parsed = read_job_create(body)
    except Invalid as error:
        others = [problem for problem in error.problems if problem.pointer not in pointers]
        raise Invalid([*problems, *others]) from None
    if problems:
        raise Invalid(problems)
    return body, parsed


def _compose_body(form: Form) -> tuple[dict[str, Any], list[Problem]]:
    """Return the body, and the problems of single fields."""
    fields, problems = _read_fields(form)
    config_text = form.text("config")
    if config_text.strip() and not any(form.word(name) for name in CONFIG_FIELDS):
        return {"content": config_text} | _without_config(compose_job(fields).body), []
    config = _parse_config(config_text) if config_text.strip() else {}
    if not config and fields.command is None:
        problems.append(Problem("/config/run", "Enter a command."))
    return compose_job(fields, config).body, problems


def _without_config(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "config"}


def _read_fields(form: Form) -> tuple[JobFields, list[Problem]]:
    problems = []
    env_vars = []
    for number, line in numbered_lines(form.text("env")):
        name, equals, value = line.partition("=")
        if equals:
            env_vars.append((name.strip(), value))
        else:
            problems.append(Problem("/config/environment/env_vars", f"Line {number} must have the form NAME=value."))
    timeout = None
    if form.word("timeout"):
        try:
            timeout = float(form.word("timeout"))
        except ValueError:
            problems.append(Problem("/config/termination/timeout", "Enter a number of seconds, such as 3600."))
    retries = parse_digits(form.word("retries"))
    if form.word("retries") and retries is None:
        problems.append(Problem("/config/termination/max_retries", "Enter a whole number, such as 3."))
    after, after_problems = _read_after(form)
    problems += after_problems
    fields = JobFields(
        command=form.text("cmd").strip("\n") if form.word("cmd") else None,
        image=form.word("image"),
        build_steps=lines_of(form.text("steps")),
        env_vars=env_vars,
        resources={resource: form.word(resource) for resource in RESOURCES if form.word(resource)},
        volumes=read_names(form, "volumes"),
        secrets=read_names(form, "secrets"),
        backend=form.word("backend"),
        timeout=timeout,
        retries=retries,
        name=form.word("name"),
        tags=read_names(form, "tags"),
        after=after,
        inputs_from=[_job_reference(word) for word in read_words(form, "inputs")],
    )
    return fields, problems


def _read_after(form: Form) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return the dependencies, each JOB or JOB:ON, and the problems of their conditions."""
    after: list[dict[str, Any]] = []
    problems = []
    for word in read_words(form, "after"):
        job, _, condition = word.partition(":")
        after.append({"job": _job_reference(job), "on": condition or "success"})
        if after[-1]["on"] not in list(Condition):
            problems.append(Problem("/after", f"`{word}`: write `{job}`, `{job}:failure` or `{job}:end`."))
    return after, problems


def _job_reference(word: str) -> int | str:
    """Return the number of a job, or any other text as it is, for the schema to refuse."""
    number = parse_digits(word, MAX_ID_DIGITS)
    return word if number is None else number


def read_times(form: Form) -> dict[str, str] | None:
    """Return the times of the schedule that the form asks for; None for a job that runs once. Raises Invalid."""
    repeat, cron, timezone = (form.word(name) for name in ("repeat", "cron", "timezone"))
    if not (repeat or cron):
        return None
    if repeat and cron:
        raise Invalid([Problem("/cron", "Leave this empty, or choose `Once, now` as the repetition.")])
    if read_words(form, "after"):
        raise Invalid([Problem("/after", "The job of a schedule cannot wait for other jobs.")])
    return {"cron": repeat or cron} | ({"timezone": timezone} if timezone else {})


def _parse_config(text: str) -> dict[str, Any]:
    document = parse_content(text, "/config")
    if not isinstance(document, dict):
        raise Invalid([Problem("/config", "The config must be an object with `run` and, optionally, `build`.")])
    return document


def read_names(form: Form, field: str) -> list[str]:
    """Return the names in a field, which are separated by commas."""
    return lines_of(form.text(field).replace(",", "\n"))


def read_words(form: Form, field: str) -> list[str]:
    """Return the words in a field, which are separated by commas or blanks."""
    return form.text(field).replace(",", " ").split()


def lines_of(text: str) -> list[str]:
    """Return the lines that are not blank, without surrounding whitespace."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return (number, line) of each line that is not blank, unchanged."""
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


# Errors.


def errors_of(problems: list[Problem], form: Form) -> dict[str, list[str]]:
    """Return field name → messages. The name is empty for problems of the form as a whole.

    The pointers are those of a job, or of a schedule with the job in `/job`.
    """
    problems = [Problem(problem.pointer.removeprefix("/job"), problem.detail) for problem in problems]

    def field_of(pointer: str) -> str:
        part = pointer.replace("/content", "/config", 1) if pointer.startswith("/content") else pointer
        while part:
            name = _FIELD_OF_POINTER.get(part)
            if name and (name == "config" or form.word(name) or not form.word("config")):
                return name if name != "config" or form.word("config") else ""
            part = part.rpartition("/")[0]
        return ""

    located = [_with_location(problem, field_of(problem.pointer), form) for problem in problems]
    return group_by_field(located, field_of)


def _with_location(problem: Problem, field: str, form: Form) -> Problem:
    """Add the path in the config, or the line in the field, to the message."""
    path = problem.pointer.split("/")[2:]
    if field == "config" or (not field and path):
        return Problem(problem.pointer, f"{'.'.join(path)}: {problem.detail}" if path else problem.detail)
    if field == "memory" and form.word(field).isdecimal():
        return Problem(problem.pointer, "Add a unit, such as `512Mi` or `4Gi`.")
    index = path[-1] if path else ""
    if field in ("steps", "env") and index.isdecimal() and not form.word("config"):
        lines = [line for line in numbered_lines(form.text(field)) if field == "steps" or "=" in line[1]]
        number = lines[int(index)][0] if int(index) < len(lines) else int(index) + 1
        return Problem(problem.pointer, f"Line {number}: {problem.detail}")
    return problem
