"""The greeting of `polyjob serve`, and the message at its end."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
        eventually(lambda: any("Ctrl-C" in line for line in server.lines))
        text = "".join(server.lines)
        token = (server.data_dir / "root-token").read_text().strip()
        assert re.search(rf"page: +http://127\.0\.0\.1:{server.port}/sign-in/[0-9a-f]{{40}} ", text)
        assert f"data:  {server.data_dir}\n" in text
        assert f"token: {server.data_dir}/root-token\n" in text
        assert token not in text
        run, submit = (line.strip() for line in server.lines if "echo hello" in line)
        output = subprocess.run(["sh", "-c", run], capture_output=True, timeout=60, check=True).stdout
        assert output == b"hello 1\nhello 2\nhello 3\n"
        job = json.loads(subprocess.run(["sh", "-c", submit], capture_output=True, timeout=30, check=True).stdout)
        assert job["id"] == 2


def test_missing_token_is_replaced_by_its_variable(settings):
    create_first_user(settings)
    (settings.data_dir / "root-token").unlink()
    text = "\n".join(greeting.greeting(settings))
    assert '-H "Authorization: token $POLYJOB_TOKEN"' in text
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
def test_greeting_says_whose_rights_jobs_have(runner, account, expected, settings, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, runner=runner, job_user=account)))
    assert expected in text
    assert ("jobs run as" in text or "jobs:  run as" in text) == bool(expected)


@pytest.mark.parametrize(("runner", "image"), [("docker", "busybox"), ("kubernetes", "registry.lan/helper:1")])
def test_first_job_runs_in_an_available_image(runner, image, settings, project, user):
    options = Options(helper_image="registry.lan/helper:1")
    settings = dataclasses.replace(settings, runner=runner, kubernetes=options)
    text = "\n".join(greeting.greeting(settings))
    assert f'"image": "{image}"' in text
    assert f" run -i {image} 'for i in" in text


def test_start_as_root_is_one_warning_with_its_cure(settings, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, runner="process")))
    assert text.count("Warning:") == 1
    assert "POLYJOB_JOB_USER=nobody" in text


def test_open_server_shows_its_addresses_and_a_tunnel(settings, monkeypatch):
    monkeypatch.setattr(greeting, "own_addresses", lambda: ["192.168.1.5", "10.0.0.3"])
    monkeypatch.setattr(greeting, "_account", lambda: "ana")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, host="0.0.0.0", port=8000)))
    assert "also:  http://192.168.1.5:8000/  (not encrypted)\n  also:  http://10.0.0.3:8000/ " in text
    assert "ssh -N -L 8000:127.0.0.1:8000 ana@192.168.1.5 " in text


def test_ssh_session_shows_a_tunnel_to_the_loopback_address(settings, monkeypatch):
    monkeypatch.setattr(greeting, "_account", lambda: "root")
    monkeypatch.setenv("SSH_CONNECTION", "192.168.1.9 50000 192.168.1.5 22")
    monkeypatch.setenv("SUDO_USER", "ana")
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, port=8000)))
    assert "ssh -N -L 8000:127.0.0.1:8000 ana@192.168.1.5 " in text
    assert "also:" not in text


@pytest.mark.parametrize(
    "change", [{}, {"host": "0.0.0.0", "public_url": "https://jobs.example.org"}], ids=["loopback", "proxy"]
)
def test_other_servers_show_no_tunnel(change, settings, monkeypatch):
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, **change)))
    assert "ssh -N" not in text
    assert "also:" not in text


def test_server_with_a_public_url_shows_its_local_address(settings):
    text = "\n".join(greeting.greeting(dataclasses.replace(settings, port=8001)))
    assert "local:" not in text
    public = dataclasses.replace(settings, port=8001, host="0.0.0.0", public_url="https://jobs.example.org")
    text = "\n".join(greeting.greeting(public))
    assert "polyjob is running on https://jobs.example.org\n" in text
    assert "\n  local: http://127.0.0.1:8001/  (on this machine)\n" in text


def test_command_line_is_short_where_a_shell_finds_it(settings, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setattr(greeting, "read_settings", lambda environ: settings)
    assert any(line.startswith("  polyjob run ") for line in greeting.greeting(settings))


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
