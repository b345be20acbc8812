"""The manifests of pods, part by part, and as a whole against the published schemas."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from runners.base import BuildSpec, JobOutputs, JobSpec, Placement, Resources, StartFailed
from runners.kubernetes import manifests
from runners.kubernetes.manifests import Artifact, artifact_of, build_pod, carrier_pod, fence_pod, job_pod, literal
from runners.kubernetes.options import Options
from runners.volumes import Volume

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


def pod(job: JobSpec | None = None, artifact: Artifact = IMAGE, options: Options = OPTIONS) -> dict[str, Any]:
    return job_pod(job or spec(), artifact, options)


def container(manifest: dict[str, Any], name: str = "job") -> dict[str, Any]:
    containers = [*manifest["spec"].get("initContainers", []), *manifest["spec"]["containers"]]
    return next(item for item in containers if item["name"] == name)


def names(manifest: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return (names of the init containers, names of the containers)."""
    before = [item["name"] for item in manifest["spec"].get("initContainers", [])]
    return before, [item["name"] for item in manifest["spec"]["containers"]]


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


def test_plain_job_has_this_manifest() -> None:
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


def test_cluster_replaces_nothing_in_variables_of_a_job() -> None:
    manifest = container(pod(spec(env={"A": "$(B) $C", "PYTHONUNBUFFERED": "no"})))["env"]
    assert {"name": "A", "value": "$$(B) $$C"} in manifest
    assert [item["value"] for item in manifest if item["name"] == "PYTHONUNBUFFERED"] == ["1"]
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
def test_requests_and_limits_match_the_config(requests: Any, limits: Any, gpu: int | None, expected: Any) -> None:
    job = spec(requests=Resources(**requests), limits=Resources(**limits), resources=Resources(gpu=gpu))
    assert container(pod(job)).get("resources") == expected


def test_placement_is_copied_into_the_manifest() -> None:
    manifest = pod(spec(placement=PLACED))
    pod_spec = manifest["spec"]
    assert pod_spec["nodeSelector"] == {"disk": "ssd"}
    assert pod_spec["affinity"] == PLACED.affinity
    assert pod_spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod_spec["imagePullSecrets"] == [{"name": "pull"}]
    assert pod_spec["serviceAccountName"] == "account"
    assert pod_spec["automountServiceAccountToken"] is False
    assert container(manifest)["envFrom"] == [{"secretRef": {"name": "keys"}}, {"configMapRef": {"name": "settings"}}]
    assert manifest["metadata"]["labels"]["team"] == "x"
    assert manifest["metadata"]["annotations"] == {"note": "y"}


def test_labels_of_a_job_cannot_replace_polyjobs_labels() -> None:
    labels = {"polyjob.installation": "b", "polyjob.job": "d", "app.kubernetes.io/managed-by": "me"}
    manifest = pod(spec(placement=Placement(labels=labels)))["metadata"]["labels"]
    assert manifest == pod()["metadata"]["labels"]


def test_deadline_is_later_than_all_time_limits() -> None:
    assert "activeDeadlineSeconds" not in pod()["spec"]
    assert pod(spec(timeout=60.0))["spec"]["activeDeadlineSeconds"] == 60 + 10 + 600 + 6 * 3600
    built = Artifact("image:1", "image:1", ("true",), 100.0)
    assert pod(spec(timeout=60.0), built)["spec"]["activeDeadlineSeconds"] == 60 + 10 + 600 + 6 * 3600 + 100


@pytest.mark.parametrize(
    "files", [{"upload": "/c.tar.gz"}, {"inputs": "/i.tar.gz"}, {"job_outputs": (JobOutputs("1", None),)}]
)
def test_init_container_waits_for_upload_and_earlier_outputs(files: dict[str, Any]) -> None:
    manifest = pod(spec(**files))
    assert names(manifest) == (["input"], ["files", "job"])
    command = 'trap "exit 0" TERM; until [ -e /polyjob/.given ]; do sleep 0.1 & wait $$!; done; sleep 0.2'
    assert container(manifest, "input") == HELPER | {"name": "input", "command": ["/bin/sh", "-c", command]}


