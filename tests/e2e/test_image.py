"""polyjob's own image: built without a network, and running jobs in containers beside it on the same Engine."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from runners import RUNNERS
from tests.e2e.conftest import ROOT, eventually
from tests.e2e.debian import can_be_made, make_base
from tests.require import require, require_long_run
from tests.runners.docker_engine import engine_answers, make_images
from tests.runners.harness import IMAGE

PARTS = ("polyjob", "runners", "templates", "pyproject.toml", "requirements.lock", "README.md", "Dockerfile")
SOCKET = Path("/var/run/docker.sock")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    require_long_run("building polyjob's image downloads Debian's packages and takes minutes")
    require("docker", engine_answers() and can_be_made() and SOCKET.exists(), "no local Engine, or no Debian packages")
    make_images()
    client = docker.APIClient(timeout=600)
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("image")
    name = f"polyjob-test-{uuid.uuid4().hex[:12]}"
    make_base(engine, folder, f"{name}:base")
    wheels, lock = folder / "wheels", folder / "runs.lock"
    lock.write_text((ROOT / "requirements.lock").read_text().partition("# Dependencies of the tests")[0])
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(lock), "-d", str(wheels)]
    subprocess.run(command, check=True)
    lines: list[dict[str, Any]] = []
    try:
        messages = engine.build(
            fileobj=_context(wheels), custom_context=True, buildargs={"BASE": f"{name}:base"}, tag=f"{name}:1",
            rm=True, decode=True, network_mode="none",
        )  # fmt: skip
        lines += messages
        assert "error" not in lines[-1], "".join(line.get("stream", "") for line in lines)[-3000:] + str(lines[-1])
        yield f"{name}:1"
    finally:
        layers = [line["stream"][6:18] for line in lines if line.get("stream", "").startswith(" ---> ")]
        for tag in ("1", "base"):
            with contextlib.suppress(docker.errors.APIError):
                engine.remove_image(f"{name}:{tag}", force=True)
        for layer in reversed(layers):  # layers of the first stage have no name
            with contextlib.suppress(docker.errors.APIError):
                engine.remove_image(layer)


def _context(wheels: Path) -> io.BytesIO:
    """Copy the files of the checkout, and the wheels."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in PARTS:
            archive.add(ROOT / name, name, filter=lambda member: None if "__pycache__" in member.name else member)
        archive.add(wheels, "wheels")
    out.seek(0)
    return out


class Contained:
    """A server in a container; several of them in a row share one volume."""

    def __init__(self, engine: Any, image: str) -> None:
        self.engine, self.image = engine, image
        self.volume = f"polyjob-test-{uuid.uuid4().hex[:12]}"
        self.container = ""

    def start(self) -> None:
        config = self.engine.create_host_config(
            binds=[f"{self.volume}:/data", f"{SOCKET}:{SOCKET}"], group_add=[str(SOCKET.stat().st_gid)], init=True
        )
        self.container = self.engine.create_container(self.image, host_config=config)["Id"]
        self.engine.start(self.container)
        eventually(lambda: self.health() == "healthy", 90, "its health")

    def health(self) -> str:
        return str(self.engine.inspect_container(self.container)["State"]["Health"]["Status"])

    def stop(self) -> None:
        self.engine.stop(self.container, timeout=20)
        assert self.engine.inspect_container(self.container)["State"]["ExitCode"] == 0
        self.engine.remove_container(self.container)

    def polyjob(self, *arguments: str) -> tuple[int, bytes]:
        made = self.engine.exec_create(self.container, ["polyjob", *arguments])
        output: bytes = self.engine.exec_start(made["Id"])
        return int(self.engine.exec_inspect(made["Id"])["ExitCode"]), output

    def close(self) -> None:
        self.engine.remove_container(self.container, force=True)
        self.engine.remove_volume(self.volume, force=True)


@pytest.mark.parametrize("runner", ["process", "docker", "kubernetes"])
def test_image_has_the_dependencies_of_all_runners(engine: Any, image: str, runner: str) -> None:
    code = f"import {RUNNERS[runner].partition(':')[0]}"
    made = engine.create_container(image, ["python", "-c", code])["Id"]
    try:
        engine.start(made)
        assert engine.wait(made)["StatusCode"] == 0, engine.logs(made).decode()
    finally:
        engine.remove_container(made, force=True)


def test_jobs_outlive_the_container_of_polyjob(engine: Any, image: str) -> None:
    server = Contained(engine, image)
    try:
        server.start()
        assert engine.inspect_image(image)["Config"]["User"] == "10001:10001"
        ran = server.polyjob("run", "--quiet", "-i", IMAGE, "--step", "echo made > /made", "--", "cat /made; exit 7")
        assert ran == (7, b"made\n")
        cmd = "for i in $(seq 40); do echo $i; sleep 0.25; done; echo end > $POLYAXON_RUN_OUTPUTS_PATH/f"
        code, number = server.polyjob("run", "--quiet", "--detach", "-i", IMAGE, "--", cmd)
        assert code == 0
        eventually(lambda: b"3\n" in server.polyjob("logs", number.decode().strip())[1], 30, "its log")
        server.stop()
        time.sleep(1)
        server.start()
        assert server.polyjob("wait", "--quiet", number.decode().strip())[0] == 0
        log = b"".join(b"%d\n" % line for line in range(1, 41))
        assert server.polyjob("logs", number.decode().strip()) == (0, log)
        assert server.polyjob("outputs", number.decode().strip(), "f") == (0, b"end\n")
        shown = json.loads(server.polyjob("doctor", "--json")[1])
        assert all(part["ok"] for part in shown), shown
    finally:
        server.close()
