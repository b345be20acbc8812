"""The secrets, and the outputs of earlier jobs, in the form for a new job."""

from __future__ import annotations

import pytest

from polyjob.db.models import Job, Project, User
from polyjob.services import job_secrets
from polyjob.settings import Settings

from .conftest import Browser

SUBMIT = "/ana/demo/submit"


class TestSecrets:
    @pytest.fixture(autouse=True)
    def secrets(self, project: Project, user: User, settings: Settings) -> None:
        for owner, name in ((project, "API_TOKEN"), (None, "API_TOKEN"), (None, "SHARED")):
            job_secrets.set_secret(owner, user, name, "a long value", settings.data_dir)

    def test_field_shows_the_names_and_takes_them(self, ana: Browser) -> None:
        assert "separated by commas: API_TOKEN, SHARED." in ana.get(SUBMIT).text
        ana.fill(SUBMIT, cmd="true", secrets="SHARED, API_TOKEN")
        assert Job.get().config["environment"]["secret_refs"] == ["SHARED", "API_TOKEN"]

    def test_names_are_added_to_those_of_the_config(self, ana: Browser) -> None:
        ana.fill(SUBMIT, config="run: {cmd: x}\nenvironment: {secret_refs: [SHARED]}", secrets="API_TOKEN")
        assert Job.get().config["environment"]["secret_refs"] == ["SHARED", "API_TOKEN"]

    def test_unknown_name_is_marked(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 400, cmd="true", secrets="OTHER")
        assert "Secrets: There is no secret OTHER" in page.text
        assert Job.select().count() == 0


def test_form_of_a_project_without_secrets_has_no_field(ana: Browser) -> None:
    assert "secrets" not in ana.get(SUBMIT).elements


def test_job_reads_the_outputs_of_another(ana: Browser) -> None:
    ana.fill(SUBMIT, cmd="true")
    first = Job.get().id
    ana.fill(SUBMIT, cmd="true", inputs=f" {first},")
    job = Job.get(Job.id != first)
    assert job.config["environment"]["outputs"] == {"jobs": [first]}
    assert job.has_dependencies


@pytest.mark.parametrize(("inputs", "message"), [("9999", "9999"), ("a b", "a")])
def test_unknown_job_is_marked(ana: Browser, inputs: str, message: str) -> None:
    page = ana.fill(SUBMIT, 400, cmd="true", inputs=inputs)
    assert "Outputs of other jobs: " in page.text and message in page.text
    assert Job.select().count() == 0


def test_schedule_cannot_read_outputs(ana: Browser) -> None:
    page = ana.fill(SUBMIT, 400, cmd="true", inputs="1", cron="0 3 * * *")
    assert "Outputs of other jobs: A job of a schedule cannot read outputs of other jobs." in page.text
