"""The process beside each job: it runs the command, ends the job's processes, and records the exit.

It is called with the job's private folder and is detached, so that it outlives the server. While it runs, it holds a
lock on the file `attempt`. A job without that lock and without `exit.json` is lost.

| file | written by | content |
|---|---|---|
| `spec.json` | the runner | what to run |
| `stop` | the runner | number of the signal to send |
| `started` | the supervisor | empty; the command has started |
| `exit.json` | the supervisor | the exit, as JSON |
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from plain_runner.processes import kill_all, signal_all

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_SECONDS = 0.02


def supervise(folder: Path) -> None:
    attempt = (folder / "attempt").open("w")
    fcntl.flock(attempt, fcntl.LOCK_EX)
    if os.fork():
        return  # the runner goes on; the child keeps the lock
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    try:
        end = _run(json.loads((folder / "spec.json").read_text()), folder)
    except Exception as error:
        end = {"reason": "start", "message": f"The job could not be started: {error}"}
    _write(folder / "exit.json", json.dumps(end))
    os._exit(0)


def _run(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    work, outputs = Path(spec["folder"], "work"), Path(spec["folder"], "outputs")
    work.mkdir(exist_ok=True)
    outputs.mkdir(exist_ok=True)
    if spec["upload"]:
        with tarfile.open(spec["upload"]) as tarball:
            tarball.extractall(work, filter="data")
    if spec["inputs"]:
        _extract_inputs(spec["inputs"], outputs)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    with Path(spec["folder"], "log").open("ab") as log:
        job = subprocess.Popen(
            [spec["shell"], "-c", spec["cmd"]],
            cwd=work,
            env=spec["env"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    _write(folder / "started", "")
    code = _wait(job, spec["marker"], folder / "stop")
    kill_all(spec["marker"])
    if code < 0:
        return {"reason": "signalled", "code": 128 - code, "signal": -code}
    return {"reason": "exited", "code": code}


def _extract_inputs(path: str, outputs: Path) -> None:
    """Unpack the contents of the one folder in the tarball."""
    with tarfile.open(path) as tarball:
        for member in tarball:
            member.name = member.name.partition("/")[2]
            if member.name:
                tarball.extract(member, outputs, filter="data")


def _wait(job: subprocess.Popen[bytes], marker: str, stop: Path) -> int:
    """Wait for the command, send the signals that the runner requests, and return the exit code or minus a signal."""
    sent = ""
    while True:
        requested = stop.read_text() if stop.exists() else ""
        if requested != sent:
            signal_all(marker, int(requested))
            sent = requested
        elif sent == "9":
            signal_all(marker, 9)  # what the command has started meanwhile
        code = job.poll()
        if code is not None:
            return code
        time.sleep(POLL_SECONDS)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))
