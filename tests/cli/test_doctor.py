"""`polyjob doctor`."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runners
from polyjob.cli import doctor
from polyjob.cli.client import Client
from polyjob.settings import Settings, read_settings
from runners.process import isolation
from runners.registry import UnusableRunner
from tests.cli.helpers import invoke, json_of, polyjob
from tests.e2e.conftest import Server

GAP = "The account is open."


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **environment: read_settings({"POLYJOB_DATA_DIR": str(tmp_path), **environment})


def findings(settings: Settings) -> list[tuple[str, bool | None]]:
    return [(part, ok) for part, ok, _ in doctor.check_data_folder(settings) if part != "data folder"]


def test_gap_of_the_isolation_is_reported(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "gaps", lambda job_user: [GAP])
    monkeypatch.setattr(isolation, "gaps_between_jobs", lambda: ["Memory is open."])
    results = findings(settings(POLYJOB_JOB_USER="nobody"))
    assert results[:3] == [("isolation", True), ("isolation", False), ("isolation", None)]


@pytest.mark.parametrize(("python", "ok"), [("/missing/python", False), ("/bin/false", False), ("", True)])
def test_python_that_cannot_build_is_reported(settings: Callable[..., Settings], python: str, ok: bool) -> None:
    assert ("build python", ok) in findings(settings(POLYJOB_PYTHON=python))


def test_missing_folder_of_a_volume_is_reported(settings: Callable[..., Settings], tmp_path: Path) -> None:
    outside = tmp_path.parent / "data"
    text = f"data={outside}:ro"
    assert ("volumes", False) in findings(settings(POLYJOB_VOLUMES=text))
    assert ("volumes", None) in findings(settings(POLYJOB_VOLUMES=text, POLYJOB_RUNNER="docker"))
    assert ("volumes", True) in findings(settings(POLYJOB_VOLUMES=f"data={tmp_path}:ro"))


class TestWithoutServer:
    """The command checks the runner itself."""

    @pytest.fixture
    def free_port(self) -> Iterator[int]:
        """A port that is bound but not listened on."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            yield bound.getsockname()[1]

    @pytest.fixture
    def check_runner(self, tmp_path: Path, free_port: int) -> Callable[..., list[tuple[bool, str]]]:
        def check(**environment: str) -> list[tuple[bool, str]]:
            here = {"POLYJOB_DATA_DIR": str(tmp_path / "data"), "POLYJOB_PORT": str(free_port)}
            result = invoke("doctor", "--json", **here | environment)
            assert result.exit_code == 1
            assert not (tmp_path / "data").exists()
            results = [finding for finding in json.loads(result.output) if finding["part"] == "runner"]
            return [(finding["ok"], finding["text"]) for finding in results]

        return check

    @pytest.mark.parametrize(
        ("environment", "text"),
        [
            ({"POLYJOB_RUNNER": "docker", "DOCKER_HOST": "unix:///missing.sock"}, "Docker Engine cannot be reached"),
            ({"POLYJOB_RUNNER": "docker", "DOCKER_HOST": "tcp://127.0.0.1:1"}, "Docker Engine cannot be reached"),
            ({"POLYJOB_RUNNER": "kubernetes", "POLYJOB_KUBE_CONFIG": "/missing"}, "Kubernetes"),
            ({"POLYJOB_RUNNER": "process", "POLYJOB_JOB_USER": "nosuchaccount"}, "nosuchaccount"),
            ({"POLYJOB_RUNNER": "nothing"}, "expected one of"),
        ],
    )
    def test_fault_of_the_backend_is_reported(
        self, check_runner: Callable[..., Any], environment: dict[str, str], text: str
    ) -> None:
        ((ok, finding),) = check_runner(**environment)
        assert not ok
        assert text in finding
        assert "\n" not in finding

    @pytest.mark.parametrize("name", ["process", "fake"])
    def test_working_backend_is_reported(self, check_runner: Callable[..., Any], name: str) -> None:
        assert check_runner(POLYJOB_RUNNER=name) == [(True, f"{name}: works when called from here")]

    def test_each_listed_runner_is_checked(self, check_runner: Callable[..., Any]) -> None:
        results = check_runner(POLYJOB_RUNNERS="fake docker", DOCKER_HOST="unix:///missing.sock")
        assert results[0] == (True, "fake: works when called from here")
        assert not results[1][0]
        assert "Docker Engine cannot be reached" in results[1][1]

    def test_unusable_runner_of_another_package_is_named(
        self, check_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse() -> None:
            raise UnusableRunner("acme 1.0 names its runner `docker`, which is a runner of polyjob")

        monkeypatch.setattr("polyjob.server.settings_check.check_entry_points", refuse)
        ((ok, text),) = check_runner(POLYJOB_RUNNER="fake")
        assert (ok, text) == (False, "acme 1.0 names its runner `docker`, which is a runner of polyjob.")

    def test_missing_package_is_named(self, check_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        def load(*arguments: Any) -> None:
            raise ImportError("No module named 'docker'")

        monkeypatch.setattr(runners, "load", load)
        ((ok, finding),) = check_runner(POLYJOB_RUNNER="docker")
        assert (ok, "pip install 'polyjob[docker]'" in finding) == (False, True)

    def test_backend_of_a_remote_server_is_not_called(self, check_runner: Callable[..., Any], free_port: int) -> None:
        assert check_runner(POLYJOB_RUNNER="nothing", POLYJOB_URL=f"http://127.0.0.1:{free_port}") == []


@pytest.mark.parametrize(
    ("has_engine", "text"), [(True, "from the engine"), (False, "fake: works when called from here")]
)
def test_backend_is_called_where_only_the_engine_is_missing(
    monkeypatch: pytest.MonkeyPatch, has_engine: bool, text: str
) -> None:
    parts = {
        "ok": False,
        "engine": {"ok": has_engine, "why": "x"},
        "runner": {"ok": False, "why": "from the engine"},
    }
    monkeypatch.setattr(doctor, "_readiness", lambda client: parts)
    monkeypatch.setenv("POLYJOB_RUNNER", "fake")
    client = Client("http://here", None, is_local=True)
    monkeypatch.setattr(client, "get", lambda path: {"username": "ana", "is_superuser": False})
    assert [finding.text for finding in doctor.check_server(client) if finding.part == "runner"] == [text]


def test_working_server_has_no_faults(server: Server) -> None:
    done = polyjob(server, "doctor")
    assert done.returncode == 0, done.stdout
    assert b"engine" in done.stdout
    results = {row["part"]: row for row in json_of(server, "doctor", "--json")}
    assert results["isolation"]["ok"] is True
    assert results["build python"]["text"] == server.environment["POLYJOB_PYTHON"]


def test_invalid_token_is_a_fault(server: Server) -> None:
    done = polyjob(server, "doctor", POLYJOB_TOKEN="x")
    assert done.returncode == 1
    assert b"FAIL  token" in done.stdout
