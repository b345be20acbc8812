"""Commands that work on the data folder of a running server."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyjob.cli.data_dir import settings_of_running_server, settings_of_server
from polyjob.server import systemd
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


@pytest.fixture
def service(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> systemd.Layout:
    """A service that is installed for the data folder."""
    layout = systemd.Layout(tmp_path / "machine")
    for path, text in ((layout.unit, systemd.unit_text(layout)), (layout.environment, "POLYJOB_KEEP_DAYS=7\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    layout.data_dir.parent.mkdir(parents=True)
    data_dir.rename(layout.data_dir)
    monkeypatch.setattr(systemd, "Layout", lambda: layout)
    return layout


def test_gc_of_a_stopped_service_uses_its_settings(service: systemd.Layout) -> None:
    settings = read_settings({"POLYJOB_KEEP_DAYS": "1"}, data_dir=service.data_dir)
    of_server, origin = settings_of_server(settings)
    assert (of_server.keep_days, of_server.data_dir) == (7, service.data_dir)
    assert str(service.environment) in origin
    elsewhere = dataclasses.replace(settings, data_dir=service.data_dir.parent)
    assert settings_of_server(elsewhere) == (elsewhere, "this shell")
    result = invoke("gc", "--dry-run", "--data-dir", str(service.data_dir))
    assert (result.exit_code, str(service.environment) in result.stderr) == (0, True), result.stderr


def test_gc_of_a_stopped_service_uses_its_drop_ins(service: systemd.Layout) -> None:
    override = service.unit.parent / "polyjob.service.d" / "override.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nEnvironment=POLYJOB_KEEP_GB=5\n")
    found, origin = settings_of_server(read_settings({}, data_dir=service.data_dir))
    assert (found.keep_days, found.keep_gb) == (7, 5)
    assert str(override) in origin


def test_gc_refuses_settings_that_it_cannot_read(service: systemd.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layout: systemd.Layout) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(layout.environment))

    monkeypatch.setattr(systemd, "service_environment", refuse)
    result = invoke("gc", "--data-dir", str(service.data_dir))
    assert result.exit_code == 1
    assert f"{service.environment} has the limits of this data folder" in result.stderr


def test_invalid_setting_of_the_service_is_named(service: systemd.Layout) -> None:
    service.environment.write_text("POLYJOB_KEEP_DAYS=x\n")
    result = invoke("gc", "--data-dir", str(service.data_dir))
    assert (result.exit_code, "POLYJOB_KEEP_DAYS='x'" in result.stderr) == (1, True)


def test_gc_without_a_server_names_the_origin_of_its_limits(data_dir: Path) -> None:
    result = invoke("gc", "--dry-run", "--data-dir", str(data_dir))
    assert result.exit_code == 0
    assert "The limits are those of this shell" in result.stderr
