"""A bare gunicorn, without `polyjob serve`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from polyjob.engine_link import engine_pid
from tests.e2e.conftest import ROOT, Server, eventually
from tests.server.helpers import is_alive, is_healthy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_engine_runs_and_ends_with_gunicorn(number, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(tmp_path, runner="fake", port=str(port), data_dir=str(tmp_path / "data"))
    server.port = port
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    server.process = subprocess.Popen(command, cwd=ROOT, env=server.environment, start_new_session=True)
    try:
        engine = eventually(lambda: engine_of(server.data_dir), 30, "the engine")
        server.token = (server.data_dir / "root-token").read_text().strip()
        eventually(lambda: is_healthy(server), 30, "an answer")
        assert engine not in server.engine_pids()
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: engine_of(server.data_dir) not in (None, engine), 30, "another engine")
        engine = engine_of(server.data_dir)
        assert engine
        assert is_alive(engine)
        server.process.send_signal(number)
        server.process.wait(20)
        eventually(lambda: not is_alive(engine), 20, "its end")
        eventually(lambda: helpers_of(server.process.pid) == [], 20, "the helper's end")
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)


def engine_of(data_dir):
    return engine_pid(data_dir) if data_dir.exists() else None


def helpers_of(pid):
    command_line = f"-m\0polyjob\0helper\0{pid}\0".encode()
    pids = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and command_line in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
    return [number for number in pids if is_alive(number)]


def test_failed_start_prints_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    for environ, message in [
        ({"POLYJOB_DATA_DIR": str(tmp_path / "file" / "data"), "POLYJOB_PORT": "0"}, "the data folder"),
        ({"POLYJOB_THREADS": "0"}, "POLYJOB_THREADS='0' is not valid"),
        ({"POLYJOB_RUNNER": "abacus", "POLYJOB_PORT": "0"}, "POLYJOB_RUNNER='abacus' is not valid"),
    ]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=os.environ | environ)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"polyjob: {message}")


def test_tls_options_are_refused(tmp_path):
    (tmp_path / "pem").write_text("")
    files = ["--certfile", str(tmp_path / "pem"), "--keyfile", str(tmp_path / "pem")]
    environ = os.environ | {"POLYJOB_DATA_DIR": str(tmp_path / "data"), "POLYJOB_PORT": "0"}
    command = [sys.executable, "-m", "gunicorn", "wsgi:app", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ)
    assert done.returncode == 1
    assert "the server has no TLS" in done.stderr
    assert not (tmp_path / "data").exists()
