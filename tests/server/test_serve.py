"""`polyjob serve` and a bare gunicorn: how they start, what they say, and that nothing of them is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from peewee import OperationalError

from polyjob.cli import main
from polyjob.clock import now
from polyjob.db.database import open_database, write
from polyjob.db.models import Job
from polyjob.engine_link import EngineLock
from polyjob.server import serve, supervisor
from polyjob.server.bootstrap import check, first_start, warnings
from polyjob.settings import SettingError, read_settings
from runners.kubernetes.options import Options
from tests.e2e import conftest
from tests.e2e.conftest import eventually
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(sys.executable).with_name("polyjob"))


class Server(conftest.Server):
    def _read(self, process):
        with process.stdout:
            super()._read(process)


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path, runner="fake") as started:
        yield started


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(server):
    with contextlib.suppress(OSError):
        return server.call("GET", "/healthz").status == 200
    return False


# The terminal


def test_the_first_start_says_all_that_a_newcomer_needs(tmp_path):
    require("curl", shutil.which("curl") is not None)
    with Server(tmp_path) as server:
        eventually(lambda: len([line for line in server.lines if "curl" in line]) == 2)
        text = "".join(server.lines)
        key = (server.data_dir / "root-token").read_text().strip()
        assert re.search(rf"page: +http://127\.0\.0\.1:{server.port}/sign-in/[0-9a-f]{{40}} ", text)
        assert f"data:  {server.data_dir}\n" in text
        assert f"token: {server.data_dir}/root-token\n" in text
        submit, follow = (line.strip() for line in server.lines if "curl" in line)
        assert key in submit
        assert re.search(r"jobs:  run as \S+, as the server does: ", text)
        job = json.loads(subprocess.run(["sh", "-c", submit], capture_output=True, timeout=30, check=True).stdout)
        assert job["id"] == 1
        log = subprocess.run(["sh", "-c", follow], capture_output=True, timeout=60, check=True).stdout
        assert log == b"hello 1\nhello 2\nhello 3\n"


def test_the_greeting_tells_the_number_of_the_next_job(settings, project, user):
    first_start(settings)
    moment = now()
    with write("test"):
        Job.insert(
            id=41, uuid="a" * 32, project=project, user=user, runner="fake", created_at=moment, updated_at=moment
        ).execute()
        Job.delete().execute()
    lines = serve.greeting(settings)
    assert lines[-3].endswith("/jobs/42/logs?follow=true'")


def test_without_the_token_s_file_the_lines_take_a_variable(settings):
    first_start(settings)
    (settings.data_dir / "root-token").unlink()
    text = "\n".join(serve.greeting(settings))
    assert text.count('-H "Authorization: token $POLYJOB_TOKEN"') == 2
    assert "put yours into POLYJOB_TOKEN" in text


def test_without_the_user_there_is_no_link(settings):
    text = "\n".join(serve.greeting(settings))
    assert f"page:  {settings.url}/\n" in text


@pytest.mark.parametrize(
    ("runner", "account", "said"),
    [
        ("process", "", "who may submit may do all that"),
        ("process", "nobody", "jobs:  run as nobody\n"),
        ("fake", "", ""),
    ],
)
def test_the_greeting_says_whose_rights_jobs_have(runner, account, said, settings):
    text = "\n".join(serve.greeting(dataclasses.replace(settings, runner=runner, job_user=account)))
    assert said in text
    assert ("jobs:" in text) == bool(said)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, []),
        (1, ["1 job runs on; the next start takes it up again."]),
        (2, ["2 jobs run on; the next start takes them up again."]),
    ],
)
def test_the_end_says_how_many_jobs_run_on(number, said, settings, project, user):
    moment = now()
    common = {"project": project, "user": user, "runner": "fake", "created_at": moment, "updated_at": moment}
    rows = [{"uuid": f"{index:032x}", "status": "running", **common} for index in range(number)]
    rows.append({"uuid": "e" * 32, "status": "created", **common})
    with write("test"):
        for row in rows:
            Job.insert(**row).execute()
        Job.insert(uuid="f" * 32, status="running", exit={"code": 0}, **common).execute()
    heard = []
    serve.say_what_runs_on(settings, heard.append)
    open_database(settings.data_dir)
    assert heard == said


def test_the_end_says_nothing_of_a_folder_that_is_gone(settings, tmp_path):
    heard = []
    serve.say_what_runs_on(dataclasses.replace(settings, data_dir=tmp_path / "gone"), heard.append)
    assert heard == []


def test_what_is_no_text_is_shown_all_the_same(capsys):
    serve.say("folder \udcff")
    assert capsys.readouterr().out == "folder \\udcff\n"


# Bad days: one line and exit code 1


def fails(*arguments, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
    command = [sys.executable, "-m", "polyjob", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=clean | environ)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_wrong_setting(tmp_path):
    line = fails("serve", "--data-dir", str(tmp_path), POLYJOB_SLOTS="many")
    assert line == "polyjob: POLYJOB_SLOTS='many' is not valid: expected a whole number, 1 or more"


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize(
    ("variable", "text", "takes"),
    [("RUNNER", "abacus", "process, docker, kubernetes"), ("LOG_LEVEL", "loud", "debug, info, warning, error")],
)
def test_a_setting_that_names_what_does_not_exist(verb, variable, text, takes, tmp_path):
    line = fails(verb, "--data-dir", str(tmp_path / "data"), **{f"POLYJOB_{variable}": text, "POLYJOB_PORT": "0"})
    assert line == f"polyjob: POLYJOB_{variable}={text!r} is not valid: expected one of: {takes}"
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert line == f"polyjob: cannot listen on 127.0.0.1:{port}: the port is taken; choose another with --port"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_a_data_folder_that_cannot_be_made(verb, tmp_path):
    (tmp_path / "file").write_text("")
    port = ["--port", "0"] if verb == "serve" else []
    line = fails(verb, *port, "--data-dir", str(tmp_path / "file" / "data"))
    assert line == f"polyjob: the data folder '{tmp_path}/file/data' cannot be used: Not a directory"


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_a_data_folder_with_a_path_that_is_too_long(verb, tmp_path):
    folder = tmp_path.joinpath(*["long" * 50] * 4)
    port = ["--port", "0"] if verb == "serve" else []
    line = fails(verb, *port, "--data-dir", str(folder))
    size = len(str(folder))
    assert line.endswith(f"long' cannot be used: its path has {size} bytes, and SQLite takes 493 at most")


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_a_database_that_is_none(verb, tmp_path):
    (tmp_path / "polyjob.db").write_bytes(b"no database at all\n" * 100)
    port = ["--port", "0"] if verb == "serve" else []
    line = fails(verb, *port, "--data-dir", str(tmp_path))
    assert line == f"polyjob: the data folder '{tmp_path}' cannot be used: file is not a database"


@pytest.mark.parametrize(("runner", "image"), [("docker", '"busybox"'), ("kubernetes", '"registry.lan/helper:1"')])
def test_suggested_job_runs_in_an_image_that_is_there(runner, image, settings, project, user):
    """Of a cluster without a network: the one that the pods of all jobs need."""
    options = Options(helper_image="registry.lan/helper:1")
    told = dataclasses.replace(settings, runner=runner, kubernetes=options)
    assert f'"image": {image}' in "\n".join(serve.greeting(told))


def test_a_full_disk_while_the_greeting_is_made(settings, monkeypatch):
    def fill_up(settings):
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(serve, "greeting", fill_up)
    with pytest.raises(serve.CannotServe, match=r"cannot be used: database or disk is full$"):
        serve.run(dataclasses.replace(settings, port=0))


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_a_database_of_a_newer_polyjob(verb, data_dir):
    with contextlib.closing(sqlite3.connect(data_dir / "polyjob.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    port = ["--port", "0"] if verb == "serve" else []
    assert "install a newer polyjob" in fails(verb, *port, "--data-dir", str(data_dir))


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_a_folder_where_another_engine_works(verb, data_dir):
    lock = EngineLock(data_dir)
    lock.acquire()
    try:
        port = ["--port", "0"] if verb == "serve" else []
        line = fails(verb, *port, "--data-dir", str(data_dir))
    finally:
        lock.release()
    assert line == f"polyjob: an engine already works on {data_dir}: process {os.getpid()}"


@pytest.mark.parametrize(
    ("host", "reason"), [("203.0.113.7", "this machine has no such address"), ("no such host", "")]
)
def test_an_address_that_is_not_ours(host, reason, settings):
    with pytest.raises(serve.CannotServe, match=f"^cannot listen on {host}:0: {reason}"):
        serve.listen(dataclasses.replace(settings, host=host, port=0))


def test_an_address_of_the_sixth_version(settings):
    try:
        listener = serve.listen(dataclasses.replace(settings, host="::1", port=0))
    except serve.CannotServe:
        require("IPv6", False)
    with listener:
        assert listener.family == socket.AF_INET6


def test_help_names_the_commands_that_are_for_people():
    shown = CliRunner().invoke(main, ["--help"]).output
    assert "serve" in shown
    assert "engine" in shown
    assert "helper" not in shown


# Life and death


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_peace(number, server):
    parts = [*server.engine_pids(), *server.web_pids()]
    assert len(parts) == 4
    server.process.send_signal(number)
    assert server.process.wait(20) == 0
    assert not any(is_alive(pid) for pid in parts)


def test_the_end_never_waits_for_a_follower_nor_takes_more_than_the_setting_allows(tmp_path):
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


def test_the_terminal_s_keys_reach_the_parent_alone(server):
    groups = {os.getpgid(pid) for pid in [*server.engine_pids(), *server.web_pids()]}
    assert os.getpgid(server.process.pid) not in groups


def test_kill_9_of_the_parent_ends_its_children(server):
    parts = [*server.engine_pids(), *server.web_pids()]
    server.process.kill()
    server.process.wait(10)
    eventually(lambda: not any(is_alive(pid) for pid in parts), 15, "their end")


@pytest.mark.parametrize("victim", ["engine", "web"])
def test_a_dead_child_is_started_again(victim, server):
    find = {"engine": server.engine_pids, "web": lambda: server.web_pids()[:1]}[victim]
    (before,) = find()
    os.kill(before, signal.SIGKILL)
    eventually(lambda: find() and find() != [before], what="the new one")
    eventually(lambda: answers(server), what="an answer")


def test_a_second_server_on_the_folder_is_refused(server):
    line = fails("serve", "--port", "0", "--data-dir", str(server.data_dir))
    assert line == f"polyjob: a server already works on '{server.data_dir}': process {server.process.pid}"


def test_of_two_servers_that_start_at_once_one_is_refused(tmp_path):
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
        assert error == f"polyjob: a server already works on '{tmp_path}/data': process {winner.pid}\n"
        line = winner.stdout.readline()
        assert line.startswith("polyjob serves on "), line
    finally:
        for process in both:
            process.terminate()
            process.communicate(timeout=30)
    assert winner.returncode == 0


def test_more_of_ctrl_c_does_no_harm(server):
    def press():
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGINT)
        time.sleep(0.005)
        return server.process.poll() is not None

    eventually(press, 20, "the end")
    assert server.process.returncode == 0


def test_while_another_engine_works_on_the_folder_the_server_s_own_waits(server, tmp_path):
    theirs = dataclasses.replace(read_settings({}), data_dir=server.data_dir)
    assert not supervisor.engine_may_start(theirs)
    assert supervisor.engine_may_start(dataclasses.replace(theirs, data_dir=tmp_path / "none"))
    assert supervisor.engine_may_start(dataclasses.replace(theirs, data_dir=server.data_dir / "polyjob.db"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_gunicorn_alone_brings_an_engine_that_ends_with_it(number, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(tmp_path, runner="fake", port=str(port), data_dir=str(tmp_path / "data"))
    server.port = port
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    server.process = subprocess.Popen(command, cwd=ROOT, env=server.environment, start_new_session=True)
    try:
        engine = eventually(lambda: engine_of(server.data_dir), 30, "the engine")
        server.token = (server.data_dir / "root-token").read_text().strip()
        eventually(lambda: answers(server), 30, "an answer")
        assert engine not in server.engine_pids()
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: engine_of(server.data_dir) not in (None, engine), 30, "another engine")
        engine = engine_of(server.data_dir)
        assert engine
        assert is_alive(engine)
        server.process.send_signal(number)
        server.process.wait(20)
        eventually(lambda: not is_alive(engine), 20, "its end")
        eventually(lambda: helpers_of(server.process.pid) == [], 20, "the helper's end")
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)


def engine_of(data_dir):
    from polyjob.engine_link import engine_pid

    return engine_pid(data_dir) if data_dir.exists() else None


def helpers_of(pid):
    wanted = f"-m\0polyjob\0helper\0{pid}\0".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and wanted in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return [number for number in found if is_alive(number)]


def test_gunicorn_alone_says_in_one_line_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    for environ, said in [
        ({"POLYJOB_DATA_DIR": str(tmp_path / "file" / "data"), "POLYJOB_PORT": "0"}, "the data folder"),
        ({"POLYJOB_THREADS": "0"}, "POLYJOB_THREADS='0' is not valid"),
        ({"POLYJOB_RUNNER": "abacus", "POLYJOB_PORT": "0"}, "POLYJOB_RUNNER='abacus' is not valid"),
    ]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=os.environ | environ)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"polyjob: {said}")


# The folder that the server is started in


EVIL = "import os; open({marker!r}, 'a').write(__name__ + ' ')"


def test_gunicorn_alone_refuses_to_speak_tls(tmp_path):
    (tmp_path / "pem").write_text("")
    files = ["--certfile", str(tmp_path / "pem"), "--keyfile", str(tmp_path / "pem")]
    environ = os.environ | {"POLYJOB_DATA_DIR": str(tmp_path / "data"), "POLYJOB_PORT": "0"}
    command = [sys.executable, "-m", "gunicorn", "wsgi:app", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ)
    assert done.returncode == 1
    assert "the server speaks no TLS" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.fixture
def start_folder(tmp_path):
    """A folder of somebody else's, with modules that say when they are imported."""
    folder = tmp_path / "start"
    folder.mkdir()
    marker = tmp_path / "imported"
    for name in ("json", "flask", "gunicorn", "types", "socket", "polyjob", "runners", "wsgi", "sitecustomize"):
        (folder / f"{name}.py").write_text(EVIL.format(marker=str(marker)))
    (folder / "gunicorn.conf.py").write_text(EVIL.format(marker=str(marker)))
    return folder, marker


