"""What the API server is told, part by part, and the whole against the published schemas."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runners.base import BuildSpec, JobSpec, Placement, Resources, StartFailed
from runners.kubernetes import manifests
from runners.kubernetes.manifests import Artifact, artifact_of, build_pod, carrier_pod, fence_pod, job_pod, literal
from runners.kubernetes.options import Options

UUID, INSTALLATION = "c" * 32, "a" * 32
OPTIONS = Options(helper_image="helper:1")
IMAGE = Artifact("image:1", "image:1")
EVERYTHING = Options(
    helper_image="helper:1",
    claim="claim",
    gpu="amd.com/gpu",
    registry="http://registry:5000/x",
    registry_secret="secret",
)
PLACED = Placement(
    node_selector={"disk": "ssd"},
    affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}]}},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    labels={"team": "x"},
    annotations={"note": "y"},
    pull_secrets=("pull",),
    service_account="account",
    secrets=("keys",),
    config_maps=("settings",),
)  # fmt: skip


def spec(**fields: Any) -> JobSpec:
    values: dict[str, Any] = {"cmd": "echo $(date) $$", "env": {}, "image": "image:1", "grace": 9.5, **fields}
    return JobSpec(uuid=UUID, installation=INSTALLATION, folder="/data/jobs/c", **values)


def build_spec(**fields: Any) -> BuildSpec:
    values: dict[str, Any] = {"image": "image:1", "build_steps": ("true",), "env": {}, "nocache": False, **fields}
    return BuildSpec(uuid=UUID, installation=INSTALLATION, folder="/data", key="b" * 64, **values)


def pod(made: JobSpec | None = None, artifact: Artifact = IMAGE, options: Options = OPTIONS) -> dict[str, Any]:
    return job_pod(made or spec(), artifact, options)


def container(made: dict[str, Any], name: str = "job") -> dict[str, Any]:
    all_of_them = [*made["spec"].get("initContainers", []), *made["spec"]["containers"]]
    return next(item for item in all_of_them if item["name"] == name)


def names(made: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(containers before the others, the others)."""
    before = [item["name"] for item in made["spec"].get("initContainers", [])]
    return before, [item["name"] for item in made["spec"]["containers"]]


MOUNT = {"name": "files", "mountPath": "/polyjob"}
HELPER = {
    "name": "files",
    "image": "helper:1",
    "imagePullPolicy": "IfNotPresent",
    "command": [
        "/bin/sh",
        "-c",
        'trap "exit 0" TERM; until [ -e /polyjob/.ended ]; do sleep 2 & wait $$!; done; sleep 604800 & wait $$!',
    ],
    "resources": {
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"cpu": "200m", "memory": "128Mi"},
    },
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "FOWNER"]},
    },
    "volumeMounts": [MOUNT],
}


def test_a_plain_job_is_all_of_this() -> None:
    assert pod() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"polyjob-{UUID}",
            "labels": {
                "polyjob.installation": INSTALLATION,
                "polyjob.job": UUID,
                "app.kubernetes.io/managed-by": "polyjob",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 10,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "files", "emptyDir": {}}],
            "containers": [
                HELPER,
                {
                    "name": "job",
                    "image": "image:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/sh", "-c", manifests.LAUNCH.replace("$", "$$"), "sh"],
                    "args": ["echo $$(date) $$$$"],
                    "workingDir": "/code",
                    "env": [
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                        {"name": "POLYJOB_UUID", "value": UUID},
                        {"name": "POLYAXON_RUN_OUTPUTS_PATH", "value": "/polyjob/outputs"},
                        {"name": "POLYAXON_LOGS_PATH", "value": "/polyjob/logs"},
                    ],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["NET_RAW"]}},
                    "lifecycle": {
                        "preStop": {
                            "exec": {
                                "command": ["/bin/sh", "-c", manifests.SIGNAL, "sh", "TERM", f"POLYJOB_UUID={UUID}"]
                            }
                        }
                    },
                    "volumeMounts": [MOUNT, {"name": "files", "mountPath": "/code", "subPath": "code"}],
                },
            ],
        },
    }


