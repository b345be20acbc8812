"""The volumes of the setting, and the names of them in configs."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.errors import Invalid
from polyjob.services import specs, volumes
from polyjob.setting_values import read_volumes

CONFIG = {"version": 1, "kind": "job", "build": {"image": "img"}, "run": {"cmd": "true"}}
FOLDERS = "data=/srv/data:ro models=/srv/models:rw"


@pytest.fixture
def offering(settings):
    """Return settings with the volumes of a text, for these runners."""

    def change(text, *runners):
        names = runners or (settings.runner,)
        return dataclasses.replace(settings, volumes=read_volumes(text), runner=names[0], runners=names)

    return change


def naming(*names, spelling="data_refs"):
    part = {"persistence": {"data": list(names)}} if spelling == "persistence" else {"data_refs": list(names)}
    return CONFIG | {"environment": part}


def refusal(config, runner, settings):
    with pytest.raises(Invalid) as refused:
        specs.check_runner_support(config, runner, settings)
    return [(problem.pointer, problem.detail) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("spelling", "pointer"),
    [("data_refs", "/config/environment/data_refs/1"), ("persistence", "/config/environment/persistence/data/1")],
)
def test_unknown_name_is_refused_with_the_known_ones(offering, spelling, pointer):
    config = naming("data", "dat", spelling=spelling)
    assert refusal(config, "docker", offering(FOLDERS)) == [
        (pointer, "There is no volume `dat` for the docker runner; it has: data, models.")
    ]


def test_server_without_volumes_says_who_can_add_them(offering):
    [(_, detail)] = refusal(naming("data"), "docker", offering(""))
    assert detail == (
        "There is no volume `data`: this server has none for the docker runner; "
        "an administrator names a folder in `POLYJOB_VOLUMES`."
    )


def test_each_runner_has_the_volumes_of_its_kind(offering):
    settings = offering("data=/srv/data:ro models=claim:models:rw")
    assert specs.check_runner_support(naming("models"), "kubernetes", settings) == []
    assert specs.check_runner_support(naming("data"), "docker", settings) == []
    assert refusal(naming("data"), "kubernetes", settings)[0][1].endswith("it has: models.")
    assert refusal(naming("models"), "docker", settings)[0][1].endswith("it has: data.")


def test_list_has_the_path_in_a_job_of_each_runner(offering):
    settings = offering("data=/srv/data:ro models=claim:models:rw", "process", "docker")
    listed = [(volume.name, paths) for volume, paths in volumes.list_volumes(settings)]
    assert listed == [("data", {"process": "/srv/data", "docker": "/volumes/data"})]


@pytest.mark.parametrize("spelling", ["data_refs", "persistence"])
def test_job_gets_only_the_volumes_that_it_names(offering, spelling):
    [volume] = volumes.volumes_of(naming("models", spelling=spelling), offering(FOLDERS), "docker")
    assert (volume.name, volume.source, volume.is_read_only) == ("models", "/srv/models", False)
    assert volumes.volumes_of(CONFIG, offering(FOLDERS), "docker") == ()


def test_missing_folders_are_reported(offering, tmp_path):
    (tmp_path / "file").touch()
    text = f"here={tmp_path} gone={tmp_path}/gone file={tmp_path}/file models=claim:models"
    assert volumes.missing_folders(offering(text, "process")) == [
        f"The folder {tmp_path}/gone of the volume `gone` does not exist.",
        f"The folder {tmp_path}/file of the volume `file` is not a folder.",
    ]


def test_missing_folder_may_be_on_the_machine_of_the_engine(offering, tmp_path):
    [sentence] = volumes.missing_folders(offering(f"gone={tmp_path}/gone", "docker"))
    assert sentence.endswith("does not exist on this machine; jobs need it on the machine of the Docker Engine.")
    assert volumes.missing_folders(offering(f"gone={tmp_path}/gone", "kubernetes")) == []
