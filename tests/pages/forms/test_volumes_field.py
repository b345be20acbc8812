"""The volumes in the form for a new job."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Job
from polyjob.setting_values import read_volumes
from polyjob.settings import Settings

from .conftest import Browser

SUBMIT = "/ana/demo/submit"


class TestServerWithVolumes:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return dataclasses.replace(settings, volumes=read_volumes("data=/srv/data:ro models=/srv/models:rw"))

    def test_field_shows_the_volumes_and_takes_their_names(self, ana: Browser) -> None:
        assert "separated by commas: data (read-only), models." in ana.get(SUBMIT).text
        ana.fill(SUBMIT, cmd="true", volumes="data, models")
        assert Job.get().config["environment"]["data_refs"] == ["data", "models"]

    def test_names_are_added_to_those_of_the_config(self, ana: Browser) -> None:
        config = "run: {cmd: x}\nenvironment: {persistence: {data: [models]}}"
        ana.fill(SUBMIT, config=config, volumes="data")
        assert Job.get().config["environment"] == {"persistence": {"data": ["models", "data"]}}

    def test_unknown_name_is_marked(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 400, cmd="true", volumes="x")
        assert "Volumes: There is no volume x for the fake runner; it has: data, models." in page.text
        assert Job.select().count() == 0


def test_form_of_a_server_without_volumes_has_no_field(ana: Browser) -> None:
    assert "volumes" not in ana.get(SUBMIT).elements