def test_build_steps_run_in_the_jobs_container() -> None:
    manifest = pod(artifact=Artifact("image:1", "image:1", ("pip install $x", "true"), 100.0))
    assert names(manifest) == ([], ["files", "steps", "job"])
    main = container(manifest)
    assert main["command"][2] == literal(manifests.LAUNCH_BUILT)
    assert main["args"] == ["echo $$(date) $$$$", "pip install $$x", "true"]
    assert manifest["metadata"]["annotations"] == {"polyjob.build-timeout": "100"}
    command = 'trap "exit 0" TERM; until [ -e /polyjob/.built ]; do sleep 0.2 & wait $$!; done'
    assert container(manifest, "steps") == HELPER | {"name": "steps", "command": ["/bin/sh", "-c", command]}


def test_working_folder_of_a_built_image_is_copied() -> None:
    manifest = pod(spec(upload="/c.tar.gz"), Artifact("registry:5000/polyjob:1", "image:1"))
    assert names(manifest) == (["image-files", "input"], ["files", "job"])
    image_files = container(manifest, "image-files")
    assert image_files["image"] == container(manifest)["image"] == "registry:5000/polyjob:1"
    assert "cp -R /code/. /polyjob/code/" in image_files["command"][2]


def test_claim_replaces_the_empty_volume() -> None:
    manifest = pod(options=EVERYTHING)
    assert manifest["spec"]["volumes"] == [{"name": "files", "persistentVolumeClaim": {"claimName": "claim"}}]
    assert container(manifest)["volumeMounts"] == [
        {"name": "files", "mountPath": "/polyjob", "subPath": f"polyjob/{UUID}"},
        {"name": "files", "mountPath": "/code", "subPath": f"polyjob/{UUID}/code"},
    ]
    assert manifest["spec"]["imagePullSecrets"] == [{"name": "secret"}]


def test_volumes_are_claims_of_the_job_container_only() -> None:
    volumes = (Volume("data", "datasets", is_claim=True), Volume("Models_1", "models", False, is_claim=True))
    manifest = pod(spec(volumes=volumes))
    assert manifest["spec"]["volumes"][1:] == [
        {"name": "volume-0", "persistentVolumeClaim": {"claimName": "datasets"}},
        {"name": "volume-1", "persistentVolumeClaim": {"claimName": "models"}},
    ]
    assert container(manifest)["volumeMounts"][2:] == [
        {"name": "volume-0", "mountPath": "/volumes/data", "readOnly": True},
        {"name": "volume-1", "mountPath": "/volumes/Models_1", "readOnly": False},
    ]
    assert container(manifest, "files")["volumeMounts"] == [MOUNT]
    paths = {item["name"]: item["value"] for item in container(manifest)["env"]}["POLYAXON_DATA_PATHS"]
    assert json.loads(paths) == {"data": "/volumes/data", "Models_1": "/volumes/Models_1"}


def test_builder_has_image_command_and_credentials_of_the_settings() -> None:
    options = dataclasses.replace(EVERYTHING, builder_image="builder:1", builder_command="build $IMAGE")
    image = "registry:5000/x/polyjob:b"
    manifest = build_pod(build_spec(nocache=True, timeout=99.5), "polyjob-build-b", image, options)
    assert manifest["metadata"] == {
        "name": "polyjob-build-b",
        "labels": {
            "polyjob.installation": INSTALLATION,
            "polyjob.build": UUID,
            "app.kubernetes.io/managed-by": "polyjob",
        },
    }
    assert manifest["spec"]["activeDeadlineSeconds"] == 100
    assert names(manifest) == (["input"], ["builder"])
    builder = container(manifest, "builder")
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
    assert manifest["spec"]["volumes"][1] == {
        "name": "registry",
        "secret": {"secretName": "secret", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]},
    }


def test_builder_without_a_secret_has_no_credentials() -> None:
    manifest = build_pod(build_spec(), "polyjob-build-b", "registry/polyjob:b", Options(registry="registry"))
    assert manifest["spec"]["volumes"] == [{"name": "files", "emptyDir": {}}]
    assert [item["name"] for item in container(manifest, "builder")["env"]] == ["IMAGE", "HOME"]


