"""The Docker Engine dies and comes back while jobs run: a private one, with its own data, socket and network."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.conftest import JOBS, Server, eventually
from tests.require import require
from tests.runners.docker_engine import engine_answers, make_images
from tests.runners.harness import IMAGE

DOCKERD = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Engine:
    """A dockerd of our own. Another network namespace keeps it from the bridge that the machine's own Engine uses."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/d.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert DOCKERD is not None
        command = ["unshare", "--net", DOCKERD, "--host", self.host, "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid"), *self._options]
        command += ["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually(self._answers, 60, "the start of the Engine")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(self.host.removeprefix("unix://"))
            line.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in line.recv(4096)
        return False

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        client = docker.APIClient(self.host, timeout=20)
        try:
            yield client
        finally:
            client.close()

    def containers(self) -> list[str]:
        with self.client() as client:
            return [item["Id"] for item in client.containers(all=True)]

    def end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def close(self) -> None:
        """No container and no process of it stays."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(Exception), self.client() as client:
                for item in self.containers():
                    client.remove_container(item, force=True)
            self.end(signal.SIGTERM)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False)
        daemon = self.folder / "exec" / "containerd" / "containerd.pid"
        if daemon.exists():
            pid = int(daemon.read_text())
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    require("docker", engine_answers() and DOCKERD is not None and os.geteuid() == 0, "no dockerd to start as root")
    options = ["--live-restore"] if request.node.callspec.params["is_live"] else []
    engine = Engine(tmp_path_factory.mktemp("e"), *options)
    try:
        engine.start()
        make_images(engine.host)
        yield engine
    finally:
        engine.close()


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, slots="4", runner="docker")
    server.environment["DOCKER_HOST"] = engine.host
    with server as started:
        yield started


def _is_said_to_be_away(server: Server, number: int) -> None:
    path = f"{JOBS}/{number}"

    def noted() -> bool:
        return "unreachable" in [note["kind"] for note in server.call("GET", path).json["notes"]]

    eventually(noted, 30, "a note")
    assert server.call("GET", path).json["last_status"] == "running"
    ready = server.call("GET", "/readyz")
    assert ready.status == 503
    assert b"docker.io" in ready.body


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(("is_live", "way"), [(True, signal.SIGKILL), (False, signal.SIGKILL), (False, signal.SIGTERM)])
def test_jobs_survive_a_restart_of_the_docker_engine(engine: Engine, server: Server, is_live: bool, way: int) -> None:
    cmd = "for i in $(seq 60); do echo $i; sleep 0.2; done; echo end > $POLYAXON_RUN_OUTPUTS_PATH/f; exit 5"
    jobs = [server.submit(cmd, build={"image": IMAGE}) for _ in range(2)]
    for job in jobs:
        eventually(lambda number=job["id"]: server.log(number).startswith(b"1\n2\n"), 30, "its log")
    assert len(engine.containers()) == 2
    engine.end(way)
    if way == signal.SIGKILL:
        _is_said_to_be_away(server, jobs[0]["id"])
    engine.start()
    for job in jobs:
        ended = server.until_done(job["id"])
        assert ended["last_status"] == "failed"
        assert not ended["notes"]
        log = server.log(job["id"])
        assert server.statuses(job["id"]).count("running") == 1
        if is_live:
            assert ended["exit_code"] == 5
            assert log == b"".join(b"%d\n" % number for number in range(1, 61))
        else:
            statuses = server.call("GET", f"{JOBS}/{job['id']}/statuses").body
            assert re.search(rb"the Docker Engine (was|when it was) stopped", statuses, re.IGNORECASE)
            assert log.startswith(b"1\n2\n")
    assert engine.containers() == []
