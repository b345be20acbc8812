"""The exits of containers, and the configuration of their start."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from runners.base import Reason
from runners.docker.containers import LAUNCH_IN_NEW_FOLDERS, WRITABLE_FOLDERS, boot_time, container_exit, unix_time

STATE = {
    "ExitCode": 0, "OOMKilled": False, "Error": "", "StartedAt": "2026-11-24T10:00:00.5Z",
    "FinishedAt": "2026-11-24T12:00:00.123456789Z",
}  # fmt: skip
ELEVEN = unix_time("2026-11-24T11:00:00Z")


@pytest.mark.parametrize(
    ("state", "booted_at", "reason", "code", "signal"),
    [
        ({}, None, Reason.EXITED, 0, None),
        ({"ExitCode": 3}, ELEVEN - 7200, Reason.EXITED, 3, None),
        ({"ExitCode": 3}, ELEVEN + 7200, Reason.EXITED, 3, None),
        ({"ExitCode": 0, "Error": "found"}, ELEVEN, Reason.LOST, None, None),
        ({"ExitCode": 137}, None, Reason.SIGNALLED, 137, 9),
        ({"ExitCode": 137, "OOMKilled": True}, None, Reason.OOM, 137, 9),
        ({"ExitCode": 0, "OOMKilled": True}, None, Reason.EXITED, 0, None),
        ({"ExitCode": 200}, None, Reason.EXITED, 200, None),
        ({"ExitCode": 255}, ELEVEN, Reason.LOST, None, None),
        ({"ExitCode": 255}, None, Reason.EXITED, 255, None),
        ({"ExitCode": 255}, ELEVEN - 7200, Reason.EXITED, 255, None),
        (
            {"ExitCode": 128, "StartedAt": "0001-01-01T00:00:00Z", "Error": "no such device"},
            None,
            Reason.START,
            128,
            None,
        ),
    ],
)
def test_exit_of_an_ended_container(
    state: dict[str, Any], booted_at: float | None, reason: Reason, code: int | None, signal: int | None
) -> None:
    end = container_exit(STATE | state, booted_at)
    assert (end.reason, end.code, end.signal) == (reason, code, signal)
    assert end.succeeded is (state == {} or state == {"ExitCode": 0, "OOMKilled": True})


def test_engine_times_become_unix_times() -> None:
    assert unix_time("1970-01-01T00:00:01.25Z") == 1.25
    assert unix_time("1970-01-01T00:01:00Z") == 60.0
    booted_at = boot_time()
    assert booted_at is not None
    assert booted_at > 1.6e9


@pytest.mark.parametrize("path", ["/opt/tool", "", "/usr/bin"])
def test_folders_are_created_with_any_path_variable(tmp_path: Path, path: str) -> None:
    launch = LAUNCH_IN_NEW_FOLDERS
    for folder in ("/polyjob", "/code"):
        launch = launch.replace(f" {folder}", f" {tmp_path}{folder}")
    command = ["/bin/sh", "-c", launch, "sh", 'echo "$PATH"']
    result = subprocess.run(command, env={"PATH": path}, stdout=subprocess.PIPE, check=True)
    assert result.stdout.decode().splitlines() == ["polyjob begins", path]
    assert [(tmp_path / folder.strip("/")).stat().st_mode & 0o777 for folder in WRITABLE_FOLDERS] == [0o777] * len(
        WRITABLE_FOLDERS
    )


def test_times_of_other_zones_become_unix_times() -> None:
    assert unix_time("1970-01-01T01:01:00.5+01:00") == 60.5