def test_variables_of_the_job_and_none_that_the_cluster_replaces() -> None:
    made = container(pod(spec(env={"A": "$(B) $C", "PYTHONUNBUFFERED": "no"})))["env"]
    assert {"name": "A", "value": "$$(B) $$C"} in made
    assert [item["value"] for item in made if item["name"] == "PYTHONUNBUFFERED"] == ["1"]
    assert literal("$$") == "$$$$"


@pytest.mark.parametrize(
    ("requests", "limits", "gpu", "expected"),
    [
        ({}, {}, None, None),
        ({"cpu": 0.5}, {}, None, {"requests": {"cpu": "500m"}}),
        ({"memory": 1 << 30}, {"memory": 2 << 30}, None,
         {"requests": {"memory": "1073741824"}, "limits": {"memory": "2147483648"}}),
        ({}, {"cpu": 0.0001}, None, {"limits": {"cpu": "1m"}}),
        ({}, {}, 2, {"limits": {"nvidia.com/gpu": "2"}}),
    ],
)  # fmt: skip
def test_requests_and_limits(requests: Any, limits: Any, gpu: int | None, expected: Any) -> None:
    made = spec(requests=Resources(**requests), limits=Resources(**limits), resources=Resources(gpu=gpu))
    assert container(pod(made)).get("resources") == expected


