"""Jobs that are run again, unchanged or with an edited config."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.db.models import Job, Project, User
from polyjob.jobconfig.parsing import parse_content, to_yaml
from polyjob.jobconfig.validation import load_config
from polyjob.services import submission
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

from .conftest import EVIL, Browser, bring

CONFIG = load_config({"run": {"cmd": "true"}})
URL = "/ana/demo/jobs/1"
RUNNING = (Status.SCHEDULED, Status.RUNNING)


@pytest.fixture
def job(user: User, project: Project, settings: Settings) -> Job:
    return submission.create(project, user, {"config": CONFIG}, settings)


class TestButtons:
    @pytest.mark.parametrize("label", ["Restart", "Resume", "Copy"])
    def test_clone_buttons_make_one_job_per_form(self, ana: Browser, job: Job, settings: Settings, label: str) -> None:
        Store(settings.data_dir).make_job_folder(job.uuid)
        bring(1, *RUNNING, Status.SUCCEEDED)
        form = next(form for form in ana.get(URL).forms if form.label == label)
        for _ in range(2):
            ana.post(form.action or "", form.fields)
            assert ana.location == "/ana/demo/jobs/2"
        clone = Job.get_by_id(2)
        assert (clone.original_id, clone.cloning_strategy) == (1, label.lower())
        assert "job 1." in ana.get("/ana/demo/jobs/2").text
        ana.press(URL, label)
        assert ana.location == "/ana/demo/jobs/3"

    def test_running_job_cannot_be_resumed(self, ana: Browser, job: Job) -> None:
        page = ana.post(f"{URL}/resume", {"csrf_token": ana.csrf()}, 400)
        assert "takes only a job that is done" in page.text
        assert Job.select().count() == 1


class TestEditAndRun:
    def test_edited_config_makes_a_job(self, ana: Browser, user: User, project: Project, settings: Settings) -> None:
        config = load_config({"run": {"cmd": "a\nb"}, "environment": {"env_vars": [["A", "1"]]}, "tags": ["old"]})
        submission.create(project, user, {"config": config, "name": "train"}, settings)
        text = ana.form(f"{URL}/clone").fields["config"]
        assert "cmd: |-\n    a\n    b\n" in text
        document = yaml.safe_load(text)
        document["run"]["cmd"] = "echo new"
        del document["environment"]
        ana.fill(f"{URL}/clone", config=yaml.safe_dump(document).replace("\n", "\r\n"))
        assert ana.location == "/ana/demo/jobs/2"
        job = Job.get_by_id(2)
        assert (job.config["run"], job.original_id, job.cloning_strategy) == ({"cmd": "echo new"}, 1, "restart")
        assert "environment" not in job.config
        assert job.content is not None
        assert Job.get_by_id(1).config == config

    def test_submitted_text_is_edited(self, ana: Browser, user: User, project: Project, settings: Settings) -> None:
        content = "# how fast\nparams: {lr: 0.1}\nrun:\n  cmd: train {{ lr }}\n"
        submission.create(project, user, read_job_create({"content": content}).attributes, settings)
        form = ana.form(f"{URL}/clone")
        assert form.fields["config"] == content
        ana.fill(f"{URL}/clone", config=content.replace("0.1", "0.5"))
        job = Job.get_by_id(2)
        assert job.config["run"]["cmd"] == "train 0.5"
        assert job.content == content.replace("0.1", "0.5")
        ana.fill(f"{URL}/clone")
        assert Job.get_by_id(3).content == content

    def test_only_a_changed_name_is_used(self, ana: Browser, user: User, project: Project, settings: Settings) -> None:
        config = load_config({"name": "train", "run": {"cmd": "true"}})
        submission.create(project, user, {"config": config}, settings)
        text = ana.form(f"{URL}/clone").fields["config"]
        ana.fill(f"{URL}/clone", config=text + "description: another\n")
        ana.fill(f"{URL}/clone", config=text.replace("train", "other"))
        assert [job.name for job in Job.select().order_by(Job.id)] == ["train", None, "other"]
        assert Job.get_by_id(2).description == "another"

    def test_errors_keep_the_entered_config(self, ana: Browser, job: Job) -> None:
        typed = "run:\n  cmd: 'true'\nbuilt:\n  image: x\n"
        page = ana.fill(f"{URL}/clone", 400, config=typed, strategy="restart")
        assert page.elements["config"]["aria-invalid"] == "true"
        assert "Unknown key built; did you mean build? (line 4)" in page.text
        assert next(form for form in page.forms if "config" in form.fields).fields["config"] == typed
        for text in ("", "run: [", "- 1", EVIL, "kind: build\nbuild: {image: a}"):
            page = ana.fill(f"{URL}/clone", 400, config=text)
            assert next(form for form in page.forms if "config" in form.fields).fields["config"] == text
            assert "img" not in page.tags
        page = ana.fill(f"{URL}/clone", 400, strategy="resume")
        assert "takes only a job that is done" in page.text
        page = ana.fill(f"{URL}/clone", 403, config=typed, csrf_token="0")
        assert next(form for form in page.forms if "config" in form.fields).fields["config"] == typed
        assert Job.select().count() == 1

    def test_repeated_submission_makes_one_job(self, ana: Browser, job: Job) -> None:
        form = ana.form(f"{URL}/clone")
        fields = form.fields | {"config": "run: {cmd: x}"}
        for _ in range(2):
            ana.post(f"{URL}/clone", fields)
            assert ana.location == "/ana/demo/jobs/2"
        ana.post(f"{URL}/clone", fields | {"config": "run: {cmd: y}"})
        assert ana.location == "/ana/demo/jobs/3"


@pytest.mark.parametrize(
    "document",
    [
        {"run": {"cmd": "a\n  b\n\n"}},
        {"run": {"cmd": " \n# x"}},
        {"a": ["yes", "no", "0123", "1:30", "1e5", "2026-01-01", "~", "", "null", "0x1f", "1_000", "<<", "=", "- x"]},
        {"a": [1, 1.5, 1e30, True, None, "1", "1.5", "true", "é\u2028\x85", "\t", "a: b", "'", '"', "a #b"]},
        {"env_vars": [["A", "1"], ["B", "x=y"]]},
        {EVIL: EVIL},
    ],
)
def test_config_survives_yaml(document: Any) -> None:
    assert parse_content(to_yaml(document)) == document
