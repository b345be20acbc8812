"""The pages of builds."""

from __future__ import annotations

import json

from flask.testing import FlaskClient

from polyjob.clock import now
from polyjob.db.models import Project
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, EVIL, make_build, make_job, read, url


def test_build_page_shows_reason_build_steps_and_jobs(client: FlaskClient, project: Project) -> None:
    steps = {"build": {"build_steps": ["pip install <six>"], "env_vars": [["MODE", "secret"]]}}
    build = make_build(project, config=steps, reason={"kind": "first", "text": "`it` is the project's first build"})
    job = make_job(project, *BEGUN, name="user", build=build)
    gone = make_job(project, name="gone", build=build, deleted_at=now())
    page = read(client, f"/ana/demo/builds/{build.id}")
    for text in ("Reason: it is the project's first build", "pip install <six>", "MODE", "55555"):
        assert text in page.text
    assert "secret" not in page.text
    assert f"/ana/demo/builds/{build.id}/log" in page.links
    assert url(job) in page.links
    assert url(gone) not in page.links
    assert f"/ana/demo/builds/{build.id}" in read(client, url(job)).links


def test_docker_build_shows_dockerfile_image_and_base(client: FlaskClient, project: Project) -> None:
    artifact = json.dumps({"image": "sha256:aaaaaaaaaaaaaaaa", "name": "x", "base": "sha256:bbbbbbbbbbbbbbbb"})
    config = {"build": {"image": "debian:12", "build_steps": ["true"]}}
    page = read(client, f"/ana/demo/builds/{make_build(project, runner='docker', config=config, artifact=artifact).id}")
    for text in ("FROM debian:12", "RUN", "sha256:aaaa", "sha256:bbbb"):
        assert text in page.text


def test_build_page_explains_the_status(client: FlaskClient, project: Project) -> None:
    def explanation(status: Status, **columns: object) -> str:
        return read(client, f"/ana/demo/builds/{make_build(project, status, **columns).id}").text

    assert "cannot be reached" in explanation(
        Status.RUNNING, notes=[{"kind": "retry", "text": "The Engine cannot be reached."}]
    )
    assert "The build is being stopped." in explanation(Status.RUNNING, stop_at=now())
    assert "New jobs with the same build use this one." in explanation(Status.SUCCEEDED)
    assert "New jobs do not use this build." in explanation(Status.SUCCEEDED, invalidated_at=now())


def test_external_build_shows_no_runner_and_no_reuse(client: FlaskClient, project: Project) -> None:
    columns = {"is_managed": False, "key": "", "key_parts": {}, "config": {"build": {}}, "runner": "docker"}
    page = read(client, f"/ana/demo/builds/{make_build(project, Status.SUCCEEDED, **columns).id}")
    assert "docker" not in page.text
    assert "New jobs with the same build" not in page.text


def test_builds_of_a_project_are_listed(client: FlaskClient, project: Project) -> None:
    assert "No builds yet" in read(client, "/ana/demo/builds").text
    first = make_build(project, name=EVIL, reason={"kind": "x", "text": EVIL})
    second = make_build(project, invalidated_at=now())
    hidden = make_build(project, deleted_at=now())
    page = read(client, "/ana/demo/builds/")
    assert "script" not in page.tags
    assert page.text.count(EVIL) == 2
    assert page.text.index(f"Build {second.id}") < page.text.index(EVIL)
    assert f"/ana/demo/builds/{hidden.id}" not in page.links
    assert f"/ana/demo/builds/{first.id}" in page.links
    read(client, f"/ana/demo/builds/{hidden.id}", 404)


def test_unchanged_build_page_is_a_304(client: FlaskClient, project: Project) -> None:
    build = make_build(project)
    path = f"/ana/demo/builds/{build.id}"
    tag = client.get(path).headers["ETag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    make_job(project, build=build)
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 200
