"""The published clients of the documented API on a real server: what people type, and the tracking client in a job."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..require import require
from .conftest import JOBS, ROOT, Server, eventually

VERSIONS = ("0.1.9", "0.4.4", "0.6.1")
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyjob-clients"
FILE = """
version: 1
kind: job
tags: [old]
build:
  image: busybox
  build_steps:
    - echo a build step
run:
  cmd: cat hello.txt && echo data > $POLYAXON_RUN_OUTPUTS_PATH/data.txt
"""
LONG = """
version: 1
kind: job
build:
  image: busybox
run:
  cmd: echo started; sleep 600
"""
TRACK = """
from polyaxon_client.tracking import Job

job = Job()
job.log_status("running", message="half way")
with open(job.get_outputs_path() + "/result", "w") as file:
    file.write("done")
print("tracked")
"""
OWN_BUILD = """
from polyaxon_client.tracking import BuildJob

build = BuildJob(project="root.quick-start", track_logs=False)
build.create(name="own", tags=["local"], content="{version: 1, kind: build, build: {image: busybox}}")
build.log_dockerfile(dockerfile="FROM busybox")
build.client.build_job.send_logs("root", "quick-start", build.job_id, ["made", "here"])
build.succeeded()
print(build.job_id)
"""
DESCRIBE = """
job.log_tags(["tracked"])
job.set_name("renamed")
job.set_description("by itself")
job.log_data_ref("content", data_name="ds")
job.log_params(lr=0.5)
job.log_backend("other")
job.log_run_env()
"""


def python_of(version: str) -> Path:
    """The client's Python; the calling test is skipped, or fails, where the client is not installed."""
    missing = FOLDER / f"{version}.missing"
    if missing.exists():
        pytest.skip(f"the client {version} {missing.read_text().strip()}")
    pins = FOLDER / version / "pins.txt"
    wanted = (ROOT / "tools" / "clients" / f"{version}.txt").read_text()
    require("clients", pins.exists() and pins.read_text() == wanted, "run tools/published-clients")
    return FOLDER / version / "bin" / "python"


