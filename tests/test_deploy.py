"""The manifests for a cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyjob.settings import read_settings, settings_table
from tests.require import require_root

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
VERSIONS = ("1.33", "1.36")


def manifests() -> list[dict[str, Any]]:
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*names, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.iterdir())
    return [document for name in names for document in yaml.safe_load_all((FOLDER / name).read_text())]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in manifests() if document["kind"] == kind]
    return found


def validate(documents: list[dict[str, Any]]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in documents:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_manifests_match_the_published_schemas():
    validate(manifests())


def test_kustomize_renders_the_same_manifests():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    validate(made)
    assert sorted(item["kind"] for item in made) == sorted(item["kind"] for item in manifests())
    (deployment,) = [item for item in made if item["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "polyjob:latest"


def test_deployment_never_runs_two_pods():
    spec = of_kind("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_manifests_refer_to_each_other():
    pod = of_kind("Deployment")["spec"]["template"]
    assert of_kind("Service")["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        == (of_kind("PersistentVolumeClaim")["metadata"]["name"])
    )
    assert pod["spec"]["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]
    assert {item["metadata"].get("namespace", item["metadata"]["name"]) for item in manifests()} == {"polyjob"}


def test_role_has_exactly_the_permissions_of_the_runner():
    pytest.importorskip("kubernetes")
    from runners.kubernetes.permissions import PERMISSIONS

    granted = {
        (verb, resource)
        for rule in of_kind("Role")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    required = {(verb, f"{resource}/{part}" if part else resource) for verb, resource, part in PERMISSIONS}
    only_for_secrets = {("create", "secrets"), ("get", "secrets")}  # not checked: few jobs have one
    assert granted == required | only_for_secrets | {("get", "namespaces")}


def test_deployed_pod_has_valid_settings_and_a_private_data_folder(tmp_path):
    pytest.importorskip("kubernetes")
    from tests.simulators.kubernetes.cluster import Cluster
    from tests.simulators.kubernetes.conftest import client_of, wait_for

    require_root()
    template = of_kind("Deployment")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    container["command"] = ["sh", "-c", "mkdir -m 700 $POLYJOB_DATA_DIR && stat -c %a /data $POLYJOB_DATA_DIR; env"]
    image = {"POLYJOB_DATA_DIR": "/data", "POLYJOB_PORT": "8000"}
    with Cluster(tmp_path, namespace="polyjob") as cluster, client_of(cluster.kubeconfig) as api:
        cluster.add_image("polyjob", env={"PATH": "/bin", **image})
        cluster.add("services", "polyjob", spec=of_kind("Service")["spec"])
        for kind, name in (("serviceaccounts", "polyjob"), ("persistentvolumeclaims", "polyjob")):
            cluster.add(kind, name)
        pod = {
            "metadata": {"name": "server", **template["metadata"]},
            "spec": template["spec"] | {"restartPolicy": "Never"},
        }
        api.create_namespaced_pod("polyjob", pod)
        wait_for(lambda: cluster.pod("server")["status"]["phase"] == "Succeeded")
        volume, folder, *lines = api.read_namespaced_pod_log("server", "polyjob").splitlines()
    assert (volume, folder) == ("2775", "700")
    settings = read_settings(dict(line.split("=", 1) for line in lines))
    assert (settings.port, settings.runner, str(settings.data_dir)) == (8000, "kubernetes", "/data/polyjob")


def test_manifests_use_known_settings():
    container = of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables.keys() <= {setting.variable for setting in settings_table()}
    assert read_settings(variables).runner == "kubernetes"
