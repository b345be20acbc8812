"""A store, and the outputs folder of a job in it."""

from __future__ import annotations

import pytest

from polyjob.storage.store import Store
from runners.common.trees import remove_tree
from tests.storage.helpers import JOB


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    store.prepare()
    return store


@pytest.fixture
def folder(store):
    folder = store.make_job_folder(JOB) / "outputs"
    folder.mkdir()
    yield folder
    remove_tree(folder)
