"""Fixtures for the tests of services."""

from __future__ import annotations

import pytest

from polyjob.services import submission

from .helpers import CONFIG


@pytest.fixture
def create(project, user, settings):
    def create(**attributes):
        return submission.create(project, user, {"config": CONFIG} | attributes, settings)

    return create
