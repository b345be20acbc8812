"""Compose a job from single fields."""

from __future__ import annotations

import copy

import pytest

from polyjob.jobconfig.compose import JobFields, compose_job, working_folder
from polyjob.jobconfig.parsing import parse_content


def config_of(base=None, **fields):
    return compose_job(JobFields(**fields), base).body["config"]


def test_every_field_has_its_place():
    job = compose_job(
        JobFields(
            command="x",
            image="i",
            build_steps=["s", "t"],
            env_vars=[("A", "1=2"), ("B", "")],
            resources={"cpu": "2", "gpu": "1"},
            params={"n": 3},
            backend="docker",
            timeout=2.5,
            name="first",
            tags=("a", "b"),
        )
    )
    assert job.body == {
        "config": {
            "run": {"cmd": "x"},
            "build": {"image": "i", "build_steps": ["s", "t"]},
            "environment": {
                "env_vars": [["A", "1=2"], ["B", ""]],
                "resources": {"cpu": {"limits": "2"}, "gpu": {"limits": "1"}},
            },
            "params": {"n": 3},
            "backend": "docker",
            "termination": {"timeout": 2.5},
        },
        "name": "first",
        "tags": ["a", "b"],
    }
    assert job.sources == {
        ("config", "run"): "command",
        ("config", "build", "image"): "image",
        ("config", "build", "build_steps", "0"): "build_steps",
        ("config", "build", "build_steps", "1"): "build_steps",
        ("config", "environment", "env_vars", "0"): "env_vars",
        ("config", "environment", "env_vars", "1"): "env_vars",
        ("config", "environment", "resources", "cpu"): "cpu",
        ("config", "environment", "resources", "gpu"): "gpu",
        ("config", "params", "n"): "params",
        ("config", "backend"): "backend",
        ("config", "termination", "timeout"): "timeout",
        ("name",): "name",
        ("tags",): "tags",
    }


def test_empty_fields_change_nothing():
    base = {"run": {"cmd": "x"}, "tags": ["a"]}
    job = compose_job(JobFields(image="", build_steps=[], resources={"cpu": ""}), base)
    assert (job.body, job.sources) == ({"config": base}, {})


def test_empty_command_is_kept():
    assert config_of({"run": {"cmd": "x"}}, command="")["run"] == {"cmd": ""}


@pytest.mark.parametrize(("seconds", "expected"), [(60.0, 60), (0.5, 0.5), (float("inf"), float("inf"))])
def test_whole_seconds_become_an_integer(seconds, expected):
    timeout = config_of(timeout=seconds)["termination"]["timeout"]
    assert (timeout, type(timeout)) == (expected, type(expected))


def test_fields_add_to_lists_and_replace_values():
    base = {
        "run": {"cmd": "old"},
        "build": {"image": "old", "build_steps": ["a"]},
        "environment": {"env_vars": {"X": 1}, "resources": {"cpu": {"requests": 1}, "memory": {"limits": 5}}},
        "params": {"a": 1},
    }
    before = copy.deepcopy(base)
    job = compose_job(
        JobFields(
            command="new", image="i", build_steps=["b"], env_vars=[("Y", "2")], resources={"cpu": "2"}, params={"b": 2}
        ),
        base,
    )
    assert job.body["config"] == {
        "run": {"cmd": "new"},
        "build": {"image": "i", "build_steps": ["a", "b"]},
        "environment": {
            "env_vars": [["X", 1], ["Y", "2"]],
            "resources": {"cpu": {"limits": "2"}, "memory": {"limits": 5}},
        },
        "params": {"a": 1, "b": 2},
    }
    assert ("config", "build", "build_steps", "1") in job.sources
    assert ("config", "environment", "env_vars", "1") in job.sources
    assert base == before


def test_sections_shared_by_a_yaml_alias_are_changed_apart():
    base = parse_content("build: &a {image: i}\nenvironment: *a\n")
    config = config_of(base, build_steps=["s"], env_vars=[("A", "1")])
    assert config["build"] == {"image": "i", "build_steps": ["s"]}
    assert config["environment"] == {"image": "i", "env_vars": [["A", "1"]]}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("build: [a]", {"image": "i"}),
        ("build: python:3.11", {"build_steps": ("s",)}),
        ("build: {build_steps: text}", {"build_steps": ("s",)}),
        ("environment: 3", {"env_vars": [("A", "1")]}),
        ("environment: {env_vars: prod}", {"env_vars": [("A", "1")]}),
        ("environment: {resources: 2}", {"resources": {"memory": "1Gi"}}),
        ("params: [1]", {"params": {"a": 1}}),
        ("termination: 5", {"timeout": 3.0}),
    ],
)
def test_section_of_the_wrong_type_is_left_unchanged(text, fields):
    base = parse_content(text)
    job = compose_job(JobFields(**fields), base)
    assert (job.body["config"], job.sources) == (base, {})


def test_empty_section_is_filled():
    assert config_of({"build": None}, image="i") == {"build": {"image": "i"}}


def test_variables_of_the_caller_replace_no_others():
    caller_vars = [("PATH", "/caller"), ("LANG", "C"), ("A", "caller"), ("B", "caller")]
    base = {"build": {"lang_env": "de", "env_vars": {"A": "build"}}, "environment": {"env_vars": [["PATH", "/own"]]}}
    config = config_of(base, caller_vars=caller_vars, env_vars=[("B", "option")])
    assert config["environment"]["env_vars"] == [["PATH", "/own"], ["B", "option"]]
    assert config_of({}, caller_vars=caller_vars[:1])["environment"] == {"env_vars": [["PATH", "/caller"]]}


@pytest.mark.parametrize("base", [{"environment": 5}, {"environment": {"env_vars": 5}}, {"build": [1]}])
def test_variables_of_the_caller_leave_an_invalid_config_unchanged(base):
    config = config_of(base, caller_vars=[("PATH", "/caller")])
    assert {key: config[key] for key in base} == base


@pytest.mark.parametrize(
    ("own", "folder"), [({}, "/caller"), ({"workdir": None}, "/caller"), ({"workdir": "/a"}, "/a")]
)
def test_working_folder_of_the_config_wins(own, folder):
    config = config_of({"environment": own}, workdir="/caller")
    assert config["environment"]["workdir"] == working_folder(config) == folder


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({}, {"data_refs": ["b", "c"]}),
        ({"data_refs": ["a"]}, {"data_refs": ["a", "b", "c"]}),
        ({"persistence": {"data": ["a"]}}, {"persistence": {"data": ["a", "b", "c"]}}),
        ({"persistence": {"outputs": "o"}}, {"persistence": {"outputs": "o"}, "data_refs": ["b", "c"]}),
        ({"data_refs": "a"}, {"data_refs": "a"}),
    ],
)
def test_volumes_are_added_to_the_list_of_the_config(base, expected):
    assert config_of({"environment": base}, volumes=("b", "c"))["environment"] == expected


@pytest.mark.parametrize("config", [None, {}, {"environment": None}, {"environment": 5}])
def test_config_without_a_working_folder_has_none(config):
    assert working_folder(config) is None
