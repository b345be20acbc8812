"""The documented calls, and restarts of the server, with jobs in pods of the cluster simulator."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from runners.kubernetes.permissions import PERMISSIONS
from tests.e2e.conftest import JOBS, Server, eventually
from tests.require import require_root
from tests.simulators.kubernetes.remote import start as start_cluster
from tests.simulators.registry import BUILDER, Registry

SCALE = int(os.environ.get("POLYJOB_TEST_SCALE", "1"))
IMAGE = "busybox"
BASE = "/api/v1/root/quick-start"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require_root()
    with start_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def server(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One without a registry."""
    settings = {"runner": "kubernetes", "kube_config": str(cluster.kubeconfig), "kube_helper_image": IMAGE}
    with Server(tmp_path_factory.mktemp("kubernetes"), slots="20", kube_patience="3", **settings) as started:
        yield started


def submit(server: Server, cmd: str, *steps: str, **config: Any) -> dict[str, Any]:
    return server.submit(cmd, build={"image": IMAGE, "build_steps": list(steps)}, **config)


def pods_of(cluster: Any) -> dict[str, dict[str, Any]]:
    labels = {pod["metadata"]["labels"].get("polyjob.job"): pod for pod in cluster.pods()}
    return {uuid: pod for uuid, pod in labels.items() if uuid}


def outputs(server: Server, number: int) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(server.call("GET", f"{JOBS}/{number}/outputs").body)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                contents[member.name.partition("/")[2]] = content.read()
    return contents


def notes(job: dict[str, Any]) -> str:
    return " ".join(note["text"] for note in job["notes"] or [])


@pytest.fixture(scope="module")
def done(server: Server) -> dict[str, Any]:
    cmd = "cat /made; cat $POLYAXON_RUN_OUTPUTS_PATH/f 2>/dev/null; echo data >> $POLYAXON_RUN_OUTPUTS_PATH/f"
    return server.until_done(submit(server, cmd, "echo made > /made")["id"])


def test_job_is_built_and_keeps_its_log_and_outputs(server: Server, cluster: Any, done: dict[str, Any]) -> None:
    assert done["last_status"] == "succeeded", server.log(done["id"])
    assert server.statuses(done["id"]) == ["created", "scheduled", "building", "running", "succeeded"]
    assert server.log(done["id"]) == b"Step 1/1: echo made > /made\nmade\n"
    assert done["node_scheduled"] == "node-1"
    number = done["build_job"].rsplit(".", 1)[1]
    assert b"No registry is configured" in server.call("GET", f"{BASE}/builds/{number}/logs").body
    assert outputs(server, done["id"]) == {"f": b"data\n"}
    assert done["uuid"] not in pods_of(cluster)


@pytest.mark.parametrize(
    ("strategy", "log"), [("restart", b"made\n"), ("resume", b"made\ndata\n"), ("copy", b"made\ndata\n")]
)
def test_jobs_are_restarted_resumed_and_copied(server: Server, done: dict[str, Any], strategy: str, log: bytes) -> None:
    clone = server.until_done(server.call("POST", f"{JOBS}/{done['id']}/{strategy}").json["id"])
    assert (clone["last_status"], clone["build_job"]) == ("succeeded", done["build_job"])
    assert server.log(clone["id"]) == b"Step 1/1: echo made > /made\n" + log


@pytest.mark.parametrize("strategy", ["resume", "copy"])
@pytest.mark.parametrize("user", [0, 1000])
def test_clone_can_read_and_change_all_files(server: Server, cluster: Any, strategy: str, user: int) -> None:
    """They are kept in pieces of a MiB, made by whoever the image's user is, and closed to all others."""
    cluster.add_image(f"user-{user}", user=user)
    cmd = (
        "cd $POLYAXON_RUN_OUTPUTS_PATH; umask 077; "
        "if [ ! -e d ]; then mkdir d; for n in 1 2 3 4; do head -c 2000000 /dev/urandom > d/f$n; done; fi; "
        "md5sum d/f*; echo more >> d/f0; mv d/f0 d/g; mkdir d/n || exit 1; rm -r d/n"
    )
    first = server.until_done(server.submit(cmd, build={"image": f"user-{user}"})["id"])
    clone = server.until_done(server.call("POST", f"{JOBS}/{first['id']}/{strategy}").json["id"])
    assert (first["last_status"], clone["last_status"]) == ("succeeded", "succeeded"), server.log(clone["id"])
    assert server.log(clone["id"]) == server.log(first["id"])
    assert server.log(first["id"]).count(b"\n") == 4


