"""Check the settings of a server before its start changes anything. Imports no database, because it comes first."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from polyjob.setting_values import SlotsByRunner
from polyjob.settings import SettingError, Settings
from runners.registry import RUNNERS, UnusableRunner, check_entry_points, runner_class, runner_names

MIN_SQLITE_VERSION = (3, 37, 0)
LOG_LEVELS = ("debug", "info", "warning", "error")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def check_settings(settings: Settings) -> None:
    """Check for everything that would make every start fail, before anything is changed.

    Raises SettingError for an invalid setting, and RuntimeError for an SQLite that is too old.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        oldest = ".".join(map(str, MIN_SQLITE_VERSION[:2]))
        raise RuntimeError(f"SQLite {sqlite3.sqlite_version} is too old: polyjob needs {oldest} or newer")
    if _CONTROL.search(os.fsencode(settings.data_dir)):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a control character"
        )
    if "process" in settings.runner_names and os.pathsep in str(settings.data_dir):
        raise SettingError(
            f"the data folder {str(settings.data_dir)!a} cannot be used: its path has a `{os.pathsep}`, which would "
            "split the PATH of builds; choose a folder without one"
        )
    _check_runners(settings)
    _check_volumes(settings)
    if settings.log_level.lower() not in LOG_LEVELS:
        names = ", ".join(LOG_LEVELS)
        raise SettingError(f"POLYJOB_LOG_LEVEL={settings.log_level!r} is not valid: expected one of: {names}")


def _check_volumes(settings: Settings) -> None:
    """Check that no volume gives jobs the server's own files, or those of all jobs."""
    data_dir = settings.data_dir.resolve()
    for volume in settings.volumes:
        if volume.is_claim:
            if volume.source == settings.kubernetes.claim:
                raise SettingError(
                    f"the volume `{volume.name}` of POLYJOB_VOLUMES cannot be the claim of POLYJOB_KUBE_CLAIM, which "
                    "has the files of all jobs"
                )
            continue
        folder = Path(volume.source).resolve()
        if folder == data_dir or folder in data_dir.parents or data_dir in folder.parents:
            raise SettingError(
                f"the volume `{volume.name}` of POLYJOB_VOLUMES cannot be {volume.source}: it overlaps the data folder "
                f"{settings.data_dir}, so jobs could read the tokens of all users"
            )


def _check_runners(settings: Settings) -> None:
    """Check that all listed runners are installed, and that those of other packages can be used.

    Whether the SDKs of polyjob's own runners are installed is not checked: the engine reports that, and tries again.
    """
    installed = runner_names()
    names = ", ".join(name for name in installed if name != "fake")
    unknown = [name for name in settings.runner_names if name not in installed]
    if unknown and settings.runners:
        raise SettingError(
            f"POLYJOB_RUNNERS={' '.join(settings.runners)!r} is not valid: there is no runner {unknown[0]!r}; "
            f"expected some of: {names}"
        )
    if unknown:
        raise SettingError(f"POLYJOB_RUNNER={settings.runner!r} is not valid: expected one of: {names}")
    if isinstance(settings.slots, SlotsByRunner):
        for name, _ in settings.slots.numbers:
            if name not in installed:
                raise SettingError(
                    f"POLYJOB_SLOTS={str(settings.slots)!r} is not valid: there is no runner {name!r}; "
                    f"expected some of: {names}"
                )
    try:
        check_entry_points()
        for name in settings.runner_names:
            if name not in RUNNERS:
                runner_class(name)
    except UnusableRunner as error:
        raise SettingError(str(error)) from error
