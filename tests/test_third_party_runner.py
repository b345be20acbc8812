"""A runner in a distribution of its own, installed beside polyjob into a fresh virtualenv without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import JOBS, Server

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = ROOT / "tests/third_party_runner"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder without Python files, with none of this process's settings."""
    left_out = ("POLYJOB_", "COV", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    words = list(map(str, command))
    return subprocess.run(words, env=inherited | environment, cwd="/", capture_output=True, text=True, timeout=300)


def run_checked(*command: str | Path, **environment: str) -> str:
    done = run(*command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripts of a virtualenv with polyjob and the runner, both installed from wheels.

    The libraries that they need are those of the tests, because there is no network.
    """
    folder, wheels = tmp_path_factory.mktemp("virtualenv"), tmp_path_factory.mktemp("wheels")
    run_checked(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run_checked(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT, DISTRIBUTION)
    python = ("--python", folder / "bin/python")
    run_checked(*pip, *python, "install", "--no-index", "--no-deps", *sorted(wheels.glob("*.whl")))
    (site_packages,) = folder.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return folder / "bin"


@pytest.fixture(scope="module")
def server(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"runners": "process plain", "slots": "process=2 plain=1", "plain_shell": "/bin/sh", "disk_low": "0"}
    with Server(folder, command=(str(scripts / "polyjob"),), cwd=folder, **settings) as started:
        yield started


def polyjob(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, data_dir = server.command[0], str(server.data_dir)
    return run(command, *arguments, POLYJOB_DATA_DIR=data_dir, POLYJOB_RUNNERS="process plain")


def test_virtualenv_uses_the_installed_polyjob(scripts: Path) -> None:
    path = run_checked(scripts / "python", "-c", "import polyjob; print(polyjob.__file__)")
    assert Path(path).is_relative_to(scripts.parent)


def test_server_runs_a_job_on_the_runner(server: Server) -> None:
    done = polyjob(server, "run", "--backend", "plain", "echo out; echo hi > $POLYAXON_RUN_OUTPUTS_PATH/file; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    job_id = server.call("GET", JOBS).json["results"][0]["id"]
    job = json.loads(polyjob(server, "show", "--json", str(job_id)).stdout)
    assert (job["backend"], job["exit_code"], job["config"]["backend"]) == ("plain", 3, "plain")
    assert not [note for note in job["notes"] if note["kind"] == "backend"]
    assert server.call("GET", f"{JOBS}/{job_id}/outputs/files?path=file").body == b"hi\n"


def test_capabilities_of_the_runner_are_checked(server: Server) -> None:
    done = polyjob(server, "run", "--backend", "plain", "--gpu", "1", "true")
    assert done.returncode != 0
    assert "The plain runner cannot honour `environment.resources.gpu`" in done.stderr
    done = polyjob(server, "run", "--backend", "plain", "--step", "echo built > file", "cat $PLAIN_BUILD/file")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "built"), done.stderr


def test_doctor_checks_the_runner(scripts: Path, tmp_path: Path) -> None:
    settings = {"POLYJOB_DATA_DIR": str(tmp_path / "data"), "POLYJOB_RUNNERS": "plain", "POLYJOB_PLAIN_SHELL": "/none"}
    findings = json.loads(run(scripts / "polyjob", "doctor", "--json", **settings).stdout)
    (finding,) = [finding for finding in findings if finding["part"] == "runner"]
    assert finding == {
        "part": "runner",
        "ok": False,
        "text": "POLYJOB_PLAIN_SHELL=/none is not an executable program",
    }


def test_runner_passes_the_contract_suite(scripts: Path) -> None:
    output = run_checked(scripts / "python", "-m", "pytest", "-q", "-c", DISTRIBUTION / "pyproject.toml", DISTRIBUTION)
    assert " passed" in output
    assert "failed" not in output
