"""Check the settings of a server before its start changes anything. Imports no database, because it comes first."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from polyjob.setting_values import SlotsByRunner
from polyjob.settings import SettingError, Settings
from runners.registry import RUNNERS, UnusableRunner, check_entry_points, runner_class, runner_names
from runners.volumes import Volume

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
    """Check that no volume gives jobs files that the administrator did not mean."""
    for volume in settings.volumes:
        reason = _claim_fault(volume, settings) if volume.is_claim else _folder_fault(volume, settings)
        if reason:
            raise SettingError(f"the volume `{volume.name}` of POLYJOB_VOLUMES cannot be {volume.source}: {reason}")


def _claim_fault(volume: Volume, settings: Settings) -> str | None:
    is_own = volume.source == settings.kubernetes.claim
    return "it is the claim of POLYJOB_KUBE_CLAIM, which has the files of all jobs" if is_own else None


def _folder_fault(volume: Volume, settings: Settings) -> str | None:
    folder, data_dir = Path(volume.source), settings.data_dir
    if _is_below(folder, data_dir) or _is_below(data_dir, folder):
        return f"it overlaps the data folder {data_dir}, so jobs could read the tokens of all users"
    others = [other for other in settings.volumes if not (other.is_claim or other.is_read_only)]
    for other in others:
        if other.source != volume.source and _is_below(folder, Path(other.source)):
            return f"it is in the read-write volume `{other.name}`, so a job could replace it by a link to any folder"
    return None


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or in it, as written or with links followed."""
    paths, folders = (path, path.resolve()), {folder, folder.resolve()}
    return any(folders & {one, *one.parents} for one in paths)


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
