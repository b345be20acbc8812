"""The form for a new job as shell commands: `polyjob run`, and curl."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from polyjob.jobconfig.compose import RESOURCES
from polyjob.pages.forms import Form
from polyjob.pages.job_form import lines_of, numbered_lines, read_names, read_words
from polyjob.services.schedules import DEFAULT_TIMEZONE


def run_command(project: str, form: Form, has_upload: bool = False, times: Mapping[str, str] | None = None) -> str:
    """Return the `polyjob run` command, or with `times` the `polyjob schedule add`. An upload is the current folder.

    The form knows no folder and no variables of a shell, so neither may the command add some.
    """
    words = ["polyjob", "run"]
    if times:
        words = ["polyjob", "schedule", "add", times["cron"], "--tz", times.get("timezone", DEFAULT_TIMEZONE)]
    words += ["-p", project, "--clean"]
    for option in ("image", *RESOURCES, "backend", "timeout", "retries", "name"):
        if form.word(option):
            words += [f"--{option}", form.word(option)]
    for build_step in lines_of(form.text("steps")):
        words += ["--step", build_step]
    for _, line in numbered_lines(form.text("env")):
        words += ["-e", line.lstrip()]
    for option, field in (("--volume", "volumes"), ("--secret", "secrets"), ("--tag", "tags")):
        for name in read_names(form, field):
            words += [option, name]
    for option, field in (("--after", "after"), ("--inputs-from", "inputs")):
        for job in read_words(form, field):
            words += [option, job]
    words += ["-u", "."] if has_upload else []
    config = form.text("config")
    words += ["-f", "-"] if config.strip() else []
    if form.word("cmd"):
        words += ["--", form.text("cmd").strip("\n")]
    line = shlex.join(words)
    return f"{line} {_here_document(config)}" if config.strip() else line


def curl_commands(
    root: str, project: str, body: Mapping[str, Any], has_upload: bool = False, times: Mapping[str, str] | None = None
) -> str:
    """Return the curl commands that submit the job, or with `times` create a schedule.

    They read the token from `$POLYJOB_TOKEN`.
    """
    authorization = '-H "Authorization: token $POLYJOB_TOKEN"'
    base = f"{root}/api/v1/{project}"
    lines = []
    if has_upload:
        url = shlex.quote(f"{base}/repo/upload")
        lines.append(f"tar czf - . | curl -X PUT {url} {authorization} -F repo=@-")
    content_type = shlex.quote("Content-Type: application/json")
    url = shlex.quote(f"{base}/schedules" if times else f"{base}/jobs")
    data = shlex.quote(json.dumps({**times, "job": body} if times else body, ensure_ascii=False))
    lines.append(f"curl {url} {authorization} \\\n  -H {content_type} \\\n  -d {data}")
    return "\n".join(lines)


def _here_document(text: str) -> str:
    delimiter = "END"
    while delimiter in text.split("\n"):
        delimiter += "_"
    return f"<<'{delimiter}'\n{text.rstrip(chr(10))}\n{delimiter}"