def test_nothing_is_imported_from_the_working_folder(start_folder, tmp_path):
    folder, marker = start_folder
    with Server(tmp_path, command=[PROGRAM], cwd=folder) as server:
        assert server.until_done(server.submit("true")["id"])["last_status"] == "succeeded"
        assert not marker.exists(), marker.read_text()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_working_folder_may_be_removed(when, tmp_path):
    folder = tmp_path / "start"
    folder.mkdir()
    prefix = ["sh", "-c", f'rmdir {folder}; exec "$0" "$@"'] if when == "before" else []
    with Server(tmp_path, runner="fake", command=[*prefix, PROGRAM], cwd=folder) as server:
        if when == "after":
            folder.rmdir()
        arbiter = server.web_pids()[0]
        os.kill(arbiter, signal.SIGKILL)
        eventually(lambda: server.web_pids() and arbiter not in server.web_pids(), 20, "another web server")
        eventually(lambda: answers(server), 20, "its answer")


def test_relative_paths_of_the_environment_reach_children_as_absolute(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", f"a.yml{os.pathsep}/b.yml{os.pathsep}/gone/../c.yml")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}lib")
    environ = supervisor.child_environment(settings)
    assert environ["KUBECONFIG"] == f"{tmp_path}/a.yml{os.pathsep}/b.yml{os.pathsep}/c.yml"
    assert environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}{tmp_path}/lib"


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize("name", ["line\nfeed", "tab\t", "escape\x1b[31m", "delete\x7f"])
def test_a_data_folder_with_a_control_character_is_refused(verb, name, tmp_path):
    port = ["--port", "0"] if verb == "serve" else []
    line = fails(verb, *port, "--data-dir", str(tmp_path / name))
    assert line.endswith("cannot be used: its path has a control character")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize("name", ["a:b", ":", "a:b/c"])
