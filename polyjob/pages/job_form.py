"""The fields of a new job as what the API takes, and as the lines of a terminal that do the same. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from polyjob.api.schemas.config_bodies import ParsedBody
from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.commands import literal_command
from polyjob.jobconfig.parsing import parse_content
from polyjob.pages.forms import Form, by_field

LABELS = {
    "cmd": "Command",
    "image": "Image",
    "steps": "Build steps",
    "env": "Variables",
    "name": "Name",
    "tags": "Tags",
    "cpu": "CPU cores",
    "memory": "Memory",
    "gpu": "GPUs",
    "timeout": "Time limit",
    "upload": "Code",
    "config": "Config",
}
RESOURCES = ("cpu", "memory", "gpu")
_FIELDS = {
    "/config/run": "cmd",
    "/config/build/image": "image",
    "/config/build/build_steps": "steps",
    "/config/environment/env_vars": "env",
    "/config/environment/resources/cpu": "cpu",
    "/config/environment/resources/memory": "memory",
    "/config/environment/resources/gpu": "gpu",
    "/config/termination/timeout": "timeout",
    "/name": "name",
    "/tags": "tags",
    "/upload": "upload",
    "/repo": "upload",
    "/config": "config",
}
"""Where a problem points to → the field that says it."""


def read_job(form: Form) -> tuple[dict[str, Any], ParsedBody]:
    """The body that would be sent to make the job, and what the API makes of it. What the fields say goes over what the
    config says; steps and variables are added to it. Raises Invalid with every problem."""
    body, problems = _body_of(form)
    known = {problem.pointer for problem in problems}
    try:
        parsed = read_job_create(body)
    except Invalid as error:
        raise Invalid([*problems, *(found for found in error.problems if found.pointer not in known)]) from None
    if problems:
        raise Invalid(problems)
    return body, parsed


def _body_of(form: Form) -> tuple[dict[str, Any], list[Problem]]:
    """(the body, what is wrong with the fields themselves)."""
    text, problems = form.text("config"), []
    extra: dict[str, Any] = {"name": form.word("name")} if form.word("name") else {}
    if tags := _items(form.text("tags").replace(",", "\n")):
        extra["tags"] = tags
    if text.strip() and not any(form.word(name) for name in ("cmd", "image", "steps", "env", "timeout", *RESOURCES)):
        return {"content": text} | extra, []
    config = _document(text) if text.strip() else {}
    if form.word("cmd"):
        config["run"] = {"cmd": literal_command(form.text("cmd").strip("\n"))}
    elif not config:
        problems.append(Problem("/config/run", "Say what to run."))
    _put_build(config, form)
    pairs = []
    for number, line in _numbered(form.text("env")):
        name, equals, value = line.partition("=")
        if equals:
            pairs.append([name.strip(), value])
        else:
            problems.append(Problem("/config/environment/env_vars", f"Line {number} is not NAME=value."))
    asked = {kind: {"limits": form.word(kind)} for kind in RESOURCES if form.word(kind)}
    if pairs or asked:
        environment = _section(config, "environment")
        if pairs:
            before = environment.get("env_vars")
            before = [list(pair) for pair in before.items()] if isinstance(before, Mapping) else before
            environment["env_vars"] = _added(before, pairs)
        if asked:
            environment["resources"] = _section(environment, "resources", "/config/environment") | asked
    if form.word("timeout"):
        try:
            seconds = float(form.word("timeout"))
            termination = _section(config, "termination")
            termination["timeout"] = int(seconds) if seconds.is_integer() else seconds
        except (ValueError, OverflowError):
            problems.append(Problem("/config/termination/timeout", "It takes a number of seconds, such as 3600."))
    return {"config": config} | extra, problems


def _put_build(config: dict[str, Any], form: Form) -> None:
    if form.word("image"):
        _section(config, "build")["image"] = form.word("image")
    if steps := _items(form.text("steps")):
        build = _section(config, "build")
        build["build_steps"] = _added(build.get("build_steps"), steps)


def _added(before: Any, more: list[Any]) -> Any:
    """The list with more in it; what is none stays, to be refused by whoever reads the config."""
    return [*(before or []), *more] if isinstance(before, list | None) else before


def _section(config: dict[str, Any], name: str, pointer: str = "/config") -> dict[str, Any]:
    """The part of the config, its own copy; made where there is none."""
    part = config.get(name)
    if part is not None and not isinstance(part, Mapping):
        raise Invalid([Problem(f"{pointer}/{name}", f"`{name}` is not an object.")])
    config[name] = dict(part or {})
    return config[name]


def _document(text: str) -> dict[str, Any]:
    document = parse_content(text, "/config")
    if not isinstance(document, dict):
        raise Invalid([Problem("/config", "A config is an object with `run`, and `build` where something is built.")])
    return dict(document)


def _items(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _numbered(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def errors_of(problems: list[Problem], form: Form) -> dict[str, list[str]]:
    """Field → what is wrong with it, in the fields' own terms."""

    def field_of(pointer: str) -> str:
        below = pointer.replace("/content", "/config", 1) if pointer.startswith("/content") else pointer
        while below:
            found = _FIELDS.get(below)
            if found and (found == "config" or form.word(found) or not form.word("config")):
                return found if found != "config" or form.word("config") else ""
            below = below.rpartition("/")[0]
        return ""

    return by_field([_in_words(problem, field_of(problem.pointer), form) for problem in problems], field_of)


