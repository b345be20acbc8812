"""The check of settings before a start."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from polyjob.server.bootstrap import prepare_data_dir
from polyjob.server.settings_check import check_settings
from polyjob.setting_values import read_volumes
from polyjob.settings import SettingError
from runners.kubernetes.options import Options


def test_old_sqlite_is_refused(settings, monkeypatch):
    check_settings(settings)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.9")
    with pytest.raises(RuntimeError, match=r"^SQLite 3\.36\.9 is too old: polyjob needs 3\.37 or newer$"):
        prepare_data_dir(settings)


@pytest.mark.parametrize("runner", ["docker", "kubernetes", "fake"])
def test_colon_in_data_dir_is_refused_for_process_only(runner, settings, tmp_path):
    check_settings(dataclasses.replace(settings, runner=runner, data_dir=tmp_path / "a:b"))


@pytest.mark.parametrize("folder", ["{data}", "{data}/jobs", "{parent}", "/", "{link}"])
def test_volume_that_overlaps_the_data_folder_is_refused(settings, tmp_path, folder):
    (tmp_path / "link").symlink_to(settings.data_dir.parent)
    places = {"data": settings.data_dir, "parent": settings.data_dir.parent, "link": tmp_path / "link"}
    volumes = read_volumes(f"data={folder.format(**places)}:ro")
    with pytest.raises(SettingError, match=r"the volume `data` of POLYJOB_VOLUMES cannot be .*: it overlaps the data"):
        check_settings(dataclasses.replace(settings, volumes=volumes))
    check_settings(dataclasses.replace(settings, volumes=read_volumes(f"data={settings.data_dir}-2:ro")))


@pytest.mark.parametrize("access", ["ro", "rw"])
@pytest.mark.parametrize("folder", ["models/sub", "link"])
def test_volume_in_a_read_write_volume_is_refused(settings, tmp_path, folder, access):
    (tmp_path / "models/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("models/sub")
    data, models = f"data={tmp_path}/{folder}:{access}", f"models={tmp_path}/models"
    with pytest.raises(SettingError, match=r"the volume `data` .* is in the read-write volume `models`"):
        check_settings(dataclasses.replace(settings, volumes=read_volumes(f"{data} {models}:rw")))
    both = f"{models}:rw read={tmp_path}/models:ro"
    check_settings(dataclasses.replace(settings, volumes=read_volumes(both)))


def test_claim_with_the_files_of_all_jobs_is_no_volume(settings):
    offered = dataclasses.replace(settings, volumes=read_volumes("data=claim:jobs:ro"))
    check_settings(offered)
    with pytest.raises(SettingError, match="it is the claim of POLYJOB_KUBE_CLAIM"):
        check_settings(dataclasses.replace(offered, kubernetes=Options(claim="jobs")))