def test_data_folder_that_would_split_path_is_refused(verb, name, tmp_path):
    port = ["--port", "0"] if verb == "serve" else []
    line = fails(verb, *port, "--data-dir", str(tmp_path / name))
    assert line.endswith(": its path has a `:`, which would split the PATH of builds; choose a folder without one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runner", ["docker", "kubernetes", "fake"])
def test_runner_without_virtualenvs_takes_a_data_folder_with_a_colon(runner, settings, tmp_path):
    check(dataclasses.replace(settings, runner=runner, data_dir=tmp_path / "a:b"))


def test_a_relative_data_folder_below_a_removed_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "start").rmdir()
    with pytest.raises(SettingError, match="POLYJOB_DATA_DIR='data' is not valid"):
        read_settings({"POLYJOB_DATA_DIR": "data"})


@pytest.mark.parametrize("folder", ["data", "../data", "~no-such-user/data"])
@pytest.mark.parametrize("verb", [["serve", "--port", "0"], ["engine"], ["gc"], ["abandon", "1"]])
def test_a_folder_that_cannot_be_made_absolute_is_refused(verb, folder, tmp_path, monkeypatch):
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "start").rmdir()
    result = CliRunner().invoke(main, [*verb, "--data-dir", folder])
    assert result.exit_code == 1
    assert result.output == f"polyjob: --data-dir: {folder!r} cannot be made absolute; give an absolute path\n"


