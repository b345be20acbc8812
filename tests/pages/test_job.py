"""The page of one job."""

from __future__ import annotations

import uuid
from pathlib import Path

from flask.testing import FlaskClient

from polyjob.clock import now
from polyjob.database import write
from polyjob.models import Build, Project, User
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, make_job, read, url, write_log


def test_the_links_to_log_and_outputs_work_with_the_cookie(
    client: FlaskClient, project: Project, data_dir: Path
) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, "Completed", {}), exit={"reason": "exited", "code": 0})
    write_log(data_dir, job, b"caf\xe9")
    page = read(client, url(job))
    log = next(link for link in page.links if link.endswith("/logs"))
    assert client.get(log).data == b"caf\xe9"
    assert f"/api/v1/ana/demo/jobs/{job.id}/outputs" in page.links


def test_a_failed_job_says_why(client: FlaskClient, project: Project) -> None:
    end = {"reason": "signalled", "code": 137, "signal": 9, "max_rss": 5 << 20, "cpu_seconds": 1.5}
    job = make_job(project, *BEGUN, (Status.FAILED, "exit-code(137)", {"reason": "signalled"}), exit=end)
    text = read(client, url(job)).text
    assert "Signal 9 (KILL) ended the command: exit code 137." in text
    assert "5.0 MiB" in text
    assert "1.50 s" in text
    assert [text.index(status) for status in ("created", "scheduled", "running", "exit-code(137)")] == sorted(
        text.index(status) for status in ("created", "scheduled", "running", "exit-code(137)")
    )


def test_a_job_whose_build_failed_names_it_and_links_its_log(
    client: FlaskClient, project: Project, data_dir: Path
) -> None:
    with write("test"):
        build = Build.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            config={},
            runner="fake",
            key="0",
            key_parts={},
            status=Status.FAILED,
            created_at=now(),
            updated_at=now(),
        )
    message = "Build ana.demo.builds.1 failed: step 2 ended with exit code 1"
    job = make_job(project, (Status.SCHEDULED, None, None), (Status.UPSTREAM_FAILED, message, {}), build=build)
    page = read(client, url(job))
    assert message in page.text
    assert f"/ana/demo/builds/{build.id}" in page.links


def test_a_waiting_job_says_for_what_and_one_being_stopped_for_whom(
    client: FlaskClient, project: Project, user: User
) -> None:
    make_job(project)
    assert "1 job is ahead" in read(client, url(make_job(project))).text
    stopping = make_job(project, *BEGUN, stop_at=now(), stop_kind="person", stop_by=user)
    assert "ana asked to stop it" in read(client, url(stopping)).text


def test_the_config_notes_and_origin_are_shown(client: FlaskClient, project: Project) -> None:
    first = make_job(project, name="first")
    config = {"run": {"cmd": "echo “hello” && true"}}
    notes = [{"kind": "build.image", "text": "`build.image` was not used."}]
    job = make_job(project, config=config, notes=notes, original=first, cloning_strategy="restart")
    page = read(client, url(job))
    assert "echo “hello” && true" in page.text
    assert "build.image was not used." in page.text
    assert url(first) in page.links


def test_the_end_of_a_long_log_is_shown_and_no_more(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    write_log(data_dir, job, b"".join(b"line %d\n" % number for number in range(1000)))
    text = read(client, url(job)).text
    assert "line 999\n" in text
    assert "line 800\n" in text
    assert "line 799\n" not in text


def test_a_line_without_end_is_cut(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    write_log(data_dir, job, b"x" * (5 << 20) + b"END")
    answer = client.get(url(job))
    assert "END" in answer.text
    assert len(answer.data) < 100_000