def test_outputs_lost_with_their_helper_are_noted(server: Server, cluster: Any) -> None:
    job = submit(server, "echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 4")
    server.until(job["id"], "running")
    cluster.run_out_of_memory(f"polyjob-{job['uuid']}", "files")
    eventually(lambda: "outputs of the job may not be kept" in notes(server.job(job["id"])), 20, "the note")
    ended = server.until_done(job["id"])
    assert ended["last_status"] == "succeeded"
    assert "The container `files` of the job's pod has ended (OOMKilled, exit code 137)" in notes(ended)


def test_failing_step_ends_the_job_before_its_command(server: Server) -> None:
    job = server.until_done(submit(server, "echo not reached", "echo fine", "echo no; exit 3")["id"])
    assert job["last_status"] == "failed"
    assert server.statuses(job["id"]) == ["created", "scheduled", "building", "failed"]
    assert (job["exit"]["reason"], job["exit_code"]) == ("build", 3)
    last = server.call("GET", f"{JOBS}/{job['id']}/statuses").json["results"][-1]
    assert last["message"] == "The build failed: step 2 ended with exit code 3"
    assert (last["details"]["step"], last["details"]["exit_code"]) == (2, 3)
    assert b"not reached" not in server.log(job["id"])
    assert b"fine\n" in server.log(job["id"])


def test_job_is_building_until_its_steps_are_done(server: Server, cluster: Any) -> None:
    job = submit(server, "echo ran; sleep 60", "until [ -e /polyjob/go ]; do sleep 0.1; done")
    eventually(lambda: "their result is not kept" in notes(server.job(job["id"])), 30, "the note")
    assert server.job(job["id"])["last_status"] == "building"
    server.call("POST", f"{JOBS}/{job['id']}/stop")
    ended = server.until_done(job["id"])
    assert ended["last_status"] == "stopped"
    assert b"ran" not in server.log(job["id"])
    assert job["uuid"] not in pods_of(cluster)


def test_failing_command_fails_the_job(server: Server) -> None:
    assert server.until_done(submit(server, "exit 7")["id"])["exit_code"] == 7


def test_upload_is_in_the_working_folder(server: Server) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("folder/hello.txt")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"hello\n"))
    head = b'--x\r\nContent-Disposition: form-data; name="repo"; filename="r.tar.gz"\r\n\r\n'
    body = head + data.getvalue() + b"\r\n--x--\r\n"
    answer = server.call("PUT", f"{BASE}/repo/upload", body, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status in (200, 201), answer
    job = server.until_done(submit(server, "cat folder/hello.txt; pwd")["id"])
    assert server.log(job["id"]) == b"hello\n/code\n"


def test_pod_jobs_are_stopped_timed_out_and_deleted(server: Server, cluster: Any) -> None:
    keeps = "echo kept > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000 & sleep 1000"
    stopped, deleted = (submit(server, keeps) for _ in range(2))
    late = submit(server, keeps, termination={"timeout": 2, "grace": 1})
    for job in (stopped, deleted):
        server.until(job["id"], "running")
    server.call("POST", f"{JOBS}/{stopped['id']}/stop")
    assert server.until_done(stopped["id"])["last_status"] == "stopped"
    server.call("DELETE", f"{JOBS}/{deleted['id']}")
    ended = server.until_done(late["id"])
    statuses = server.call("GET", f"{JOBS}/{late['id']}/statuses").json["results"]
    assert (ended["last_status"], statuses[-1]["details"]["reason"]) == ("failed", "timeout")
    for job in (stopped, late):
        assert outputs(server, job["id"]) == {"f": b"kept\n"}
    ours = {job["uuid"] for job in (stopped, deleted, late)}
    eventually(lambda: not ours & pods_of(cluster).keys(), 30, "the end of all")


def test_job_of_a_removed_pod_is_lost(server: Server, cluster: Any) -> None:
    job = submit(server, "sleep 1000")
    server.until(job["id"], "running")
    cluster.delete(f"polyjob-{job['uuid']}", 0)
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "lost")


