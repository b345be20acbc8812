"""The page of one job."""

from __future__ import annotations

import datetime
import re
import uuid
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Dependency, Job, Project, User
from polyjob.pages import job_page, timeline
from polyjob.statuses import Status
from polyjob.storage.store import Store
from tests.pages.helpers import BEGUN, make_build, make_job, read, seal, url, write_log


def test_log_and_outputs_links_work_with_the_session(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, "Completed", {}), exit={"reason": "exited", "code": 0})
    write_log(data_dir, job, b"caf\xe9")
    page = read(client, url(job))
    log = next(link for link in page.links if link.endswith("/logs"))
    assert client.get(log).data == b"caf\xe9"
    assert f"{url(job)}/log" in page.links
    assert f"/api/v1/ana/demo/jobs/{job.id}/outputs" in page.links


def test_failed_job_is_explained(client: FlaskClient, project: Project) -> None:
    end = {"reason": "signalled", "code": 137, "signal": 9, "max_rss": 5 << 20, "cpu_seconds": 1.5}
    job = make_job(project, *BEGUN, (Status.FAILED, "exit-code(137)", {"reason": "signalled"}), exit=end)
    text = read(client, url(job)).text
    assert "The command was ended by signal 9 (SIGKILL), exit code 137." in text
    assert "5.0 MiB" in text
    assert "1.50 s" in text
    assert "exit-code" not in text
    assert [text.rindex(status) for status in ("queued", "scheduled", "running", "exit code 137")] == sorted(
        text.rindex(status) for status in ("queued", "scheduled", "running", "exit code 137")
    )


def test_failed_build_is_named_and_linked(client: FlaskClient, project: Project, data_dir: Path) -> None:
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
    job = make_job(project, (Status.SCHEDULED, None, None), (Status.FAILED, message, {}), build=build)
    page = read(client, url(job))
    assert message in page.text
    assert f"/ana/demo/builds/{build.id}" in page.links


def test_waiting_and_stopping_jobs_are_explained(client: FlaskClient, project: Project, user: User) -> None:
    make_job(project)
    assert "1 job is ahead" in read(client, url(make_job(project))).text
    stopping = make_job(project, *BEGUN, stop_at=now(), stop_kind="person", stop_by=user)
    assert "Stop requested by ana" in read(client, url(stopping)).text


def test_config_notes_and_original_are_shown(client: FlaskClient, project: Project) -> None:
    first = make_job(project, name="first")
    config = {"run": {"cmd": "echo “hello” && true"}}
    notes = [{"kind": "build.image", "text": "`build.image` was not used."}]
    job = make_job(project, config=config, notes=notes, original=first, cloning_strategy="restart")
    page = read(client, url(job))
    assert "echo “hello” && true" in page.text
    assert "build.image was not used." in page.text
    assert url(first) in page.links


# Clones, timeline and resources.


def test_clone_shows_its_originals_and_config_changes(client: FlaskClient, project: Project) -> None:
    config = {"version": 1, "run": {"cmd": "echo one\necho two\n"}}
    first = make_job(project, config=config, name="first")
    second = make_job(project, config=config, original=first, cloning_strategy="copy")
    changed = {"version": 1, "run": {"cmd": "echo one\necho <three>\n"}, "tags": ["x"]}
    third = make_job(project, config=changed, original=second, cloning_strategy="restart")
    page = read(client, url(third))
    assert url(first) in page.links
    assert url(second) in page.links
    text = " ".join(page.text.split())
    assert "Restart ofJob 2copy of first #1" in text
    assert re.search("- +echo two", page.text)
    assert re.search("[+] +echo <three>", page.text)
    assert not re.search("[-+] +echo one", page.text)
    page = read(client, url(first))
    assert url(second) in page.links
    assert url(third) not in page.links
    assert "the config is the same" in read(client, url(second)).text