def test_fence_is_never_scheduled() -> None:
    manifest = fence_pod(f"polyjob-{UUID}", UUID, INSTALLATION, OPTIONS)
    assert manifest["spec"]["schedulingGates"]
    assert "polyjob.job" not in manifest["metadata"]["labels"]
    assert manifest["metadata"]["labels"]["polyjob.fence"] == UUID
    assert manifest["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_all_helper_containers_have_resources() -> None:
    manifest = pod(spec(upload="/c.tar.gz"), Artifact("registry:5000/polyjob:1", "image:1", ("true",)))
    fence = fence_pod(f"polyjob-{UUID}", UUID, INSTALLATION, OPTIONS)
    others = [*manifest["spec"]["initContainers"], *manifest["spec"]["containers"][:-1], *fence["spec"]["containers"]]
    assert [sorted(item["resources"]) for item in others] == [["limits", "requests"]] * 5


def test_deadline_is_limited_to_what_the_server_accepts() -> None:
    assert pod(spec(timeout=1e10))["spec"]["activeDeadlineSeconds"] == 2**31 - 1


@pytest.mark.parametrize("version", ["1.33", "1.36"])
@pytest.mark.parametrize(
    "manifest",
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
def test_manifests_match_the_published_schemas(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, version, strict=True)


def test_artifact_text_can_be_parsed() -> None:
    for artifact in (IMAGE, Artifact("image:1", "image:1", ("a", "b"), 60.0), Artifact("r/polyjob:1", "image:1")):
        assert Artifact.parse(artifact.text()) == artifact
    assert not IMAGE.is_built
    assert Artifact("r/polyjob:1", "image:1").is_built


def test_job_without_an_image_cannot_start() -> None:
    assert artifact_of(spec(), None) == IMAGE
    with pytest.raises(StartFailed):
        artifact_of(spec(image=None), None)


def test_empty_options_have_their_defaults() -> None:
    assert Options.read({"namespace": "", "patience": "5"}) == Options(patience=5.0)


def helpers_of(options: Options) -> list[Any]:
    built = Artifact("registry/polyjob@sha256:0", "image:1", ("true",), 10.0)
    manifest = job_pod(spec(upload="/code"), built, options)["spec"]
    return [item for item in [*manifest["initContainers"], *manifest["containers"]] if item["name"] != "job"]


@pytest.mark.parametrize(
    ("setting", "resources"),
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
def test_helper_resources_are_those_of_the_settings(setting: str, resources: Any) -> None:
    helpers = helpers_of(Options(helper_resources=setting))
    assert [item["name"] for item in helpers] == ["image-files", "input", "files", "steps"]
    assert [item["resources"] for item in helpers] == [resources] * 4


def test_containers_of_a_job_have_no_raw_sockets() -> None:
    manifest = job_pod(spec(upload="/code"), Artifact("b", "a", ("true",), 10.0), Options())["spec"]
    for item in [*manifest["initContainers"], *manifest["containers"]]:
        assert item["securityContext"]["capabilities"]["drop"] in (["NET_RAW"], ["ALL"])
        assert item["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_helpers_mount_the_files_of_all_jobs() -> None:
    manifest = job_pod(spec(upload="/code"), Artifact("b", "a", ("true",), 10.0), Options(claim="shared"))["spec"]
    everything = {"name": "files", "mountPath": "/polyjob-claim", "subPath": "polyjob"}
    for item in [*manifest["initContainers"], *manifest["containers"]]:
        assert (everything in item["volumeMounts"]) is (item["name"] == "files")
    carrier = carrier_pod("polyjob-files-c", UUID, INSTALLATION, Options(claim="shared"))
    assert names(carrier) == ([], ["files"])
    assert container(carrier, "files")["volumeMounts"] == [everything]
    assert carrier["metadata"]["labels"]["polyjob.files"] == UUID
    assert carrier["spec"]["volumes"] == [{"name": "files", "persistentVolumeClaim": {"claimName": "shared"}}]
