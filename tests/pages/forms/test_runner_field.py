"""The choice of a runner in the form for a new job."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Job
from polyjob.settings import Settings

from .conftest import Browser

SUBMIT = "/ana/demo/submit"


class TestSeveralRunners:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return dataclasses.replace(settings, runners=("fake", "process"))

    def test_form_chooses_the_runner(self, ana: Browser) -> None:
        assert "backend" in ana.get(SUBMIT).elements
        for backend, runner in (("", "fake"), ("fake", "fake"), ("process", "process")):
            ana.fill(SUBMIT, cmd="true", backend=backend)
            job = Job.select().order_by(Job.id.desc()).first()
            assert job.runner == runner
            assert job.config.get("backend") == (backend or None)
        assert "process" in ana.get("/ana/demo/jobs/3").text

    def test_runner_that_is_not_listed_is_marked(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 400, cmd="true", backend="docker")
        assert "Runner: This server does not use the docker runner; it has: fake, process." in page.text


def test_form_of_a_server_with_one_runner_has_no_choice(ana: Browser) -> None:
    assert "backend" not in ana.get(SUBMIT).elements
