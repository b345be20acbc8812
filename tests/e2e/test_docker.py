"""The documented calls, and survival, with jobs in containers of a real Engine."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import JOBS, Server, eventually
from tests.require import require
from tests.runners.docker_engine import connect, engine_answers, make_images
from tests.runners.harness import IMAGE

SCALE = int(os.environ.get("POLYJOB_TEST_SCALE", "1"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require("docker", engine_answers(), "no Docker Engine answers")
    make_images()
    with Server(tmp_path_factory.mktemp("docker"), slots="20", runner="docker") as started:
        yield started


def submit(server: Server, cmd: str, *steps: str) -> dict[str, Any]:
    return server.submit(cmd, build={"image": IMAGE, "build_steps": list(steps)})


def containers() -> dict[str, dict[str, Any]]:
    found = connect().containers(all=True, filters={"label": "polyjob.job"})
    return {item["Labels"]["polyjob.job"]: item for item in found}


@pytest.fixture(scope="module")
def done(server: Server) -> dict[str, Any]:
    cmd = "cat /made; cat $POLYAXON_RUN_OUTPUTS_PATH/f 2>/dev/null; echo data >> $POLYAXON_RUN_OUTPUTS_PATH/f"
    return server.until_done(submit(server, cmd, "echo made > /made")["id"])


def test_job_is_built_and_keeps_its_log_and_outputs(server: Server, done: dict[str, Any]) -> None:
    assert done["last_status"] == "succeeded", server.log(done["id"])
    assert server.statuses(done["id"]) == ["created", "scheduled", "building", "running", "succeeded"]
    assert server.log(done["id"]) == b"made\n"
    number = done["build_job"].rsplit(".", 1)[1]
    assert b"Step" in server.call("GET", f"/api/v1/root/quick-start/builds/{number}/logs").body
    with tarfile.open(fileobj=io.BytesIO(server.call("GET", f"{JOBS}/{done['id']}/outputs").body)) as archive:
        held = archive.extractfile(f"{done['id']}/f")
        assert held is not None
        assert held.read() == b"data\n"
    assert done["uuid"] not in containers()


@pytest.mark.parametrize(
    ("strategy", "log"), [("restart", b"made\n"), ("resume", b"made\ndata\n"), ("copy", b"made\ndata\n")]
)
def test_jobs_are_restarted_resumed_and_copied(server: Server, done: dict[str, Any], strategy: str, log: bytes) -> None:
    clone = server.until_done(server.call("POST", f"{JOBS}/{done['id']}/{strategy}").json["id"])
    assert (clone["last_status"], clone["build_job"]) == ("succeeded", done["build_job"])
    assert server.log(clone["id"]) == log


def test_failing_step_and_failing_command_fail_the_job(server: Server) -> None:
    failed = server.until_done(submit(server, "true", "echo no; exit 3")["id"])
    assert (failed["last_status"], failed["exit"]["reason"]) == ("failed", "build")
    assert server.until_done(submit(server, "exit 7")["id"])["exit_code"] == 7


def test_job_is_stopped_and_deleted(server: Server) -> None:
    stopped, deleted = (submit(server, "sleep 1000 & sleep 1000") for _ in range(2))
    for job in (stopped, deleted):
        server.until(job["id"], "running")
    server.call("POST", f"{JOBS}/{stopped['id']}/stop")
    assert server.until_done(stopped["id"])["last_status"] == "stopped"
    server.call("DELETE", f"{JOBS}/{deleted['id']}")
    eventually(lambda: not {stopped["uuid"], deleted["uuid"]} & containers().keys(), 30, "the end of both")


def test_job_of_a_removed_container_is_lost(server: Server) -> None:
    job = submit(server, "sleep 1000")
    server.until(job["id"], "running")
    connect().remove_container(f"polyjob-{job['uuid']}", force=True)
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "lost")


def test_removed_image_is_built_again(server: Server) -> None:
    first = server.until_done(submit(server, "cat /made", "echo first > /made")["id"])
    build = server.call("GET", f"/api/v1/root/quick-start/builds/{first['build_job'].rsplit('.', 1)[1]}").json
    assert build["image"].startswith("polyjob:")
    assert build["base"].startswith("sha256:")
    assert '"echo first > /made"]' in build["dockerfile"]
    connect().remove_image(build["image"], force=True)
    again = server.until_done(submit(server, "cat /made", "echo first > /made")["id"])
    assert (again["last_status"], server.log(again["id"])) == ("succeeded", b"first\n")
    assert again["build_job"] != first["build_job"]
    made = server.call("GET", f"/api/v1/root/quick-start/builds/{again['build_job'].rsplit('.', 1)[1]}").json
    assert (made["reason"]["kind"], made["reason"]["changed"]) == ("outdated", [])
    assert "does not exist any more" in made["reason"]["text"]


def test_long_log_is_complete(server: Server) -> None:
    job = server.until_done(submit(server, "seq 1 300000")["id"])
    assert server.log(job["id"]) == b"".join(b"%d\n" % number for number in range(1, 300_001))


def test_job_without_an_image_is_refused(server: Server) -> None:
    answer = server.call("POST", JOBS, {"run": {"cmd": "true"}})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "/build/image")


def test_jobs_survive_kill_9_of_all_processes(server: Server) -> None:
    count, rounds = (20, 10) if SCALE >= 10 else (6, 3)
    ticks = rounds * 20
    cmd = f"for i in $(seq {ticks}); do echo $i; sleep 0.2; done; echo end > $POLYAXON_RUN_OUTPUTS_PATH/f; exit 5"
    jobs = [submit(server, cmd) for _ in range(count)]
    for job in jobs:
        server.until(job["id"], "running", seconds=60)
    ours = {job["uuid"] for job in jobs}

    def ids() -> dict[str, str]:
        return {uuid: item["Id"] for uuid, item in containers().items() if uuid in ours}

    before = ids()
    assert before.keys() == ours
    for _ in range(rounds):
        server.kill()
        server.start()
        assert ids().items() <= before.items()
    for job in jobs:
        ended = server.until_done(job["id"])
        assert (ended["last_status"], ended["exit_code"]) == ("failed", 5)
        assert server.log(job["id"]) == b"".join(b"%d\n" % number for number in range(1, ticks + 1))
        assert server.statuses(job["id"]).count("running") == 1
        with tarfile.open(fileobj=io.BytesIO(server.call("GET", f"{JOBS}/{job['id']}/outputs").body)) as archive:
            assert f"{job['id']}/f" in archive.getnames()
    assert not ours & containers().keys()