def test_unschedulable_pod_fails_the_job(server: Server, cluster: Any) -> None:
    config = {"environment": {"node_selector": {"disk": "none"}}}
    job = submit(server, "true", **config)
    eventually(lambda: "didn't match" in notes(server.job(job["id"])), 20, "the scheduler's words")
    assert server.job(job["id"])["last_status"] == "building"
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "start")
    assert "running" not in server.statuses(job["id"])
    assert job["uuid"] not in pods_of(cluster)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("rules", "words"),
    [({"quota": {"limits.cpu": "4"}}, "exceeded quota"), ({"least": {"cpu": "50m"}}, "minimum cpu usage")],
)
def test_rejected_job_fails_with_the_clusters_message(server: Server, cluster: Any, rules: Any, words: str) -> None:
    cluster.restrict(**rules)
    try:
        job, stopped = (submit(server, "true", environment={"resources": {"limits": {"cpu": 9}}}) for _ in range(2))
        eventually(lambda: words in notes(server.job(stopped["id"])), 20, "the refusal")
        server.call("POST", f"{JOBS}/{stopped['id']}/stop")
        assert server.until_done(stopped["id"])["last_status"] == "stopped"
        ended = server.until_done(job["id"])
    finally:
        cluster.restrict()
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "start")
    assert words in ended["exit"]["message"]
    assert "running" not in server.statuses(job["id"])
    assert not any(pod["metadata"]["labels"].get("polyjob.fence") for pod in cluster.pods())


def test_job_stopped_before_its_command_never_runs(server: Server) -> None:
    job = submit(server, "true", environment={"node_selector": {"disk": "none"}})
    eventually(lambda: "didn't match" in notes(server.job(job["id"])), 20, "the scheduler's words")
    server.call("POST", f"{JOBS}/{job['id']}/stop")
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["exit_code"], ended["exit"]["signal"]) == ("stopped", None, None)
    assert "running" not in server.statuses(job["id"])


def test_missing_image_fails_the_job(server: Server) -> None:
    job = server.submit("true", build={"image": "no-such-image:1"})
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "image")
    assert "no-such-image" in ended["exit"]["message"]


def test_oom_and_eviction_have_their_own_reasons(server: Server, cluster: Any) -> None:
    greedy, moved = submit(server, "sleep 1000"), submit(server, "sleep 1000")
    for job in (greedy, moved):
        server.until(job["id"], "running")
    cluster.run_out_of_memory(f"polyjob-{greedy['uuid']}", "job")
    assert server.until_done(greedy["id"])["exit"]["reason"] == "oom"
    cluster.evict(f"polyjob-{moved['uuid']}", "The node was low on resource: memory.")
    ended = server.until_done(moved["id"])
    assert (ended["last_status"], ended["exit"]["reason"]) == ("failed", "evicted")
    assert "low on resource" in ended["exit"]["message"]


def test_outage_of_the_api_server_ends_no_job(server: Server, cluster: Any) -> None:
    job = submit(server, "for i in $(seq 80); do echo $i; sleep 0.1; done")
    server.until(job["id"], "running")
    cluster.go_away()
    try:
        eventually(lambda: "cannot be reached" in notes(server.job(job["id"])), 30, "the note")
        assert server.job(job["id"])["last_status"] == "running"
    finally:
        cluster.come_back()
    ended = server.until_done(job["id"])
    assert (ended["last_status"], ended["notes"]) == ("succeeded", [])
    assert server.log(job["id"]) == b"".join(b"%d\n" % number for number in range(1, 81))