def _in_words(problem: Problem, field: str, form: Form) -> Problem:
    """With the place in a list, or in the config, that is meant."""
    places = problem.pointer.split("/")[2:]
    if field == "config" or (not field and places):
        return Problem(problem.pointer, f"{'.'.join(places)}: {problem.detail}" if places else problem.detail)
    if field == "memory" and form.word(field).isdecimal():
        return Problem(problem.pointer, "It takes a unit, such as `512Mi` or `4Gi`.")
    last = places[-1] if places else ""
    if field in ("steps", "env") and last.isdecimal() and not form.word("config"):
        lines = [line for line in _numbered(form.text(field)) if field == "steps" or "=" in line[1]]
        number = lines[int(last)][0] if int(last) < len(lines) else int(last) + 1
        return Problem(problem.pointer, f"Line {number}: {problem.detail}")
    return problem


# The same in a terminal.


def run_line(project: str, form: Form, has_upload: bool = False) -> str:
    """The line of `polyjob run`; code is the folder that one is in."""
    words = ["polyjob", "run", "-p", project]
    for option in ("image", *RESOURCES, "timeout", "name"):
        if form.word(option):
            words += [f"--{option}", form.word(option)]
    for step in _items(form.text("steps")):
        words += ["--step", step]
    for _, line in _numbered(form.text("env")):
        words += ["-e", line.lstrip()]
    for tag in _items(form.text("tags").replace(",", "\n")):
        words += ["--tag", tag]
    words += ["-u", "."] if has_upload else []
    text = form.text("config")
    words += ["-f", "-"] if text.strip() else []
    if form.word("cmd"):
        words += ["--", form.text("cmd").strip("\n")]
    line = shlex.join(words)
    return f"{line} {_here_document(text)}" if text.strip() else line


def curl_lines(root: str, project: str, body: Mapping[str, Any], has_upload: bool = False) -> str:
    """The same by curl; the key is `$POLYJOB_TOKEN`."""
    key = '-H "Authorization: token $POLYJOB_TOKEN"'
    base = f"{root}/api/v1/{project}"
    lines = []
    if has_upload:
        lines.append(f"tar czf - . | curl -X PUT {shlex.quote(f'{base}/repo/upload')} {key} -F repo=@-")
    sent = json.dumps(body, ensure_ascii=False)
    content = shlex.quote("Content-Type: application/json")
    lines.append(f"curl {shlex.quote(f'{base}/jobs')} {key} \\\n  -H {content} \\\n  -d {shlex.quote(sent)}")
    return "\n".join(lines)


def _here_document(text: str) -> str:
    end = "END"
    while end in text.split("\n"):
        end += "_"
    return f"<<'{end}'\n{text.rstrip(chr(10))}\n{end}"
