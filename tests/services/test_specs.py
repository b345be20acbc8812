import dataclasses
import json
import platform
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from polyjob.errors import Invalid
from polyjob.jobconfig.commands import shell_text
from polyjob.services import specs
from polyjob.services.cloning import merge_patch
from polyjob.setting_values import MIB
from runners.capabilities import CAPABILITIES, SupportLevel
from runners.kubernetes.options import Options

CONFIG = {"version": 1, "kind": "job", "build": {"image": "img"}, "run": {"cmd": "true"}}


def with_part(path, value):
    """Return CONFIG with `value` at the dotted path."""
    config = json.loads(json.dumps(CONFIG))
    *parents, last = path.split(".")
    section = config
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
    return config


@pytest.mark.parametrize("path", [path for path, support in CAPABILITIES["process"].items()])
def test_each_part_is_supported_as_the_table_lists(path):
    level = CAPABILITIES["process"][path].level
    config = with_part(path, {"x": 1})
    if level is SupportLevel.REFUSED:
        with pytest.raises(Invalid) as refused:
            specs.check_runner_support(config, "process")
        assert [problem.pointer for problem in refused.value.problems] == ["/config/" + path.replace(".", "/")]
        assert path in refused.value.problems[0].detail
    else:
        kinds = [note["kind"] for note in specs.check_runner_support(config, "process")]
        assert (path in kinds) is (level is SupportLevel.NOTED)


@pytest.mark.parametrize("runner", ["process", "docker", "kubernetes"])
def test_each_refusal_names_an_alternative(runner):
    for path, support in CAPABILITIES[runner].items():
        if support.level is SupportLevel.REFUSED:
            with pytest.raises(Invalid) as refused:
                specs.check_runner_support(with_part(path, {"x": 1}), runner)
            (detail,) = [problem.detail for problem in refused.value.problems]
            assert re.fullmatch(r"The \w+ runner cannot honour `[a-z_.]+`: [^;]+; [^;]+\.", detail), detail


def test_every_refused_part_is_reported():
    config = with_part("build.dockerfile", "Dockerfile") | {"environment": {"configmap_refs": ["s"]}}
    with pytest.raises(Invalid) as refused:
        specs.check_runner_support(config, "process")
    assert len(refused.value.problems) == 2


def test_empty_parts_count_as_missing():
    config = with_part("environment", {"secret_refs": [], "max_restarts": 0, "persistence": None})
    assert [note["kind"] for note in specs.check_runner_support(config, "process")] == ["build.image"]


class TestBuildKey:
    def key(self, runner="process", files=None, python="", **build):
        return specs.build_key({"build": {"image": "img"} | build}, runner, files or {}, python)[0]

    def test_key_depends_on_everything_that_affects_the_artifact(self):
        base = self.key(build_steps=["a"])
        assert base == self.key(build_steps=["a"], nocache=True)
        different = [
            self.key(build_steps=["b"]),
            self.key(build_steps=["a", "a"]),
            self.key(build_steps=["a"], env_vars=[["A", "1"]]),
            self.key(build_steps=["a"], lang_env="C"),
            self.key(build_steps=["a"], files={"requirements.txt": "0" * 64}),
            self.key(build_steps=["a"], runner="fake"),
            self.key(build_steps=["a"], python="/usr/bin/python3.9"),
        ]
        assert len({base, *different}) == len(different) + 1

    @pytest.mark.parametrize(("runner", "depends"), [("process", False), ("docker", True), ("kubernetes", True)])
    def test_key_depends_on_the_image_if_it_is_used(self, runner, depends):
        one, other = (self.key(runner, build_steps=["a"], image=image) for image in ("python:3.11", "python:3.12"))
        assert (one != other) is depends

    @pytest.mark.parametrize("runner", ["docker", "kubernetes"])
    def test_key_of_an_image_ignores_the_python_setting(self, runner):
        assert self.key(runner) == self.key(runner, python="/usr/bin/python3.9")

    def test_key_includes_the_python_of_the_virtualenv(self):
        config = {"build": {"build_steps": ["a"]}}
        assert specs.build_key(config, "process", {})[1]["python"] == platform.python_version()
        assert specs.build_key(config, "process", {}, "python3.9")[1]["python"] == "python3.9"

    def test_key_ignores_the_order_of_variables(self):
        assert self.key(env_vars=[["A", "1"], ["B", "2"]]) == self.key(env_vars=[["B", "2"], ["A", "1"]])


def test_job_command_is_the_shell_text():
    assert specs.job_command({"run": {"cmd": ["a b", "c"]}}) == shell_text(["a b", "c"])
    assert specs.job_command({"run": {"cmd": "a  'b'\n"}}) == "a  'b'\n"


@pytest.mark.parametrize("part", ["build", "environment"])
@pytest.mark.parametrize(("gpus", "devices"), [(0, "none"), (1, "all")])
def test_variables_cannot_give_a_job_gpus(part, gpus, devices):
    config = {"environment": {"resources": {"gpu": {"limits": gpus}}}, "run": {"cmd": "x"}}
    config[part] = {**config.get(part, {}), "env_vars": [["NVIDIA_VISIBLE_DEVICES", "all"]]}
    project = SimpleNamespace(unique_name="a.b", uuid="0" * 32)
    job = SimpleNamespace(
        config=config,
        project=project,
        gpus=None,
        runner="docker",
        uuid="1" * 32,
        unique_name="a.b.jobs.1",
        name=None,
        tags=None,
    )
    settings = SimpleNamespace(public_url="http://x", url="http://x")
    assert specs.job_env(job, settings, "t")["NVIDIA_VISIBLE_DEVICES"] == devices


