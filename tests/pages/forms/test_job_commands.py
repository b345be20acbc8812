"""The shell commands that equal the form for a new job."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.cli.origins import Origins
from polyjob.cli.run import job_body
from polyjob.cli.run import run as cli_run
from polyjob.cli.schedules import add as schedule_add
from polyjob.db.models import Job
from polyjob.pages.forms import Form
from polyjob.pages.job_commands import curl_commands, run_command
from polyjob.pages.job_form import read_job, read_times

from .conftest import ORIGIN, Browser, job_fields

SUBMIT = "/ana/demo/submit"
FIELDS = ["cmd", "image", "steps", "env", "name", "tags", "cpu", "memory", "gpu", "timeout", "config"]


class TestCommands:
    TYPED = {
        "cmd": 'echo "it\'s $HOME" `id` \\ !\n  two',
        "image": "python:3.12",
        "steps": "pip install 'a b'\n-x --y",
        "env": "A=it's\nB=$(id)\nC=-d",
        "name": "train",
        "tags": "a b,-c",
        "volumes": "data, models",
        "secrets": "API_TOKEN, B",
        "cpu": "500m",
        "memory": "1Gi",
        "gpu": "1",
        "backend": "docker",
        "timeout": "90.5",
        "retries": "3",
        "after": "12, 14:end ana.demo.jobs.15:failure",
        "inputs": "7, ana.demo.jobs.8",
    }

    @pytest.mark.parametrize("config", ["", "run: {cmd: x}\nEND\ntags: [z]", "build: {build_steps: [q]}\n"])
    def test_commands_equal_the_form(self, config: str) -> None:
        form = Form(self.TYPED | {"config": config.replace("END\n", "")})
        body, _ = read_job(form)
        line = (
            run_command("ana/demo", form, True).partition(" <<'")[0] if config else run_command("ana/demo", form, True)
        )
        words = shlex.split(line)
        assert words[:5] == ["polyjob", "run", "-p", "ana/demo", "--clean"]
        options = dict(cli_run.make_context("run", words[2:], resilient_parsing=True).params)
        command = options.pop("command")
        for name in ("project", "clean", "detach", "quiet"):
            options.pop(name)
        assert options.pop("upload") == Path(".")
        stdin = io.StringIO(form.text("config"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            origins = Origins()
            base = origins.read(options["file"]) if config else {}
            cli_body = job_body(command, base, None, origins, **options)
        assert read_job_create(cli_body).attributes["config"] == read_job_create(body).attributes["config"]
        assert {name: cli_body.get(name) for name in ("name", "tags", "after")} == {
            name: body.get(name) for name in ("name", "tags", "after")
        }
        curl = shlex.split(curl_commands("http://h", "ana/demo", body).replace("\\\n", " "))
        assert json.loads(curl[curl.index("-d") + 1]) == body
        assert curl[1] == "http://h/api/v1/ana/demo/jobs"

    def test_commands_of_a_repeated_job_add_a_schedule(self) -> None:
        form = Form({"cmd": "make x", "repeat": "0 3 * * *", "timezone": "Europe/Berlin"})
        (body, _), times = read_job(form), read_times(form)
        words = shlex.split(run_command("ana/demo", form, times=times))
        assert words[:3] == ["polyjob", "schedule", "add"]
        options = schedule_add.make_context("add", words[3:], resilient_parsing=True).params
        assert (options["cron"], options["timezone"], options["project"]) == ("0 3 * * *", "Europe/Berlin", "ana/demo")
        assert options["command"] == ("make x",)
        curl = shlex.split(curl_commands("http://h", "ana/demo", body, times=times).replace("\\\n", " "))
        assert curl[1] == "http://h/api/v1/ana/demo/schedules"
        assert json.loads(curl[curl.index("-d") + 1]) == {**(times or {}), "job": body}

    def test_config_becomes_a_here_document(self) -> None:
        text = "run:\n  cmd: |\n    cat <<X\nEND\n"
        line = run_command("ana/demo", Form({"config": text}))
        assert line == f"polyjob run -p ana/demo --clean -f - <<'END_'\n{text}END_"

    def test_commands_are_shown_without_javascript(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 200, cmd="echo it's", do="show")
        assert "polyjob run -p ana/demo --clean -- 'echo it'\"'\"'s'" in page.text
        assert 'curl http://localhost/api/v1/ana/demo/jobs -H "Authorization: token $POLYJOB_TOKEN"' in page.text
        assert job_fields(page)["cmd"] == "echo it's"
        assert "hidden" not in page.elements["commands"]
        assert Job.select().count() == 0
        assert "hidden" in ana.get(SUBMIT).elements["commands"]

    def test_commands_are_available_as_json(self, ana: Browser) -> None:
        token = ana.csrf()

        def ask(**typed: str) -> Any:
            return ana.http.post(
                f"{SUBMIT}/commands", data=typed | {"csrf_token": token}, headers={"Origin": ORIGIN}
            ).json

        assert ask(cmd="true", with_upload="yes")["run"] == "polyjob run -p ana/demo --clean -u . -- true"
        assert "repo/upload" in ask(cmd="true", with_upload="yes")["curl"]
        assert list(ask(cmd="true", image="A B")["errors"]) == ["image"]
