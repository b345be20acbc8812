"""`polyjob doctor`: what it finds on the machine of a process server."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

import runners
from polyjob.cli import doctor, main
from polyjob.cli.client import Client
from polyjob.server.serve import _whose_jobs
from polyjob.settings import read_settings
from runners.process import isolation

OPEN = "The account is open."


@pytest.fixture
def settings(tmp_path):
    def make(**environ):
        return read_settings({"POLYJOB_DATA_DIR": str(tmp_path), **environ})

    return make


def findings(settings):
    return [(part, ok) for part, ok, _ in doctor._of_folder(settings) if part != "data folder"]


def test_gap_of_the_machine_is_reported(settings, monkeypatch):
    monkeypatch.setattr(isolation, "gaps", lambda job_user: [OPEN])
    monkeypatch.setattr(isolation, "gaps_between_jobs", lambda: ["Memory is open."])
    found = findings(settings(POLYJOB_JOB_USER="nobody"))
    assert found[:3] == [("isolation", True), ("isolation", False), ("isolation", None)]


def test_gap_of_the_machine_is_a_warning_at_start(settings, monkeypatch):
    monkeypatch.setattr("polyjob.server.serve.gaps", lambda job_user: [OPEN])
    assert _whose_jobs(settings(POLYJOB_JOB_USER="nobody"))[1:] == [f"  Warning: {OPEN}"]
    assert len(_whose_jobs(settings())) == 1


@pytest.mark.parametrize(("python", "ok"), [("/missing/python", False), ("/bin/false", False), ("", True)])
def test_python_that_cannot_build_is_reported(settings, python, ok):
    assert ("build python", ok) in findings(settings(POLYJOB_PYTHON=python))


class TestWithoutServer:
    """The runner is asked by the command itself."""

    @pytest.fixture
    def free_port(self):
        """A port at which nobody listens."""
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            yield held.getsockname()[1]

    @pytest.fixture
    def of_runner(self, tmp_path, free_port):
        def ask(**environ):
            folder, url = str(tmp_path / "data"), environ.pop("POLYJOB_URL", None)
            clean = {"POLYJOB_URL": url, "POLYJOB_DATA_DIR": folder, "POLYJOB_PORT": str(free_port)}
            result = CliRunner().invoke(main, ["doctor", "--json"], env=clean | environ)
            assert result.exit_code == 1
            assert not (tmp_path / "data").exists()
            found = [finding for finding in json.loads(result.output) if finding["part"] == "runner"]
            return [(finding["ok"], finding["text"]) for finding in found]

        return ask

    @pytest.mark.parametrize(
        ("environ", "words"),
        [
            ({"POLYJOB_RUNNER": "docker", "DOCKER_HOST": "unix:///missing.sock"}, "Docker Engine cannot be reached"),
            ({"POLYJOB_RUNNER": "docker", "DOCKER_HOST": "tcp://127.0.0.1:1"}, "Docker Engine cannot be reached"),
            ({"POLYJOB_RUNNER": "kubernetes", "POLYJOB_KUBE_CONFIG": "/missing"}, "no way to a Kubernetes cluster"),
            ({"POLYJOB_RUNNER": "process", "POLYJOB_JOB_USER": "nosuchaccount"}, "nosuchaccount"),
            ({"POLYJOB_RUNNER": "nothing"}, "it takes one of"),
        ],
    )
    def test_backend_that_does_not_work_is_named(self, of_runner, environ, words):
        ((ok, text),) = of_runner(**environ)
        assert not ok
        assert words in text
        assert "\n" not in text

    @pytest.mark.parametrize("name", ["process", "fake"])
    def test_backend_that_works_is_named(self, of_runner, name):
        assert of_runner(POLYJOB_RUNNER=name) == [(True, f"{name}: works from here")]

    def test_missing_package_is_named(self, of_runner, monkeypatch):
        def load(*arguments):
            raise ImportError("No module named 'docker'")

        monkeypatch.setattr(runners, "load", load)
        ((ok, text),) = of_runner(POLYJOB_RUNNER="docker")
        assert (ok, "pip install 'polyjob[docker]'" in text) == (False, True)

    def test_backend_of_a_server_elsewhere_is_not_asked(self, of_runner, free_port):
        assert of_runner(POLYJOB_RUNNER="nothing", POLYJOB_URL=f"http://127.0.0.1:{free_port}") == []

    @pytest.mark.parametrize(("has_engine", "text"), [(True, "from the engine"), (False, "fake: works from here")])
    def test_backend_is_asked_where_only_the_engine_is_missing(self, monkeypatch, has_engine, text):
        parts = {
            "ok": False,
            "engine": {"ok": has_engine, "why": "x"},
            "runner": {"ok": False, "why": "from the engine"},
        }
        monkeypatch.setattr(doctor, "_readiness", lambda client: parts)
        monkeypatch.setenv("POLYJOB_RUNNER", "fake")
        client = Client("http://here", None, True)
        monkeypatch.setattr(client, "get", lambda path: {"username": "ana", "is_superuser": False})
        assert [found[2] for found in doctor._of_server(client) if found[0] == "runner"] == [text]
