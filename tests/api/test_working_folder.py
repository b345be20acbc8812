"""`environment.workdir` in requests: its permission, in every request that can set it."""

from __future__ import annotations

import pytest

from polyjob.auth import users
from polyjob.auth.scopes import Scope
from polyjob.db.models import Job, User
from polyjob.errors import Invalid
from polyjob.services.specs import check_runner_support

from .conftest import CONFIG, JOBS, Client, pointers

FOLDER = {"environment": {"workdir": "/srv/data"}}


@pytest.fixture
def folder_job(admin):
    """The path of the administrator's queued job with a working folder, in ana's project."""
    return f"{JOBS}/{admin.submit(**FOLDER)['id']}"


def refusal(response):
    assert response.status_code == 403, response.text
    return response.json["detail"]


def test_administrator_may_choose_the_folder(admin):
    assert admin.submit(**FOLDER)["config"]["environment"] == FOLDER["environment"]


def test_other_users_are_refused_with_the_way_out(client):
    assert "--clean" in refusal(client.post(JOBS, {"config": CONFIG | FOLDER}))
    assert Job.select().count() == 0


@pytest.mark.parametrize("options", [{"scope": Scope.SUBMIT}, {"project": True}])
def test_narrow_token_of_an_administrator_is_refused(app, admin, project, options):
    bound = {"project": project} if "project" in options else options
    narrow = Client(app, users.create_token(User.get(User.username == "eva"), "narrow", **bound)[1])
    refusal(narrow.post(JOBS, {"config": CONFIG | FOLDER}))
    assert narrow.post(JOBS, {"config": CONFIG}).status_code == 201


def test_clone_is_checked_like_a_submission(client, admin, folder_job):
    assert "--clean" in refusal(client.post(f"{folder_job}/restart"))
    clone = client.post(f"{folder_job}/restart", {"config": {"environment": {"workdir": None}}})
    assert (clone.status_code, clone.json["config"].get("environment")) == (201, None)
    kept = admin.post(f"{folder_job}/restart")
    assert kept.json["config"]["environment"] == FOLDER["environment"]


def test_clone_cannot_add_a_folder(client):
    job = client.submit()
    refusal(client.post(f"{JOBS}/{job['id']}/restart", {"config": FOLDER}))
    assert Job.select().count() == 1


def test_new_config_of_a_queued_job_is_checked(client, admin, folder_job):
    other_command = {"config": CONFIG | FOLDER | {"run": {"cmd": "false"}}}
    refusal(client.patch(folder_job, other_command))
    assert admin.get(folder_job).json["config"]["run"] == {"cmd": "true"}
    assert admin.patch(folder_job, other_command).json["config"]["run"] == {"cmd": "false"}


def test_other_changes_of_a_job_with_a_folder_are_allowed(client, folder_job):
    assert client.patch(folder_job, {"description": "d"}).json["description"] == "d"


def test_invalid_folder_is_a_problem_of_its_field(admin):
    response = admin.post(JOBS, {"config": CONFIG | {"environment": {"workdir": "data"}}})
    assert pointers(response) == ["/config/environment/workdir"]


@pytest.mark.parametrize("runner", ["docker", "kubernetes"])
def test_other_runners_refuse_a_folder(runner):
    with pytest.raises(Invalid) as refused:
        check_runner_support(CONFIG | {"build": {"image": "a"}} | FOLDER, runner)
    (problem,) = refused.value.problems
    assert problem.pointer == "/config/environment/workdir"
    assert "polyjob run -u FOLDER" in problem.detail
