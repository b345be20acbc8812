"""The check of settings before a start."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from polyjob.server.bootstrap import prepare_data_dir
from polyjob.server.settings_check import check_settings


def test_old_sqlite_is_refused(settings, monkeypatch):
    check_settings(settings)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.9")
    with pytest.raises(RuntimeError, match=r"^SQLite 3\.36\.9 is too old: polyjob needs 3\.37 or newer$"):
        prepare_data_dir(settings)


@pytest.mark.parametrize("runner", ["docker", "kubernetes", "fake"])
def test_colon_in_data_dir_is_refused_for_process_only(runner, settings, tmp_path):
    check_settings(dataclasses.replace(settings, runner=runner, data_dir=tmp_path / "a:b"))