def test_limit_counts_before_the_request():
    requested = {"cpu": {"requests": 1, "limits": 2.5}, "memory": {"requests": 512}, "gpu": {"limits": 1}}
    resources = specs.parse_resources(requested)
    assert (resources.cpu, resources.memory, resources.gpu) == (2.5, 512 * MIB, 1)
    assert specs.parse_resources({}) == specs.Resources()


def test_timeouts_and_grace_fall_back_to_the_settings(settings):
    assert specs.time_limit(CONFIG, settings) is None
    assert specs.grace_period(CONFIG, settings) == 10.0
    config = CONFIG | {"termination": {"timeout": 5, "grace": 0}}
    assert (specs.time_limit(config, settings), specs.grace_period(config, settings)) == (5.0, 0.0)


def test_patch_merges_mappings_and_replaces_other_values():
    document = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge_patch(document, {"a": {"c": [3]}, "d": None, "e": {}}) == {"a": {"b": 1, "c": [3]}, "d": None, "e": {}}
    assert document == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


@pytest.mark.parametrize(
    ("runner", "page"),
    [("process", "job-config.md"), ("docker", "docker-runner.md"), ("kubernetes", "kubernetes-runner.md")],
)
def test_docs_have_the_table_of_capabilities(runner, page):
    page = (Path(__file__).parents[2] / "docs" / page).read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (honoured|noted|refused) \| (.*) \|$", page, re.MULTILINE)
    table = [(path, str(support.level), support.reason) for path, support in CAPABILITIES[runner].items()]
    assert rows == table


@pytest.mark.parametrize("runner", ["docker", "kubernetes"])
def test_container_needs_an_image(runner):
    with pytest.raises(Invalid) as refused:
        specs.check_runner_support({"run": {"cmd": "true"}}, runner)
    assert [problem.pointer for problem in refused.value.problems] == ["/config/build/image"]
    assert specs.check_runner_support({"run": {"cmd": "true"}, "build": {"image": "a"}}, runner) == []


def test_cluster_assigns_its_gpus_itself(settings):
    without = dataclasses.replace(settings, gpus=())
    config = {"run": {"cmd": "true"}, "build": {"image": "a"}, "environment": {"resources": {"gpu": {"limits": 8}}}}
    assert specs.check_runner_support(config, "kubernetes", without) == []
    assert (specs.requested_gpus(config, "kubernetes"), specs.requested_gpus(config, "docker")) == (0, 8)
    with pytest.raises(Invalid):
        specs.check_runner_support(config, "docker", without)


def test_requests_and_limits_are_separate_for_a_cluster():
    requested = {"cpu": {"requests": 1, "limits": 2.5}, "memory": {"requests": 512}}
    assert specs.parse_resources(requested, "requests") == specs.Resources(cpu=1, memory=512 * MIB)
    assert specs.parse_resources(requested, "limits") == specs.Resources(cpu=2.5)


def test_placement_has_every_part_of_environment():
    environment = {
        "node_selector": {"disk": "ssd"},
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"operator": "Exists"}],
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "image_pull_secrets": ["pull"],
        "service_account": "account",
        "secret_refs": ["keys", "A_SECRET_OF_POLYJOB"],
        "configmap_refs": ["old", "both"],
        "config_map_refs": ["both", "new"],
    }
    assert specs.parse_placement(environment) == specs.Placement(
        node_selector={"disk": "ssd"},
        affinity={"nodeAffinity": {}},
        tolerations=({"operator": "Exists"},),
        labels={"a": "b"},
        annotations={"c": "d"},
        pull_secrets=("pull",),
        service_account="account",
        secrets=("keys",),
        config_maps=("old", "both", "new"),
    )
    assert specs.parse_placement({}) == specs.Placement()


def test_runner_gets_its_own_settings(settings):
    settings = dataclasses.replace(settings, kubernetes=Options(namespace="jobs", registry="r/x"))
    options = specs.runner_settings(settings, "a" * 32, "kubernetes").options
    assert (options["namespace"], options["registry"], options["patience"]) == ("jobs", "r/x", "600")
    assert "claim" not in options


@pytest.mark.parametrize(
    ("runner", "host", "public_url", "address"),
    [
        ("docker", "0.0.0.0", "", "http://host.docker.internal:8000"),
        ("docker", "::", "", "http://host.docker.internal:8000"),
        ("docker", "10.0.0.5", "", "http://10.0.0.5:8000"),
        ("docker", "127.0.0.1", "", "http://127.0.0.1:8000"),
        ("docker", "0.0.0.0", "https://jobs.example.org", "https://jobs.example.org"),
        ("process", "0.0.0.0", "", "http://127.0.0.1:8000"),
        ("kubernetes", "0.0.0.0", "https://jobs.example.org", "https://jobs.example.org"),
    ],
)
def test_server_address_is_reachable_from_the_runner(settings, runner, host, public_url, address):
    settings = dataclasses.replace(settings, host=host, port=8000, public_url=public_url)
    assert specs.server_address(settings, runner) == address
