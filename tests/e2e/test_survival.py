"""Jobs survive the death of the server: they go on, run once, and lose nothing."""

from __future__ import annotations

import io
import os
import signal
import tarfile

import pytest

from .conftest import JOBS, eventually, processes_of

COUNT = (
    "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; sleep 0.25; done;"
    " echo $$ > $POLYAXON_RUN_OUTPUTS_PATH/pid; exit 3"
)
LINES = b"".join(b"line %d\n" % number for number in range(1, 13))


def outputs(server, number):
    with tarfile.open(fileobj=io.BytesIO(server.call("GET", f"{JOBS}/{number}/outputs").body)) as archive:
        return {name.split("/", 1)[1]: archive.extractfile(name).read() for name in archive.getnames() if "/" in name}


def check_whole(server, number):
    job = server.until_done(number)
    assert server.statuses(number) == ["created", "scheduled", "running", "failed"]
    assert (job["exit_code"], job["exit"]["reason"]) == (3, "exited")
    assert server.log(number) == LINES
    assert outputs(server, number)["pid"].strip().isdigit()


@pytest.mark.parametrize("victim", ["engine", "workers", "both", "everything"])
def test_running_job_survives_kill_9(victim, make_server):
    server = make_server(slots="2")
    server.start()
    number = server.submit(COUNT)["id"]
    server.until(number, "running")
    eventually(lambda: b"line 2\n" in server.log(number))
    if victim == "everything":
        server.kill()
        server.start()
    else:
        pids = {"engine": server.engine_pids(), "workers": server.worker_pids()}
        pids["both"] = pids["engine"] + pids["workers"]
        assert pids[victim]
        for pid in pids[victim]:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: _answers(server), what="an answer")
    check_whole(server, number)


def _answers(server):
    try:
        return server.call("GET", "/healthz").status == 200
    except OSError:
        return False


def test_job_that_ended_while_the_server_was_down_is_recorded(make_server):
    server = make_server()
    server.start()
    number = server.submit("sleep 1; echo late; exit 5")["id"]
    uuid = server.job(number)["uuid"]
    server.until(number, "running")
    server.kill()
    eventually(lambda: not processes_of(uuid), what="the job's end")
    server.start()
    job = server.until_done(number)
    assert (job["last_status"], job["exit_code"]) == ("failed", 5)
    assert server.log(number) == b"late\n"


def test_ctrl_c_reports_the_jobs_that_go_on(make_server):
    server = make_server()
    server.start()
    go_on = server.data_dir.parent / "go-on"
    number = server.submit(f"until [ -e {go_on} ]; do sleep 0.1; done; echo done")["id"]
    server.until(number, "running")
    assert server.interrupt() == 0
    assert any("1 job" in line for line in server.lines), server.lines
    assert processes_of(server_job_uuid(server, number))
    server.process = None
    server.lines.clear()
    server.start()
    go_on.touch()
    assert server.until_done(number)["last_status"] == "succeeded"
    assert server.log(number) == b"done\n"


def server_job_uuid(server, number):
    import sqlite3

    with sqlite3.connect(server.data_dir / "polyjob.db") as connection:
        uuid = connection.execute("SELECT uuid FROM job WHERE id = ?", (number,)).fetchone()[0]
    connection.close()
    return uuid


def test_stop_kills_a_stubborn_process_tree(make_server):
    server = make_server(stop_grace="1")
    server.start()
    job = server.submit("trap '' TERM; setsid sleep 1000 & sleep 1000")
    server.until(job["id"], "running")
    eventually(lambda: len(processes_of(job["uuid"])) >= 3, what="the tree")
    answer = server.call("POST", f"{JOBS}/{job['id']}/stop")
    assert (answer.status, answer.body) == (200, b"")
    assert server.until_done(job["id"])["last_status"] == "stopped"
    assert processes_of(job["uuid"]) == []


def test_stopped_server_leaves_no_process(make_server):
    server = make_server()
    server.start()
    number = server.submit("true")["id"]
    server.until_done(number)
    assert server.interrupt() == 0
    folder = str(server.data_dir)

    def left():
        from pathlib import Path

        pids = []
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    if folder in (process / "cmdline").read_bytes().decode(errors="replace"):
                        pids.append(process.name)
                except OSError:
                    pass
        return pids

    eventually(lambda: not left(), 10, "the end of every process")