class Client:
    """A published client in a home and a project folder of its own, signed in as root."""

    def __init__(self, version: str, server: Server, folder: Path) -> None:
        self.version, self.server = version, server
        self.project = f"p{version.replace('.', '')}"
        self.code = folder / "code"
        self.code.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYAXON")}
        environment |= {"HOME": str(folder), "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "COLUMNS": "200"}
        driver = [str(python_of(version)), "-W", "ignore", str(ROOT / "tests" / "e2e" / "published_client.py")]
        self.errors = (folder / "errors").open("w+")
        self.process = subprocess.Popen(
            driver,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=self.code,
            env=environment,
        )

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        self.errors.close()

    def run(self, *arguments: str) -> dict[str, Any]:
        """One command, as it ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, Path(self.errors.name).read_text()
        return json.loads(line)

    def __call__(self, *arguments: str) -> str:
        """Run a command that has to succeed, and return its output."""
        result = self.run(*arguments)
        assert result["code"] == 0, f"{self.version} {arguments}: {result}"
        assert "Could not" not in result["output"], f"{self.version} {arguments}: {result}"
        return result["output"]

    def job(self, number: int, *arguments: str) -> str:
        return self("job", "-p", self.project, "-j", str(number), *arguments)

    def build(self, number: int, *arguments: str) -> str:
        return self("build", "-p", self.project, "-b", str(number), *arguments)

    def latest(self) -> int:
        """The number of the project's newest job."""
        answer = self.server.call("GET", f"/api/v1/root/{self.project}/jobs?sort=-created_at&limit=1")
        return int(answer.json["results"][0]["id"])

    def shown(self, number: int) -> dict[str, Any]:
        """The job once it is done."""
        path = f"/api/v1/root/{self.project}/jobs/{number}?wait=30"
        return eventually(lambda: (job := self.server.call("GET", path).json)["finished_at"] and job, 120, "its end")

    def submit(self, text: str, *options: str) -> int:
        (self.code / "job.yml").write_text(text)
        self("run", "-f", "job.yml", *options)
        return self.latest()


@contextlib.contextmanager
def signed_in(version: str, server: Server, folder: Path) -> Iterator[Client]:
    client = Client(version, server, folder)
    ports = ("--http_port", "--ws_port") if version < "0.6" else ("--port",)
    try:
        client("config", "set", "--host=127.0.0.1", *(f"{option}={server.port}" for option in ports))
        client("login", f"--token={server.token}")
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_commands_of_published_clients_work(version: str, server: Server, tmp_path: Path) -> None:
    with signed_in(version, server, tmp_path) as client:
        assert "root" in client("whoami")
        client("version", "--cli")
        assert "0.6.1" in client("version", "--platform")
        assert "polyjob" in client("cluster")
        projects_are_managed(client)
        number = a_job_is_run_with_uploaded_code(client)
        a_job_is_looked_at(client, number)
        a_job_is_changed_and_bookmarked(client, number)
        a_build_is_looked_at(client, number)
        a_job_is_cloned_and_stopped(client, number)
        errors_are_short(client)


def projects_are_managed(client: Client) -> None:
    client("project", "create", f"--name={client.project}", "--description=made by an old client")
    project = client.server.call("GET", f"/api/v1/root/{client.project}").json
    assert (project["description"], project["is_public"]) == ("made by an old client", True)
    assert client.project in client("project", "list")
    assert "made by" in client("project", "-p", client.project, "get")
    assert "initialized" in client.run("init", client.project)["output"]  # 0.1.9 exits with 1 all the same


def a_job_is_run_with_uploaded_code(client: Client) -> int:
    (client.code / "hello.txt").write_text("hello from the upload\n")
    number = client.submit(FILE, "-u")
    job = client.shown(number)
    assert (job["last_status"], job["tags"]) == ("succeeded", ["old"]), job
    return number


def a_job_is_looked_at(client: Client, number: int) -> None:
    assert "succeeded" in client.job(number, "get")
    statuses = client.job(number, "statuses")
    assert all(word in statuses for word in ("created", "building", "running", "succeeded"))
    assert "hello from the upload" in client.job(number, "logs")
    assert "hello from the upload" in client.job(number, "logs", "--past")
    client.job(number, "outputs")
    with tarfile.open(client.code / f"root.{client.project}.{number}.tar.gz") as archive:
        assert archive.extractfile(f"{number}/data.txt").read() == b"data\n"  # type: ignore[union-attr]
    assert str(number) in client("project", "-p", client.project, "jobs")
    assert "succeeded" in client("project", "-p", client.project, "jobs", "-q", "status:succeeded")


def a_job_is_changed_and_bookmarked(client: Client, number: int) -> None:
    if client.version != "0.1.9":  # whose `update` fails before it sends anything
        client.job(number, "update", "--description=changed")
        assert client.shown(number)["description"] == "changed"
    client.job(number, "bookmark")
    assert client.shown(number)["bookmarked"] is True
    assert str(number) in client("bookmark", "jobs")
    client.job(number, "unbookmark")
    assert client.shown(number)["bookmarked"] is False


def a_build_is_looked_at(client: Client, number: int) -> None:
    build = int(client.shown(number)["build_job"].rpartition(".")[2])
    assert "succeeded" in client.build(build, "get")
    assert "succeeded" in client.build(build, "statuses")
    assert "a build step" in client.build(build, "logs", "--past")
    client.build(build, "bookmark")
    assert str(build) in client("bookmark", "builds")
    assert str(build) in client("project", "-p", client.project, "builds")


def a_job_is_cloned_and_stopped(client: Client, number: int) -> None:
    for arguments, strategy in ((["restart"], "restart"), (["resume"], "resume"), (["restart", "--copy"], "copy")):
        client.job(number, *arguments)
        clone = client.shown(client.latest())
        assert (clone["cloning_strategy"], clone["last_status"]) == (strategy, "succeeded"), clone
    running = client.submit(LONG)
    client.job(running, "stop", "-y")
    assert client.shown(running)["last_status"] == "stopped"
    client.job(running, "delete")
    assert client.server.call("GET", f"/api/v1/root/{client.project}/jobs/{running}").status == 404


def errors_are_short(client: Client) -> None:
    result = client.run("job", "-p", client.project, "-j", "999999", "get")
    assert "Could not get job `999999`" in result["output"]
    assert "about:blank" not in result["output"]


def tracked(version: str, server: Server, tmp_path: Path, text: str) -> dict[str, Any]:
    """A job that ran this script of the tracking client, and whose log has no refusal."""
    script = tmp_path / "track.py"
    script.write_text(text)
    job = server.until_done(server.submit(f"{python_of(version)} -W ignore {script}")["id"])
    log = server.log(job["id"]).decode()
    assert (job["last_status"], log.strip()) == ("succeeded", "tracked"), log
    return job


@pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])  # 0.1.9 tracks no jobs
def test_tracking_client_reports_and_writes_outputs(version: str, server: Server, tmp_path: Path) -> None:
    number = tracked(version, server, tmp_path, TRACK)["id"]
    outputs = tmp_path / "outputs.tar.gz"
    outputs.write_bytes(server.call("GET", f"{JOBS}/{number}/outputs").body)
    with tarfile.open(outputs) as archive:
        assert f"{number}/result" in archive.getnames()


def test_tracking_client_describes_its_job(server: Server, tmp_path: Path) -> None:
    job = tracked("0.6.1", server, tmp_path, TRACK + DESCRIBE)
    assert (job["name"], job["description"], job["tags"]) == ("renamed", "by itself", ["tracked"])
    assert re.fullmatch(r"[0-9a-f-]+", str(job["data_refs"]["ds"]))
    assert job["params"] == {"lr": 0.5}


def test_tracking_client_drives_its_own_build(server: Server, tmp_path: Path) -> None:
    with signed_in("0.6.1", server, tmp_path):  # which leaves address and token in its home
        command = [str(python_of("0.6.1")), "-W", "ignore", "-c", OWN_BUILD]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYAXON")}
        made = subprocess.run(
            command, env=environment | {"HOME": str(tmp_path)}, cwd=tmp_path, text=True, capture_output=True, timeout=60
        )
    assert (made.returncode, made.stderr) == (0, ""), made
    path = f"/api/v1/root/quick-start/builds/{int(made.stdout.split()[0])}"
    build = eventually(lambda: (build := server.call("GET", path).json)["finished_at"] and build, 30, "its end")
    assert (build["is_managed"], build["last_status"], build["tags"]) == (False, "succeeded", ["local"])
    assert server.call("GET", f"{path}/logs").body == b"made\nhere\n"