def test_the_place_in_the_cluster() -> None:
    made = pod(spec(placement=PLACED))
    told = made["spec"]
    assert told["nodeSelector"] == {"disk": "ssd"}
    assert told["affinity"] == PLACED.affinity
    assert told["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert told["imagePullSecrets"] == [{"name": "pull"}]
    assert told["serviceAccountName"] == "account"
    assert told["automountServiceAccountToken"] is False
    assert container(made)["envFrom"] == [{"secretRef": {"name": "keys"}}, {"configMapRef": {"name": "settings"}}]
    assert made["metadata"]["labels"]["team"] == "x"
    assert made["metadata"]["annotations"] == {"note": "y"}


def test_no_label_of_a_job_takes_it_from_its_installation() -> None:
    labels = {"polyjob.installation": "b", "polyjob.job": "d", "app.kubernetes.io/managed-by": "me"}
    made = pod(spec(placement=Placement(labels=labels)))["metadata"]["labels"]
    assert made == pod()["metadata"]["labels"]


def test_a_timeout_is_a_net_above_polyjobs_own() -> None:
    assert "activeDeadlineSeconds" not in pod()["spec"]
    assert pod(spec(timeout=60.0))["spec"]["activeDeadlineSeconds"] == 60 + 10 + 600 + 6 * 3600
    built = Artifact("image:1", "image:1", ("true",), 100.0)
    assert pod(spec(timeout=60.0), built)["spec"]["activeDeadlineSeconds"] == 60 + 10 + 600 + 6 * 3600 + 100


@pytest.mark.parametrize("given", [{"upload": "/c.tar.gz"}, {"inputs": "/i.tar.gz"}])
def test_what_is_given_is_waited_for_before_the_job(given: dict[str, str]) -> None:
    made = pod(spec(**given))
    assert names(made) == (["input"], ["files", "job"])
    command = 'trap "exit 0" TERM; until [ -e /polyjob/.given ]; do sleep 0.1 & wait $$!; done; sleep 0.2'
    assert container(made, "input") == HELPER | {"name": "input", "command": ["/bin/sh", "-c", command]}


def test_steps_run_in_the_jobs_container_and_another_tells_when_they_are_done() -> None:
    made = pod(artifact=Artifact("image:1", "image:1", ("pip install $x", "true"), 100.0))
    assert names(made) == ([], ["files", "steps", "job"])
    main = container(made)
    assert main["command"][2] == literal(manifests.LAUNCH_BUILT)
    assert main["args"] == ["echo $$(date) $$$$", "pip install $$x", "true"]
    assert made["metadata"]["annotations"] == {"polyjob.build-timeout": "100"}
    command = 'trap "exit 0" TERM; until [ -e /polyjob/.built ]; do sleep 0.2 & wait $$!; done'
    assert container(made, "steps") == HELPER | {"name": "steps", "command": ["/bin/sh", "-c", command]}


def test_what_a_built_image_has_in_its_working_folder_is_kept() -> None:
    made = pod(spec(upload="/c.tar.gz"), Artifact("registry:5000/polyjob:1", "image:1"))
    assert names(made) == (["image-files", "input"], ["files", "job"])
    kept = container(made, "image-files")
    assert kept["image"] == container(made)["image"] == "registry:5000/polyjob:1"
    assert "cp -R /code/. /polyjob/code/" in kept["command"][2]


def test_a_claim_holds_the_files_instead() -> None:
    made = pod(options=EVERYTHING)
    assert made["spec"]["volumes"] == [{"name": "files", "persistentVolumeClaim": {"claimName": "claim"}}]
    assert container(made)["volumeMounts"] == [
        {"name": "files", "mountPath": "/polyjob", "subPath": f"polyjob/{UUID}"},
        {"name": "files", "mountPath": "/code", "subPath": f"polyjob/{UUID}/code"},
    ]
    assert made["spec"]["imagePullSecrets"] == [{"name": "secret"}]


def test_a_builder_has_its_image_command_and_credentials_by_settings() -> None:
    options = dataclasses.replace(EVERYTHING, builder_image="builder:1", builder_command="build $IMAGE")
    made = build_pod(build_spec(nocache=True, timeout=99.5), "polyjob-build-b", "registry:5000/x/polyjob:b", options)
    assert made["metadata"] == {
        "name": "polyjob-build-b",
        "labels": {
            "polyjob.installation": INSTALLATION,
            "polyjob.build": UUID,
            "app.kubernetes.io/managed-by": "polyjob",
        },
    }
    assert made["spec"]["activeDeadlineSeconds"] == 100
    assert names(made) == (["input"], ["builder"])
    builder = container(made, "builder")
    assert builder["image"] == "builder:1"
    assert builder["command"] == ["/bin/sh", "-c", 'printf "%s\\n" "polyjob begins"; { build $$IMAGE; } 2>&1']
    assert {item["name"]: item["value"] for item in builder["env"]} == {
        "IMAGE": "registry:5000/x/polyjob:b",
        "HOME": "/tmp",
        "NOCACHE": "1",
        "INSECURE": "1",
        "DOCKER_CONFIG": "/polyjob-registry",
        "REGISTRY_AUTH_FILE": "/polyjob-registry/config.json",
    }
    assert made["spec"]["volumes"][1] == {
        "name": "registry",
        "secret": {"secretName": "secret", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]},
    }


def test_a_builder_without_credentials_has_none() -> None:
    made = build_pod(build_spec(), "polyjob-build-b", "registry/polyjob:b", Options(registry="registry"))
    assert made["spec"]["volumes"] == [{"name": "files", "emptyDir": {}}]
    assert [item["name"] for item in container(made, "builder")["env"]] == ["IMAGE", "HOME"]


