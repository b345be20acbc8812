"""The greeting of `polyjob serve`, and the message at its end."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess

import pytest

from polyjob.clock import now
from polyjob.db.database import open_database, write
from polyjob.db.models import Job
from polyjob.server import greeting
from polyjob.server.bootstrap import create_first_user
from polyjob.server.greeting import running_jobs_message
from runners.kubernetes.options import Options
from tests.e2e.conftest import Server, eventually
from tests.require import require


def test_first_start_shows_working_commands(tmp_path):
    require("curl", shutil.which("curl") is not None)
    with Server(tmp_path) as server:
        eventually(lambda: len([line for line in server.lines if "curl" in line]) == 2)
        text = "".join(server.lines)
        token = (server.data_dir / "root-token").read_text().strip()
        assert re.search(rf"page: +http://127\.0\.0\.1:{server.port}/sign-in/[0-9a-f]{{40}} ", text)
        assert f"data:  {server.data_dir}\n" in text
        assert f"token: {server.data_dir}/root-token\n" in text
        submit, follow = (line.strip() for line in server.lines if "curl" in line)
        assert token in submit
        assert re.search(r'Warning: jobs run as user "(\S+)". Anyone who can submit jobs can do anything \1 can.', text)
        job = json.loads(subprocess.run(["sh", "-c", submit], capture_output=True, timeout=30, check=True).stdout)
        assert job["id"] == 1
        log = subprocess.run(["sh", "-c", follow], capture_output=True, timeout=60, check=True).stdout
        assert log == b"hello 1\nhello 2\nhello 3\n"


def test_greeting_has_the_number_of_the_next_job(settings, project, user):
    create_first_user(settings)
    moment = now()
    with write("test"):
        Job.insert(
            id=41, uuid="a" * 32, project=project, user=user, runner="fake", created_at=moment, updated_at=moment
        ).execute()
        Job.delete().execute()
    lines = greeting.greeting(settings)
    assert lines[-3].endswith("/jobs/42/logs?follow=true'")


def test_missing_token_is_replaced_by_its_variable(settings):
    create_first_user(settings)
    (settings.data_dir / "root-token").unlink()
    text = "\n".join(greeting.greeting(settings))
    assert text.count('-H "Authorization: token $POLYJOB_TOKEN"') == 2
    assert "set POLYJOB_TOKEN to yours" in text


def test_missing_user_has_no_sign_in_link(settings):
    text = "\n".join(greeting.greeting(settings))
    assert f"page:  {settings.url}/\n" in text


@pytest.mark.parametrize(
    ("runner", "account", "expected"),
    [
        ("process", "", "Anyone who can submit jobs can do anything"),
        ("process", "nobody", "jobs:  run as user nobody\n"),
        ("fake", "", ""),
    ],
)
def test_greeting_says_whose_rights_jobs_have(runner, account, expected, settings):
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, runner=runner, job_user=account)))
    assert expected in text
    assert ("jobs run as" in text or "jobs:  run as" in text) == bool(expected)


@pytest.mark.parametrize(("runner", "image"), [("docker", '"busybox"'), ("kubernetes", '"registry.lan/helper:1"')])
def test_first_job_runs_in_an_available_image(runner, image, settings, project, user):
    options = Options(helper_image="registry.lan/helper:1")
    settings = dataclasses.replace(settings, runner=runner, kubernetes=options)
    assert f'"image": {image}' in "\n".join(greeting.greeting(settings))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, None),
        (1, "1 job is still running. The next start of polyjob continues with it."),
        (2, "2 jobs are still running. The next start of polyjob continues with them."),
    ],
)
def test_number_of_running_jobs_is_reported(number, message, settings, project, user):
    moment = now()
    common = {"project": project, "user": user, "runner": "fake", "created_at": moment, "updated_at": moment}
    rows = [{"uuid": f"{index:032x}", "status": "running", **common} for index in range(number)]
    rows.append({"uuid": "e" * 32, "status": "created", **common})
    with write("test"):
        for row in rows:
            Job.insert(**row).execute()
        Job.insert(uuid="f" * 32, status="running", exit={"code": 0}, **common).execute()
    reported = running_jobs_message(settings)
    open_database(settings.data_dir)
    assert reported == message


def test_missing_data_dir_has_no_running_jobs(settings, tmp_path):
    assert running_jobs_message(dataclasses.replace(settings, data_dir=tmp_path / "missing")) is None


def test_gap_of_the_isolation_is_a_warning(settings, monkeypatch):
    monkeypatch.setattr(greeting, "gaps", lambda job_user: ["The account is open."])
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, runner="process", job_user="nobody")))
    assert "  Warning: The account is open.\n" in text
