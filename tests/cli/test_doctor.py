"""`polyjob doctor`: what it finds on the machine of a process server."""

from __future__ import annotations

import pytest

from polyjob.cli import doctor
from polyjob.serve import _whose_jobs
from polyjob.settings import read_settings
from runners import process_isolation

OPEN = "The account is open."


@pytest.fixture
def settings(tmp_path):
    def make(**environ):
        return read_settings({"POLYJOB_DATA_DIR": str(tmp_path), **environ})

    return make


def findings(settings):
    return [(part, ok) for part, ok, _ in doctor._of_folder(settings) if part != "data folder"]


def test_gap_of_the_machine_is_reported(settings, monkeypatch):
    monkeypatch.setattr(process_isolation, "gaps", lambda job_user: [OPEN])
    monkeypatch.setattr(process_isolation, "gaps_between_jobs", lambda: ["Memory is open."])
    found = findings(settings(POLYJOB_JOB_USER="nobody"))
    assert found[:3] == [("isolation", True), ("isolation", False), ("isolation", None)]


def test_gap_of_the_machine_is_a_warning_at_start(settings, monkeypatch):
    monkeypatch.setattr("polyjob.serve.gaps", lambda job_user: [OPEN])
    assert _whose_jobs(settings(POLYJOB_JOB_USER="nobody"))[1:] == [f"  Warning: {OPEN}"]
    assert len(_whose_jobs(settings())) == 1


@pytest.mark.parametrize(("python", "ok"), [("/missing/python", False), ("/bin/false", False), ("", True)])
def test_python_that_cannot_build_is_reported(settings, python, ok):
    assert ("build python", ok) in findings(settings(POLYJOB_PYTHON=python))