def test_a_name_is_taken_by_a_pod_that_no_node_gets() -> None:
    made = fence_pod(f"polyjob-{UUID}", UUID, INSTALLATION, OPTIONS)
    assert made["spec"]["schedulingGates"]
    assert "polyjob.job" not in made["metadata"]["labels"]
    assert made["metadata"]["labels"]["polyjob.fence"] == UUID
    assert made["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container(made)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_all_but_the_job_itself_say_what_they_need_as_a_quota_may_demand() -> None:
    made = pod(spec(upload="/c.tar.gz"), Artifact("registry:5000/polyjob:1", "image:1", ("true",)))
    fence = fence_pod(f"polyjob-{UUID}", UUID, INSTALLATION, OPTIONS)
    others = [*made["spec"]["initContainers"], *made["spec"]["containers"][:-1], *fence["spec"]["containers"]]
    assert [sorted(item["resources"]) for item in others] == [["limits", "requests"]] * 5


def test_a_deadline_is_one_that_the_cluster_takes() -> None:
    assert pod(spec(timeout=1e10))["spec"]["activeDeadlineSeconds"] == 2**31 - 1


@pytest.mark.parametrize("version", ["1.33", "1.36"])
@pytest.mark.parametrize(
    "made",
    [
        pod(),
        pod(spec(placement=PLACED, timeout=5.0, env={"A": "b"}, upload="/c", requests=Resources(cpu=1.0),
                 resources=Resources(gpu=1)), Artifact("r/polyjob:1", "image:1"), EVERYTHING),
        pod(artifact=Artifact("image:1", "image:1", ("true",), 60.0)),
        build_pod(build_spec(), "polyjob-build-b", "registry/polyjob:b", EVERYTHING),
        carrier_pod("polyjob-files-c", UUID, INSTALLATION, EVERYTHING),
        fence_pod("polyjob-x", UUID, INSTALLATION, OPTIONS),
    ],
)  # fmt: skip
def test_the_published_schemas_hold(made: dict[str, Any], version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(made, version, strict=True)


def test_an_artifact_is_a_text_and_back() -> None:
    for artifact in (IMAGE, Artifact("image:1", "image:1", ("a", "b"), 60.0), Artifact("r/polyjob:1", "image:1")):
        assert Artifact.parse(artifact.text()) == artifact
    assert not IMAGE.is_built
    assert Artifact("r/polyjob:1", "image:1").is_built


def test_a_job_needs_an_image() -> None:
    assert artifact_of(spec(), None) == IMAGE
    with pytest.raises(StartFailed):
        artifact_of(spec(image=None), None)


def test_options_that_are_empty_are_as_ever() -> None:
    assert Options.read({"namespace": "", "patience": "5"}) == Options(patience=5.0)


def helpers_of(options: Options) -> list[Any]:
    built = Artifact("registry/polyjob@sha256:0", "image:1", ("true",), 10.0)
    made = job_pod(spec(upload="/code"), built, options)["spec"]
    return [item for item in [*made["initContainers"], *made["containers"]] if item["name"] != "job"]


@pytest.mark.parametrize(
    ("told", "resources"),
    [
        ("none", {}),
        ("limits.cpu=1", {"limits": {"cpu": "1"}}),
        (
            "requests.cpu=50m limits.ephemeral-storage=1Gi",
            {
                "requests": {"cpu": "50m"},
                "limits": {"ephemeral-storage": "1Gi"},
            },
        ),
    ],
)
def test_helpers_ask_for_what_is_set(told: str, resources: Any) -> None:
    helpers = helpers_of(Options(helper_resources=told))
    assert [item["name"] for item in helpers] == ["image-files", "input", "files", "steps"]
    assert [item["resources"] for item in helpers] == [resources] * 4


def test_no_container_of_a_job_has_raw_sockets() -> None:
    made = job_pod(spec(upload="/code"), Artifact("b", "a", ("true",), 10.0), Options())["spec"]
    for item in [*made["initContainers"], *made["containers"]]:
        assert item["securityContext"]["capabilities"]["drop"] in (["NET_RAW"], ["ALL"])
        assert item["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_helpers_have_the_files_of_all_jobs() -> None:
    made = job_pod(spec(upload="/code"), Artifact("b", "a", ("true",), 10.0), Options(claim="shared"))["spec"]
    everything = {"name": "files", "mountPath": "/polyjob-claim", "subPath": "polyjob"}
    for item in [*made["initContainers"], *made["containers"]]:
        assert (everything in item["volumeMounts"]) is (item["name"] == "files")
    carrier = carrier_pod("polyjob-files-c", UUID, INSTALLATION, Options(claim="shared"))
    assert names(carrier) == ([], ["files"])
    assert container(carrier, "files")["volumeMounts"] == [everything]
    assert carrier["metadata"]["labels"]["polyjob.files"] == UUID
    assert carrier["spec"]["volumes"] == [{"name": "files", "persistentVolumeClaim": {"claimName": "shared"}}]