def test_long_log_is_complete(server: Server) -> None:
    job = server.until_done(submit(server, "seq 1 100000")["id"])
    assert server.log(job["id"]) == b"".join(b"%d\n" % number for number in range(1, 100_001))


def test_images_are_built_once_and_pushed(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    registry = Registry(cluster.add_image)
    settings = {"runner": "kubernetes", "kube_config": str(cluster.kubeconfig), "kube_helper_image": IMAGE}
    settings |= {"registry": f"http://{registry.host}", "builder_image": "python", "builder_command": BUILDER}
    try:
        with Server(tmp_path_factory.mktemp("registry"), slots="4", **settings) as server:
            first = server.until_done(submit(server, "echo ran", "echo made")["id"])
            assert first["last_status"] == "succeeded", server.log(first["id"])
            assert server.log(first["id"]) == b"ran\n"
            build = server.call("GET", f"{BASE}/builds/{first['build_job'].rsplit('.', 1)[1]}").json
            assert build["image"].startswith(registry.host)
            assert "echo made" in build["dockerfile"]
            assert server.until_done(submit(server, "true", "echo made")["id"])["build_job"] == first["build_job"]
            registry.images.clear()
            again = server.until_done(submit(server, "true", "echo made")["id"])
            assert (again["last_status"], again["build_job"] != first["build_job"]) == ("succeeded", True)
            failed = server.until_done(submit(server, "true", "true", "exit 3")["id"])
            assert failed["last_status"] == "failed"
            last = server.call("GET", f"{JOBS}/{failed['id']}/statuses").json["results"][-1]
            assert (last["details"]["step"], last["details"]["exit_code"]) == (2, 3)
    finally:
        registry.close()


def test_doctor_names_a_missing_permission(cluster: Any, make_server: Any) -> None:
    cluster.permit([right for right in PERMISSIONS if right != ("watch", "pods", "")])
    try:
        with make_server(runner="kubernetes", kube_config=str(cluster.kubeconfig)) as server:
            environment = server.environment | {"POLYJOB_DATA_DIR": str(server.data_dir)}
            command = [sys.executable, "-m", "polyjob", "doctor"]

            def readiness() -> str:
                return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout

            eventually(
                lambda: "this account may not: watch pods. deploy/kubernetes/rbac.yaml" in readiness(), 30, "the word"
            )
    finally:
        cluster.permit(None)


def test_jobs_survive_kill_9_of_all_processes(server: Server, cluster: Any) -> None:
    count, rounds = (20, 10) if SCALE >= 10 else (5, 3)
    ticks = rounds * 20
    cmd = f"for i in $(seq {ticks}); do echo $i; sleep 0.2; done; echo end > $POLYAXON_RUN_OUTPUTS_PATH/f; exit 5"
    jobs = [submit(server, cmd) for _ in range(count)]
    for job in jobs:
        server.until(job["id"], "running", seconds=90)
    ours = {job["uuid"] for job in jobs}

    def ids() -> dict[str, str]:
        return {uuid: pod["metadata"]["uid"] for uuid, pod in pods_of(cluster).items() if uuid in ours}

    before = ids()
    assert before.keys() == ours
    for _ in range(rounds):
        server.kill()
        server.start()
        found = pods_of(cluster)
        assert {uuid: pod["metadata"]["uid"] for uuid, pod in found.items() if uuid in ours}.items() <= before.items()
        for uuid in ours & found.keys():
            assert all(item["restartCount"] == 0 for item in found[uuid]["status"]["containerStatuses"])
    for job in jobs:
        ended = server.until_done(job["id"], seconds=120)
        assert (ended["last_status"], ended["exit_code"]) == ("failed", 5)
        assert server.log(job["id"]) == b"".join(b"%d\n" % number for number in range(1, ticks + 1))
        assert server.statuses(job["id"]).count("running") == 1
        assert outputs(server, job["id"]) == {"f": b"end\n"}
    assert not ours & pods_of(cluster).keys()
