"""`polyjob serve`: start, end, crashes of its parts, and the folder it is started in."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from peewee import OperationalError

from polyjob.server import greeting, serve
from polyjob.server.bootstrap import create_first_user
from tests.e2e.conftest import ROOT, Server, eventually
from tests.server.helpers import PROGRAM, error_line, is_alive, is_healthy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_all_processes(number, server):
    parts = [*server.engine_pids(), *server.web_pids()]
    assert len(parts) == 4
    server.process.send_signal(number)
    assert server.process.wait(20) == 0
    assert not any(is_alive(pid) for pid in parts)


def test_log_followers_do_not_delay_the_end(tmp_path):
    server = Server(tmp_path, workers="1", followers="1")
    with server:
        number = server.submit("echo begun; sleep 4")["id"]
        server.until(number, "running")
        address = f"/api/v1/root/quick-start/jobs/{number}/logs?follow=true"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", address, headers={"Authorization": f"token {server.token}"})
        response = connection.getresponse()
        assert response.readline() == b"begun\n"
        assert server.call("GET", address).status == 503
        begun = time.monotonic()
        assert server.interrupt() == 0
        assert time.monotonic() - begun < 5
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        connection.close()
        server.process = None
        server.lines.clear()
        server.start()
        assert server.until_done(number)["last_status"] == "succeeded"


def test_ctrl_c_reaches_only_the_parent(server):
    groups = {os.getpgid(pid) for pid in [*server.engine_pids(), *server.web_pids()]}
    assert os.getpgid(server.process.pid) not in groups


def test_killed_parent_ends_its_children(server):
    parts = [*server.engine_pids(), *server.web_pids()]
    server.process.kill()
    server.process.wait(10)
    eventually(lambda: not any(is_alive(pid) for pid in parts), 15, "the end of the children")


@pytest.mark.parametrize("victim", ["engine", "web"])
def test_dead_child_is_restarted(victim, server):
    find = {"engine": server.engine_pids, "web": lambda: server.web_pids()[:1]}[victim]
    (before,) = find()
    os.kill(before, signal.SIGKILL)
    eventually(lambda: find() and find() != [before], what="the restart")
    eventually(lambda: is_healthy(server), what="the health check")


def test_second_server_is_refused(server):
    line = error_line("serve", "--port", "0", "--data-dir", str(server.data_dir))
    who = f"process {server.process.pid} at http://127.0.0.1:{server.port}"
    advice = "Stop it first, or choose another folder with --data-dir"
    assert line == f"polyjob: a server already works on '{server.data_dir}': {who}. {advice}"


def test_one_of_two_simultaneous_starts_is_refused(tmp_path):
    command = [sys.executable, "-m", "polyjob", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    environ = os.environ | {"POLYJOB_RUNNER": "fake"}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, cwd=ROOT)
        for _ in range(2)
    ]
    try:
        eventually(lambda: any(process.poll() is not None for process in both), 30, "the end of one")
        (refused,) = (process for process in both if process.poll() is not None)
        (winner,) = (process for process in both if process is not refused)
        out, error = refused.communicate(timeout=10)
        assert (refused.returncode, out) == (1, "")
        assert error.startswith(f"polyjob: a server already works on '{tmp_path}/data': process {winner.pid}")
        line = winner.stdout.readline()
        assert line.startswith("polyjob is running on "), line
    finally:
        for process in both:
            process.terminate()
            process.communicate(timeout=30)
    assert winner.returncode == 0


def test_repeated_ctrl_c_ends_the_server_once(server):
    def press():
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGINT)
        time.sleep(0.005)
        return server.process.poll() is not None

    eventually(press, 20, "the end")
    assert server.process.returncode == 0


RECORD_IMPORT = "import os; open({marker!r}, 'a').write(__name__ + ' ')"


@pytest.fixture
def start_folder(tmp_path):
    """A folder with modules that record that they were imported."""
    folder = tmp_path / "start"
    folder.mkdir()
    marker = tmp_path / "imported"
    for name in ("json", "flask", "gunicorn", "types", "socket", "polyjob", "runners", "wsgi", "sitecustomize"):
        (folder / f"{name}.py").write_text(RECORD_IMPORT.format(marker=str(marker)))
    (folder / "gunicorn.conf.py").write_text(RECORD_IMPORT.format(marker=str(marker)))
    return folder, marker


def test_working_folder_is_not_imported_from(start_folder, tmp_path):
    folder, marker = start_folder
    with Server(tmp_path, command=[PROGRAM], cwd=folder) as server:
        assert server.until_done(server.submit("true")["id"])["last_status"] == "succeeded"
        assert not marker.exists(), marker.read_text()


@pytest.mark.parametrize("when", ["before", "after"])
def test_working_folder_may_be_removed(when, tmp_path):
    folder = tmp_path / "start"
    folder.mkdir()
    prefix = ["sh", "-c", f'rmdir {folder}; exec "$0" "$@"'] if when == "before" else []
    with Server(tmp_path, runner="fake", command=[*prefix, PROGRAM], cwd=folder) as server:
        if when == "after":
            folder.rmdir()
        arbiter = server.web_pids()[0]
        os.kill(arbiter, signal.SIGKILL)
        eventually(lambda: server.web_pids() and arbiter not in server.web_pids(), 20, "another web server")
        eventually(lambda: is_healthy(server), 20, "its answer")


def test_full_disk_does_not_prevent_the_start(settings, monkeypatch, capsys):
    def fill_up():
        raise OperationalError("database or disk is full")

    create_first_user(settings)
    monkeypatch.setattr(greeting, "new_sign_in_token", fill_up)
    text = "\n".join(greeting.greeting(settings))
    assert f"page:  {settings.url}/\n" in text
    (settings.data_dir / "address.part").mkdir()
    with serve.published_address(settings):
        pass
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [
        " no sign-in link could be created",
        " commands on this machine need POLYJOB_URL",
    ]


HOSTS = {
    "job_server:8000": "http://job_server:8000",
    "xn--wgv71a119e.jp": "http://xn--wgv71a119e.jp",
    "[fe80::1%25eth0]:8000": "http://[fe80::1%25eth0]:8000",
    "Jobs.Example.Org:80": "http://jobs.example.org",
    "日本.jp".encode().decode("latin-1"): "",
    "a b": "",
    "host:port": "",
    "a/b": "",
}


@pytest.fixture(scope="module")
def server_with_jobs(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("hosts"), runner="fake") as server:
        server.submit("true")
        server.submit("true")
        yield server


@pytest.mark.parametrize("host", HOSTS)
def test_links_and_forms_work_with_any_host_name(host, server_with_jobs):
    server = server_with_jobs
    answer = server.call("GET", "/api/v1/root/quick-start/jobs?limit=1", Host=host)
    assert answer.status == 200
    assert answer.json["next"] == f"{HOSTS[host]}/api/v1/root/quick-start/jobs?limit=1&offset=1"
    if HOSTS[host]:
        form = server.call("GET", "/sign-in", Host=host, Accept="text/html")
        token = re.search(rb'name="csrf_token" value="(\w+)"', form.body)[1].decode()
        sent = f"csrf_token={token}&key={server.token}".encode()
        headers = {"Host": host, "Origin": HOSTS[host], "Cookie": form.headers["Set-Cookie"].partition(";")[0]}
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        assert server.call("POST", "/sign-in", sent, **headers, **kind).status == 303
