"""The identity and features of an Engine, and the meaning of its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from docker.errors import APIError, NotFound

from runners.base import JobSpec, Resources, RunnerRefused, RunnerUnavailable, StartFailed
from runners.docker.containers import log_config, unsupported_limits
from runners.docker.engine import check_usable, identify_engine, list_objects, start_error

INFO = {
    "ID": "one", "Name": "node", "Driver": "overlay2", "OSType": "linux", "Architecture": "x86_64", "SwapLimit": True,
    "MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "Plugins": {"Log": ["journald", "json-file", "local"]},
}  # fmt: skip


class Engine:
    """An Engine without volumes, networks and containers."""

    api_version, base_url = "1.41", "http+docker://localhost"

    def __init__(self, **info: Any) -> None:
        self._info = INFO | info
        self.created_volumes: list[str] = []

    def info(self) -> dict[str, Any]:
        return self._info

    def volumes(self, filters: Any) -> dict[str, Any]:
        return {"Volumes": [{"Name": name, "Labels": {"polyjob.engine": name}} for name in self.created_volumes]}

    def containers(self, **options: Any) -> list[Any]:
        return []

    def inspect_network(self, name: str) -> Any:
        raise NotFound("no such network")

    def create_volume(self, name: str, labels: Any) -> None:
        self.created_volumes.append(name)


@pytest.mark.parametrize(
    ("drivers", "chosen"),
    [
        (["json-file", "local", "syslog"], "local"),
        (["json-file", "syslog"], "json-file"),
        (["k8s-file", "none", "passthrough", "journald"], "k8s-file"),
    ],
)
def test_log_driver_is_available_on_the_engine(drivers: list[str], chosen: str) -> None:
    info = identify_engine(Engine(Plugins={"Log": drivers}), "i")
    assert info.log_driver == chosen
    assert ("max-file" in log_config(chosen, 1 << 20)["Config"]) is (chosen != "k8s-file")


@pytest.mark.parametrize(
    ("info", "version", "word"),
    [
        ({"Plugins": {"Log": ["none", "syslog"]}}, "1.41", "log drivers"),
        ({"Plugins": {}}, "1.41", "log drivers"),
        ({"OSType": "windows"}, "1.41", "Windows"),
        ({}, "1.40", "20.10"),
    ],
)
def test_engine_without_a_necessary_feature_is_refused(info: dict[str, Any], version: str, word: str) -> None:
    engine = Engine(**info)
    engine.api_version = version
    with pytest.raises(RunnerUnavailable, match=word) as refused:
        identify_engine(engine, "i")
    assert str(refused.value).endswith((".", "it."))


def test_identity_volume_is_created_once() -> None:
    engine = Engine()
    first, second = identify_engine(engine, "i"), identify_engine(engine, "i")
    assert first.identities == second.identities == set(engine.created_volumes)
    assert identify_engine(Engine(), "i").identities != first.identities


def test_probe_creates_no_identity_volume() -> None:
    engine = Engine()
    assert check_usable(engine) == (INFO, "local")
    assert engine.created_volumes == []


def test_two_identity_volumes_mean_one_engine() -> None:
    engine = Engine()
    before = identify_engine(engine, "i")
    engine.create_volume("polyjob-engine-0", {})
    after = identify_engine(engine, "i")
    assert after.owns({"v": 2, "engine": before.identity})
    assert after.owns({"v": 2, "engine": "polyjob-engine-0"})
    assert not after.owns({"v": 2, "engine": "one"})
    assert after.owns({"v": 1, "engine": "one"})


@pytest.mark.parametrize(
    ("missing", "limits", "ignored"),
    [
        ({"MemoryLimit": False}, Resources(memory=1 << 25, pids=5), ["memory"]),
        ({"CpuCfsQuota": False, "PidsLimit": False}, Resources(cpu=1, pids=5), ["cpu", "pids"]),
        ({"MemoryLimit": False}, Resources(cpu=1), []),
        ({}, Resources(memory=1 << 25, cpu=1, pids=5), []),
    ],
)
def test_unsupported_limits_are_named(missing: dict[str, bool], limits: Resources, ignored: list[str]) -> None:
    spec = JobSpec("u", "i", "/f", "true", {}, resources=limits)
    notes = unsupported_limits(spec, identify_engine(Engine(**missing), "i"))
    assert [note.partition("`")[2].partition("`")[0] for note in notes] == [
        f"environment.resources.{part}" for part in sorted(ignored, key=["memory", "cpu", "pids"].index)
    ]


@pytest.mark.parametrize(
    ("status", "words", "meaning"),
    [
        (500, "runc: error setting rlimit type 7: operation not permitted", RunnerRefused),
        (500, "an unknown error", RunnerRefused),
        (500, "unable to find user app: no matching entries in passwd file", StartFailed),
        (400, "invalid CPU count", StartFailed),
        (500, "OCI runtime create failed: no space left on device", None),
        (400, "no space left on device", None),
        (503, "not now", None),
        (404, "network polyjob-0 not found", None),
        (429, "too many requests", None),
    ],
)
def test_refused_start_is_classified(status: int, words: str, meaning: type[Exception] | None) -> None:
    response = requests.Response()
    response.status_code = status
    refused = start_error(APIError(words, response, words))
    assert (type(refused) if refused else None) is meaning


def test_list_is_repeated_while_a_listed_container_ends() -> None:
    responses = iter([APIError("500", explanation="read /proc/7/cgroup: no such process"), [{"Id": "a"}]])

    def call() -> list[dict[str, Any]]:
        response = next(responses)
        if isinstance(response, APIError):
            raise response
        return response

    assert list_objects(call) == [{"Id": "a"}]


def test_other_errors_of_a_list_are_raised_at_once() -> None:
    calls = []

    def call() -> list[dict[str, Any]]:
        calls.append("list")
        raise APIError("500", explanation="no space left on device")

    with pytest.raises(APIError, match="no space"):
        list_objects(call)
    assert calls == ["list"]
