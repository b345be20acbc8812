"""The forms for a new job and a new project."""

from __future__ import annotations

import io

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job, Project, Schedule, User
from polyjob.services import projects
from polyjob.services.dependencies import dependencies_of
from polyjob.settings import Settings

from .conftest import EVIL, Browser, job_fields

SUBMIT = "/ana/demo/submit"
FIELDS = ["cmd", "image", "steps", "env", "name", "tags", "cpu", "memory", "gpu", "timeout", "config"]
MORE = ["retries", "after", "cron", "timezone"]


class TestFields:
    def test_fields_make_a_job(self, ana: Browser) -> None:
        typed = {
            "cmd": "python train.py\r\necho 'done'",
            "image": "python:3.12-slim",
            "steps": "pip install six\r\n\r\npip install flask\r\n",
            "env": "A=1\r\nB=x = y\r\n",
            "name": "train",
            "tags": "nightly, gpu",
            "cpu": "500m",
            "memory": "1Gi",
            "timeout": "90",
        }
        ana.fill(SUBMIT, **typed)
        assert ana.location == "/ana/demo/jobs/1"
        assert "Job 1 was submitted." in ana.get("/ana/demo/jobs/1").text
        job = Job.get_by_id(1)
        assert job.config["run"] == {"cmd": "python train.py\necho 'done'"}
        assert job.config["build"] == {
            "image": "python:3.12-slim",
            "build_steps": ["pip install six", "pip install flask"],
        }
        assert job.config["environment"]["env_vars"] == [["A", "1"], ["B", "x = y"]]
        assert job.config["environment"]["resources"]["memory"]["limits"] == 1024
        assert job.config["environment"]["resources"]["cpu"]["limits"] == 0.5
        assert job.config["termination"] == {"timeout": 90}
        assert (job.name, job.tags, job.user.username) == ("train", ["nightly", "gpu"], "ana")

    def test_invalid_fields_are_marked_and_kept(self, ana: Browser) -> None:
        typed = {
            "image": "No Image",
            "steps": "a",
            "env": "A=1\n2B=x",
            "cpu": "many",
            "memory": "12",
            "gpu": "half",
            "name": "a name",
            "tags": "t" * 100,
        }
        page = ana.fill(SUBMIT, 400, cmd="true", **typed)
        assert {name: job_fields(page)[name] for name in typed} == typed
        wrong = set(typed) - {"steps"}
        for name in FIELDS:
            assert ("aria-invalid" in page.elements[name]) is (name in wrong), name
        for name in wrong:
            assert f"{name}-error" in str(page.elements[name]["aria-describedby"])
            assert f"{name}-error" in page.elements
            assert f"#{name}" in page.links
        assert "Add a unit, such as 512Mi or 4Gi." in page.text
        assert "Line 2: 2B is not a valid variable name" in page.text
        assert "alert" in str(page.elements["errors"].values())
        assert Job.select().count() == 0

    @pytest.mark.parametrize(
        ("typed", "wrong"),
        [
            ({}, "cmd"),
            ({"cmd": " \n"}, "cmd"),
            ({"image": "a"}, "cmd"),
            ({"env": "A=1\nB\n2=3", "cmd": "true"}, "env"),
            ({"cmd": "true", "env": "NOTHING"}, "env"),
            ({"cmd": "true", "timeout": "soon"}, "timeout"),
            ({"cmd": "true", "timeout": "inf"}, "timeout"),
            ({"cmd": "true", "timeout": "-1"}, "timeout"),
            ({"config": "run: ["}, "config"),
            ({"config": "build: {image: a}"}, "config"),
            ({"config": "- a", "cmd": "true"}, "config"),
            ({"config": "build: 7\nrun: {cmd: a}", "image": "a"}, "config"),
            ({"config": "run: {cmd: a}\nrum: 1"}, "config"),
            ({"config": "run: {cmd: a}\nenvironment: {env_vars: 7}", "env": "A=1"}, "env"),
            ({"config": "run: {cmd: a}", "name": "b c"}, "name"),
            ({"cmd": "a\0b"}, "cmd"),
        ],
    )
    def test_invalid_fields_make_no_job(self, ana: Browser, typed: dict[str, str], wrong: str) -> None:
        page = ana.fill(SUBMIT, 400, **typed)
        assert [name for name in FIELDS if "aria-invalid" in page.elements[name]] == [wrong]

    def test_taken_name_is_refused(self, ana: Browser) -> None:
        ana.fill(SUBMIT, cmd="true", name="train")
        page = ana.fill(SUBMIT, 400, cmd="true", name="train")
        assert "This project already has a job named train; choose another name." in page.text
        assert "aria-invalid" in page.elements["name"]

    def test_entries_are_escaped(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 400, **dict.fromkeys(FIELDS, EVIL))
        assert "img" not in page.tags
        assert "script" not in page.tags
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
        assert {job_fields(page)[name] for name in FIELDS} == {EVIL}
        page = ana.fill(SUBMIT, 200, cmd=EVIL, env=f"A={EVIL}", do="show")
        assert "img" not in page.tags
        assert "script" not in page.tags

    def test_config_is_used_alone_or_with_fields(self, ana: Browser) -> None:
        text = "# mine\nrun: {cmd: a}\nenvironment: {env_vars: {A: '1'}}\n"
        ana.fill(SUBMIT, config=text, name="alone")
        assert Job.get_by_id(1).content == text
        ana.fill(SUBMIT, config=text, cmd="b", env="B=2", image="c")
        config = Job.get_by_id(2).config
        assert config["run"] == {"cmd": "b"}
        assert config["environment"]["env_vars"] == [["A", "1"], ["B", "2"]]
        assert config["build"] == {"image": "c"}


