"""Commands that work on the data folder of a running server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from polyjob.cli.data_dir import settings_of_running_server
from polyjob.settings import read_settings
from tests.cli.helpers import invoke

HOLD_THE_LOCK = """
import sys, pathlib
from polyjob.engine_link import EngineLock
lock = EngineLock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("acquired", flush=True)
sys.stdin.read()
"""


def test_settings_are_those_of_the_running_server(tmp_path: Path) -> None:
    settings = read_settings({"POLYJOB_KEEP_DAYS": "1"}, data_dir=tmp_path)
    assert settings_of_running_server(settings) is None
    engine = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"POLYJOB_KEEP_DAYS": "7", "POLYJOB_CACHE_LIMIT": "3G", "POLYJOB_DATA_DIR": "/elsewhere"},
    )
    with engine:
        assert engine.stdout is not None and engine.stdout.readline() == b"acquired\n"
        running = settings_of_running_server(settings)
        assert engine.stdin is not None
        engine.stdin.close()
    assert running is not None
    assert (running.keep_days, running.cache_limit, running.data_dir) == (7, 3 << 30, tmp_path)


def test_gc_without_a_server_names_the_origin_of_its_limits(data_dir: Path) -> None:
    result = invoke("gc", "--dry-run", "--data-dir", str(data_dir))
    assert result.exit_code == 0
    assert "the limits are those of this shell" in result.stderr
