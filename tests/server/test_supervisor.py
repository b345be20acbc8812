"""Child processes that are kept running."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from polyjob.server import supervisor
from polyjob.settings import read_settings
from tests.e2e.conftest import ROOT, eventually


def test_engine_waits_for_another_engine(server, tmp_path):
    theirs = dataclasses.replace(read_settings({}), data_dir=server.data_dir)
    eventually(lambda: not supervisor.engine_may_start(theirs), what="the lock of the server's engine")
    assert supervisor.engine_may_start(dataclasses.replace(theirs, data_dir=tmp_path / "none"))
    assert supervisor.engine_may_start(dataclasses.replace(theirs, data_dir=server.data_dir / "polyjob.db"))


def test_children_get_absolute_paths(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", f"a.yml{os.pathsep}/b.yml{os.pathsep}/gone/../c.yml")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}lib")
    environ = supervisor.child_environment(settings)
    assert environ["KUBECONFIG"] == f"{tmp_path}/a.yml{os.pathsep}/b.yml{os.pathsep}/c.yml"
    assert environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}{tmp_path}/lib"


def test_pause_doubles_until_a_child_lives_long(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    child = supervisor.Child("it", [sys.executable, "-c", ""], os.environ)
    pauses = []
    for lifetime in [0, 1, 1, 1, 1, 1, 1, 1, 9.9, 10, 0]:
        assert child.tend() is None
        _, status = os.waitpid(child.pid, 0)
        clock[0] += lifetime
        message = child.record_exit(status)
        pauses.append(child.tend())
        clock[0] += pauses[-1]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 0.1, 0.2])
    assert message == "it ended with exit code 0; restarting in 0.2 s"


def test_failed_start_of_a_child_is_retried():
    child = supervisor.Child("it", ["/no/such/program"], os.environ)
    assert child.tend() == pytest.approx(0.1)
    child.signal(signal.SIGTERM)
    assert child.pid is None


PARENT = """
import ctypes, os, sys, threading, time
from polyjob.server import supervisor

assert ctypes.CDLL(None).prctl(36, 1) == 0  # child subreaper: orphans become children, as of process 1
supervisor.TERM_TO_KILL_SECONDS = 0.5
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
children = [
    supervisor.Child("orphans", ["sh", "-c", "(true & true &) ; exec sleep 60"], os.environ),
    supervisor.Child("stubborn", [sys.executable, "-c", stubborn], os.environ),
]
supervisor.end_children.__defaults__ = (0.5,)
reading, writing = os.pipe()

def report():
    time.sleep(1.5)
    found = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    states = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] for pid in found]
    print(len(found), "Z" in states, flush=True)
    os.close(writing)

threading.Thread(target=report).start()
supervisor.tend(children, print, until=reading)
"""


def test_orphans_are_reaped_and_stubborn_children_killed():
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1", "2 False"]