def test_a_port_that_becomes_free_is_waited_for(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        timer = threading.Timer(0.5, taken.close)
        timer.start()
        with serve.listen(dataclasses.replace(settings, port=port)) as listener:
            assert listener.getsockname()[1] == port
        timer.join()


@pytest.mark.parametrize(
    ("euid", "runner", "account", "warned"),
    [(0, "process", "", True), (0, "process", "nobody", False), (1000, "process", "", False), (0, "docker", "", False)],
)
def test_jobs_as_root_are_warned_of(euid, runner, account, warned, settings, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    found = warnings(dataclasses.replace(settings, runner=runner, job_user=account))
    assert [("POLYJOB_JOB_USER" in text) for text in found] == [True] * warned


def test_a_full_disk_lets_the_server_start(settings, monkeypatch, capsys):
    def fill_up():
        raise OperationalError("database or disk is full")

    first_start(settings)
    monkeypatch.setattr(serve, "new_sign_in_key", fill_up)
    text = "\n".join(serve.greeting(settings))
    assert f"page:  {settings.url}/\n" in text
    (settings.data_dir / "address.part").mkdir()
    with serve._known_address(settings):
        pass
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [
        " no sign-in link could be made",
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


@pytest.mark.parametrize("host", HOSTS)
def test_links_and_forms_work_under_any_host(host, server):
    server.submit("true")
    server.submit("true")
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


# Children


def test_the_pause_doubles_up_to_a_limit_and_a_long_life_forgives(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    child = supervisor.Child("it", [sys.executable, "-c", ""], os.environ)
    pauses = []
    for lived in [0, 1, 1, 1, 1, 1, 1, 1, 9.9, 10, 0]:
        assert child.tend() is None
        _, status = os.waitpid(child.pid, 0)
        clock[0] += lived
        said = child.died(status)
        pauses.append(child.tend())
        clock[0] += pauses[-1]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 0.1, 0.2])
    assert said == "it ended with exit code 0; it starts again in 0.2 s"


def test_a_child_that_cannot_start_is_tried_again_later():
    child = supervisor.Child("it", ["/no/such/program"], os.environ)
    assert child.tend() == pytest.approx(0.1)
    child.signal(signal.SIGTERM)
    assert child.pid is None


PARENT = """
import ctypes, os, sys, threading, time
from polyjob.server import supervisor as helper

assert ctypes.CDLL(None).prctl(36, 1) == 0  # child subreaper: orphans come here, as they come to process 1
helper.END_LIMIT = 0.5
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
children = [
    helper.Child("orphans", ["sh", "-c", "(true & true &) ; exec sleep 60"], os.environ),
    helper.Child("stubborn", [sys.executable, "-c", stubborn], os.environ),
]
helper.end_children.__defaults__ = (0.5,)
reading, writing = os.pipe()

def look():
    time.sleep(1.5)
    found = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    states = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] for pid in found]
    print(len(found), "Z" in states, flush=True)
    os.close(writing)

threading.Thread(target=look).start()
helper.tend(children, print, until=reading)
"""


def test_orphans_are_reaped_and_the_stubborn_killed():
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1", "2 False"]