class TestRepeatedSubmission:
    def test_repeated_form_makes_one_job(self, ana: Browser) -> None:
        fields = ana.form(SUBMIT).fields | {"cmd": "true"}
        for _ in range(2):
            ana.post(SUBMIT, fields)
            assert ana.location == "/ana/demo/jobs/1"
        ana.post(SUBMIT, fields | {"cmd": "false"})
        assert ana.location == "/ana/demo/jobs/2"
        ana.fill(SUBMIT, cmd="true")
        assert ana.location == "/ana/demo/jobs/3"

    def test_repeated_form_with_files_makes_one_job(self, ana: Browser) -> None:
        fields = ana.form(SUBMIT).fields | {"cmd": "true"}
        for _ in range(2):
            ana.post(SUBMIT, fields | {"upload": (io.BytesIO(b"x"), "a.py")})
            assert ana.location == "/ana/demo/jobs/1"
        ana.post(SUBMIT, fields | {"upload": (io.BytesIO(b"y"), "a.py")})
        assert ana.location == "/ana/demo/jobs/2"


def test_stale_form_is_kept(ana: Browser) -> None:
    page = ana.fill(SUBMIT, 403, cmd="echo kept", csrf_token="0" * 32)
    assert job_fields(page)["cmd"] == "echo kept"
    assert "nothing was changed" in page.text
    fields = job_fields(page)
    ana.post(SUBMIT, fields)
    assert Job.get_by_id(1).config["run"]["cmd"] == "echo kept"
    page = ana.post(SUBMIT, fields, 403, Origin="http://evil.example")
    assert "echo kept" not in page.text