def test_many_clones_are_linked_as_a_list(
    client: FlaskClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_page, "MAX_CLONES", 1)
    first = make_job(project)
    clones = [make_job(project, original=first, cloning_strategy="restart") for _ in range(2)]
    page = read(client, url(first))
    assert url(clones[1]) in page.links
    assert url(clones[0]) not in page.links
    everything = read(client, f"/ana/demo?query=original:{first.id}")
    assert f"/ana/demo?query=original:{first.id}" in page.links
    assert all(url(clone) in everything.links for clone in clones)


def test_clone_of_a_deleted_job_shows_no_original(client: FlaskClient, project: Project) -> None:
    gone = make_job(project, name="gone", deleted_at=now())
    page = read(client, url(make_job(project, original=gone, cloning_strategy="restart", config={"run": {}})))
    assert "gone" not in page.text
    assert "Config changes since" not in page.text


def test_timeline_is_a_bar_and_a_table(client: FlaskClient, project: Project) -> None:
    html = client.get(url(make_job(project, *BEGUN, (Status.SUCCEEDED, "Completed", {})))).text
    widths = [int(width) for width in re.findall(r'<rect class="[a-z_]+" x="\d+" width="(\d+)"', html)]
    assert len(widths) == 3
    assert sum(widths) == timeline.BAR_WIDTH
    assert max(widths) - min(widths) <= 3
    assert html.count('<td class="number">1.0 s</td>') == 3


def test_requested_and_used_resources_are_shown_together(client: FlaskClient, project: Project) -> None:
    environment = {"resources": {"cpu": {"requests": 1, "limits": 2}, "memory": {"limits": 512}, "gpu": {"limits": 2}}}
    end = {"reason": "exited", "code": 0, "max_rss": 5 << 20, "cpu_seconds": 1.5}
    steps = (*BEGUN, (Status.SUCCEEDED, "Completed", {}))
    job = make_job(project, *steps, config={"environment": environment}, gpus=[0, 3], exit=end)
    text = " ".join(read(client, url(job)).text.split())
    assert "1.50 s, requested: 1 core, at most 2 cores" in text
    assert "5.0 MiB, requested: at most 512 MiB" in text
    assert "number 0, 3, requested: 2" in text


def test_end_of_a_failed_build_log_is_shown(client: FlaskClient, project: Project, data_dir: Path) -> None:
    build = make_build(project, Status.FAILED)
    log = Store(data_dir).build_log(build.uuid)
    log.parent.mkdir(parents=True)
    log.write_bytes(b"early\n" * 30 + b"no such package: <sixx>\n")
    details = {"build": build.unique_name, "why": "reused, as the same build is done"}
    steps = ((Status.SCHEDULED, None, None), (Status.BUILDING, "m", details), (Status.FAILED, "m", {}))
    page = read(client, url(make_job(project, *steps, build=build, exit={"reason": "build", "message": "m"})))
    assert "no such package: <sixx>" in page.text
    assert page.text.count("early") == job_page.BUILD_LOG_LINES - 1
    assert "reused, as the same build is done" in page.text


def test_commands_name_the_job(client: FlaskClient, project: Project) -> None:
    job = make_job(project)
    text = read(client, url(job)).text
    assert f"http://localhost/api/v1{url(job)}/restart" in text
    assert f"polyjob logs -f ana/demo/{job.id}" in text


def test_building_job_links_the_build_log(client: FlaskClient, project: Project) -> None:
    build = make_build(project, Status.RUNNING)
    job = make_job(project, (Status.SCHEDULED, None, None), (Status.BUILDING, None, {}), build=build)
    assert f"/ana/demo/builds/{build.id}/log" in read(client, url(job)).links
    done = make_job(project, *BEGUN, build=build)
    assert f"/ana/demo/builds/{build.id}/log" not in read(client, url(done)).links


def test_ended_job_does_not_refresh(client: FlaskClient, project: Project) -> None:
    assert "data-every" in client.get(url(make_job(project, *BEGUN))).text
    assert "data-every" not in client.get(url(make_job(project, *BEGUN, (Status.STOPPED, None, {})))).text


