"""Slots and GPUs that administrators change while the server runs."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Audit, StoredSetting
from polyjob.errors import Invalid
from polyjob.services import audit, capacity
from polyjob.services.audit import Actor


@pytest.fixture
def settings(settings):
    return dataclasses.replace(settings, runners=("fake", "process"), gpus=(0, 1))


def test_defaults_come_from_the_settings(settings):
    current = capacity.read(settings)
    assert (current.slots_of("fake"), current.slots_of("process"), current.gpus) == (2, 2, (0, 1))
    assert current.assigns_gpus


def test_change_of_one_runner_keeps_the_others(settings):
    capacity.change(settings, {"slots": {"fake": 5}})
    current = capacity.change(settings, {"slots": {"process": 0}})
    assert (current.slots_of("fake"), current.slots_of("process"), current.gpus) == (5, 0, (0, 1))


def test_change_is_kept_after_a_restart_with_other_settings(settings):
    capacity.change(settings, {"slots": {"fake": 5}, "gpus": [1]})
    restarted = capacity.read(dataclasses.replace(settings, slots=9, gpus=()))
    assert (restarted.slots_of("fake"), restarted.slots_of("process"), restarted.gpus) == (5, 9, (1,))


@pytest.mark.parametrize("slots", [{"fake": None}, None])
def test_null_restores_the_default(settings, slots):
    capacity.change(settings, {"slots": {"fake": 5}, "gpus": []})
    current = capacity.change(settings, {"slots": slots, "gpus": None})
    assert (current.slots_of("fake"), current.gpus) == (2, (0, 1))
    assert StoredSetting.select().count() == 0


def test_duplicate_gpus_count_once(settings):
    assert capacity.change(settings, {"gpus": [1, 0, 1]}).gpus == (1, 0)


def test_unlisted_runner_is_refused(settings):
    with pytest.raises(Invalid) as refused:
        capacity.change(settings, {"slots": {"docker": 1}})
    (problem,) = refused.value.problems
    assert problem.pointer == "/slots/docker"
    assert "fake, process" in problem.detail


def test_hidden_gpus_stay_hidden_without_usable_ones(settings):
    assert capacity.change(settings, {"gpus": []}).assigns_gpus


def test_change_leaves_an_audit_entry(settings, user):
    audit.set_actor(Actor(user))
    try:
        capacity.change(settings, {"slots": {"fake": 5}, "gpus": [1]})
    finally:
        audit.set_actor(None)
    entry = Audit.get()
    assert (entry.kind, entry.action, entry.target_id) == ("server", "update", None)
    assert entry.details == {"slots": {"fake": 5}, "gpus": [1]}