class TestMore:
    def test_retries_and_dependencies_are_part_of_the_job(self, ana: Browser) -> None:
        ana.fill(SUBMIT, cmd="true")
        ana.fill(SUBMIT, cmd="true", retries="3", after="1, 1:end")
        job = Job.get_by_id(2)
        assert job.config["termination"]["max_retries"] == 3
        assert [(one["job"], one["on"]) for one in dependencies_of(job)] == [(1, "success"), (1, "end")]

    def test_repeated_job_becomes_a_schedule(self, ana: Browser) -> None:
        ana.fill(SUBMIT, cmd="make nightly", name="nightly", repeat="0 3 * * *", timezone="Europe/Berlin")
        assert ana.location == "/ana/demo/schedules/1"
        assert "Schedule 1 was created." in ana.get("/ana/demo/schedules/1").text
        schedule = Schedule.get()
        assert (schedule.cron, schedule.timezone, schedule.command) == ("0 3 * * *", "Europe/Berlin", "make nightly")
        assert schedule.job["name"] == "nightly"
        assert Job.select().count() == 0

    def test_other_times_are_a_cron_expression(self, ana: Browser) -> None:
        ana.fill(SUBMIT, cmd="true", cron="30 7 * * 1-5")
        assert (Schedule.get().cron, Schedule.get().timezone) == ("30 7 * * 1-5", "UTC")

    def test_schedule_that_is_sent_twice_is_created_once(self, ana: Browser) -> None:
        fields = job_fields(ana.get(SUBMIT)) | {"cmd": "true", "repeat": "0 * * * *"}
        for _ in range(2):
            ana.post(SUBMIT, fields)
            assert ana.location == "/ana/demo/schedules/1"
        assert Schedule.select().count() == 1

    @pytest.mark.parametrize(
        ("typed", "wrong", "message"),
        [
            ({"retries": "many"}, "retries", "whole number"),
            ({"retries": "9" * 5000}, "retries", "whole number"),
            ({"retries": "100000"}, "retries", ""),
            ({"after": "99"}, "after", "There is no job 99"),
            ({"after": "9" * 5000}, "after", ""),
            ({"after": "1:maybe"}, "after", "1:maybe"),
            ({"cron": "every night"}, "cron", ""),
            ({"cron": "0 0 30 2 *"}, "cron", ""),
            ({"repeat": "0 3 * * *", "cron": "0 4 * * *"}, "cron", "Leave this empty"),
            ({"repeat": "0 3 * * *", "after": "1"}, "after", "cannot wait"),
            ({"repeat": "0 3 * * *", "timezone": "Mars"}, "timezone", "Mars"),
            ({"repeat": "0 3 * * *", "name": "a name"}, "name", ""),
            ({"repeat": "0 3 * * *", "cpu": "many"}, "cpu", ""),
        ],
    )
    def test_invalid_fields_are_marked_and_kept(
        self, ana: Browser, typed: dict[str, str], wrong: str, message: str
    ) -> None:
        page = ana.fill(SUBMIT, 400, cmd="true", **typed)
        assert {name: job_fields(page)[name] for name in typed} == typed
        for name in (*FIELDS, *MORE):
            assert ("aria-invalid" in page.elements[name]) is (name == wrong), name
        assert f"#{wrong}" in page.links
        assert message in page.text
        assert Job.select().count() == Schedule.select().count() == 0

    def test_job_that_may_not_be_read_is_unknown(self, ana: Browser, bob: Browser) -> None:
        bob.fill("/new-project", name="mine", access="private")
        bob.fill("/bob/mine/submit", cmd="true")
        assert "There is no job 1, or you may not read it." in ana.fill(SUBMIT, 400, cmd="true", after="1").text


class TestProjects:
    def test_project_is_chosen_first(self, ana: Browser, user: User, settings: Settings) -> None:
        ana.get("/submit", 303)
        assert ana.location == SUBMIT
        projects.create(user, {"name": "other"}, settings)
        assert {SUBMIT, "/ana/other/submit", "/new-project"} <= set(ana.get("/submit").links)

    def test_user_without_projects_creates_one(self, bob: Browser) -> None:
        bob.get("/submit", 303)
        assert bob.location == "/new-project"
        bob.fill("/new-project", name="mine", description="what\r\nfor", access="public")
        assert bob.location == "/bob/mine/submit"
        project = Project.get(Project.name == "mine")
        assert (project.is_public, project.description) == (True, "what\nfor")
        assert "Project mine was created." in bob.get("/bob/mine/submit").text

    def test_invalid_project_name_is_refused(self, ana: Browser) -> None:
        for name, why in (
            ("", "required"),
            ("a b", "Only letters"),
            ("demo", "exists"),
            ("jobs", "reserved"),
            (EVIL, "Only"),
        ):
            page = ana.fill("/new-project", 400, name=name, description=EVIL)
            assert why in page.text
            assert "aria-invalid" in page.elements["name"]
            assert "img" not in page.tags
            assert next(form.fields for form in page.forms if "name" in form.fields)["description"] == EVIL
        assert "submit them again" in ana.fill("/new-project", 403, name="x", csrf_token="").text
        assert Project.select().count() == 1


def test_form_needs_permission(bob: Browser, project: Project) -> None:
    bob.get(SUBMIT, 404)
    bob.post(SUBMIT, {"cmd": "true", "csrf_token": bob.csrf()}, 404)
    bob.post(f"{SUBMIT}/commands", {"cmd": "true", "csrf_token": bob.csrf()}, 404)
    with write("test"):
        Project.update(is_public=True).execute()
    bob.post(SUBMIT, {"cmd": "true", "csrf_token": bob.csrf()}, 403)
    assert Job.select().count() == 0


def test_form_needs_a_sign_in(visitor: Browser, project: Project) -> None:
    assert visitor.get(SUBMIT, 401).forms[0].fields["next"] == SUBMIT
    visitor.post(SUBMIT, {"cmd": "true"}, 401)