def test_unchanged_job_page_is_a_304(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    tag = client.get(url(job)).headers["ETag"]
    assert client.get(url(job), headers={"If-None-Match": tag}).status_code == 304
    seal(data_dir, job, {"new": b"x"})
    changed = client.get(url(job), headers={"If-None-Match": tag})
    assert changed.status_code == 200
    with write("test"):
        Job.update(version=Job.version + 1).where(Job.id == job.id).execute()
    assert client.get(url(job), headers={"If-None-Match": changed.headers["ETag"]}).status_code == 200


def test_working_folder_is_shown_and_its_clones_are_for_administrators(
    client: FlaskClient, project: Project, user: User
) -> None:
    config = {"run": {"cmd": "true"}, "environment": {"workdir": "/srv/data"}}
    path = url(make_job(project, config=config))
    page = client.get(path).text
    assert "<dt>Folder</dt><dd><code>/srv/data</code>" in page
    assert f'action="{path}/restart"' not in page
    assert f'href="{path}/clone"' in page
    with write("test"):
        User.update(is_admin=True).where(User.id == user.id).execute()
    assert f'action="{path}/restart"' in client.get(path).text


def test_volumes_are_shown(client: FlaskClient, project: Project) -> None:
    config = {"run": {"cmd": "true"}, "environment": {"persistence": {"data": ["data", "models"]}}}
    page = client.get(url(make_job(project, config=config))).text
    assert "<dt>Volumes</dt><dd><code>data</code> <code>models</code> </dd>" in page


def test_retry_shows_its_place_in_the_chain(client: FlaskClient, project: Project) -> None:
    config = {"run": {"cmd": "true"}, "termination": {"max_retries": 3}}
    first = make_job(project, *BEGUN, (Status.FAILED, "exit-code(1)", {}), config=config)
    retry = make_job(project, config=config, original=first, first_attempt=first, retry_number=1)
    page = read(client, url(retry))
    assert f"1 of 3 of #{first.id}" in page.text
    assert url(first) in page.links


def test_waiting_retry_shows_until_when(client: FlaskClient, project: Project) -> None:
    moment = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    first = make_job(project, *BEGUN, (Status.FAILED, "exit-code(1)", {}))
    retry = make_job(project, original=first, retry_number=1, is_held=True, wait_until=moment)
    assert f"Waiting until 2030-01-02 03:04:05 UTC, to retry #{first.id}." in read(client, url(retry)).text


def test_command_is_the_title_of_a_job_without_a_name(client: FlaskClient, project: Project) -> None:
    job = make_job(project, command="\n python train.py --lr <0.1>\nsecond line")
    html = client.get(url(job)).text
    assert "<h1><code>python train.py --lr &lt;0.1&gt;</code>" in html
    assert "<title>python train.py --lr &lt;0.1&gt;: queued · polyjob</title>" in html
    assert f'<a href="{url(job)}"><code>python train.py --lr &lt;0.1&gt;</code></a>' in client.get("/").text


def test_waiting_job_names_the_jobs_before_it(client: FlaskClient, project: Project) -> None:
    first = make_job(project)
    job = make_job(project, is_held=True, has_dependencies=True)
    with write("test"):
        Dependency.create(job=job, upstream=first, condition="success")
        Dependency.create(job=job, upstream=first, condition="end", is_met=True, folder="1")
    page = read(client, url(job))
    assert f"Waiting for #{first.id} to succeed." in page.text
    assert page.text.count("reads its outputs") == 1
    assert url(first) in page.links


def test_queued_job_says_why_it_waits_in_place_of_a_log(client: FlaskClient, project: Project) -> None:
    page = read(client, url(make_job(project)))
    assert page.text.count("Waiting for a free slot of the fake runner; this job is next.") == 2
    assert not any(link.endswith(("/log", "/logs")) for link in page.links)
    page = read(client, url(make_job(project, *BEGUN)))
    assert any(link.endswith("/log") for link in page.links)


def test_timeline_has_a_legend(client: FlaskClient, project: Project) -> None:
    html = client.get(url(make_job(project, *BEGUN, (Status.SUCCEEDED, None, None)))).text
    legend = re.findall(r'<span class="\w+">(\w+ [\d.]+ m?s)</span>', html)
    assert legend == ["queued 1.0 s", "scheduled 1.0 s", "running 1.0 s"]
