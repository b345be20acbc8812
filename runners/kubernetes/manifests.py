"""The manifests of polyjob's pods: of jobs, builds, fences and carriers."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import (
    BuildSpec,
    JobSpec,
    Placement,
    Reason,
    Resources,
    StartFailed,
    inputs_variables,
    marker_variable,
    volume_variables,
)
from runners.common.dockerfile import WORKING_FOLDER
from runners.kubernetes.options import Options

Manifest = dict[str, Any]

INSTALLATION, JOB, BUILD, FENCE = "polyjob.installation", "polyjob.job", "polyjob.build", "polyjob.fence"
"""Labels: the installation's identity, the uuid of a job, of a build, and of a job that must never run."""
CARRIER = "polyjob.files"
"""Label of a carrier: the uuid of the job whose files it fetches from a claim."""
BUILD_TIMEOUT = "polyjob.build-timeout"
"""Annotation: the time limit of the build steps in a job's container, in seconds."""
MAIN, HELPER, STEPS, INPUT, IMAGE_FILES, BUILDER = "job", "files", "steps", "input", "image-files", "builder"
"""Names of containers: of the job's own, of the helper with its files, and of one that ends when the build steps have
ended; of the init containers that receive files, and that copy the files of a built image; and of a builder."""
HOME = "/polyjob"
"""Folder that the containers of a pod share."""
CLAIM = "/polyjob-claim"
"""Folder in which the helper mounts the files of all jobs that share a claim."""
OUTPUTS, LOGS, CODE, INPUTS = f"{HOME}/outputs", f"{HOME}/logs", f"{HOME}/code", f"{HOME}/inputs"
FILES_MARKER, STEPS_MARKER, END_MARKER = f"{HOME}/.given", f"{HOME}/.built", f"{HOME}/.ended"
"""Marker files: all files are copied into the pod; the build steps have succeeded; the command has ended."""
CREDENTIALS = "/polyjob-registry"
CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["NET_RAW"]}}
"""Security context of containers that run the job's image. More capabilities cannot be dropped, because root installs
packages, and images switch to a user of their own."""
OUTPUTS_LIFETIME_SECONDS = 7 * 86_400
"""Time for which the outputs of a finished job can be fetched."""
CARRIER_LIFETIME_SECONDS = 3600
DEADLINE_SLACK_SECONDS = 6 * 3600
"""Time that a pod may exist beyond all time limits of its job."""
LONGEST_DEADLINE_SECONDS = 2**31 - 1
"""Longest deadline of a pod that the API server accepts."""
BEGIN_LINE = b"polyjob begins\n"
"""First line of a container's output, which no log shows. If a log begins otherwise, its first bytes were dropped."""
STEP_PREFIX = "step "
"""Start of the termination message of a failed build step; its number follows."""

_BEGINNING = f'exec 2>/dev/null; printf "%s\\n" "{BEGIN_LINE.decode().strip()}"; mkdir -p {OUTPUTS} {LOGS}; '
"""The shell's own standard error is closed, because it would report each signal that ended a process it waited for."""
_COMMAND = (
    'if command -v bash >/dev/null; then bash -c "$command" 2>&1; else /bin/sh -c "$command" 2>&1; fi; code=$?; '
    f": > {END_MARKER}; exit $code"
)
LAUNCH = f"{_BEGINNING}command=$1; {_COMMAND}"
"""The shell stays the container's first process. Signals from within the container do not reach it, and all remaining
processes end with it. The command and its children are ordinary processes, which a signal ends by default."""
_BUILD_STEP = '/bin/sh -e -c "$step" 2>&1'
LAUNCH_BUILT = (
    f"{_BEGINNING}command=$1; shift; number=0; total=$#; "
    'for step in "$@"; do number=$((number + 1)); printf "Step %s/%s: %s\\n" "$number" "$total" "$step"; '
    f"{_BUILD_STEP}; code=$?; "
    f'if [ "$code" != 0 ]; then printf "{STEP_PREFIX}%s" "$number" > /dev/termination-log; : > {END_MARKER}; '
    'exit "$code"; fi; '
    f"done; : > {STEPS_MARKER}; {_COMMAND}"
)
SIGNAL = 'case "$(cat /proc/1/environ)" in *"$2"*) kill "-$1" -1;; *) exit 3;; esac'
"""Shell text that sends the signal $1 to every process of a container except the first.

The first must have the marker variable $2; otherwise the exit code is 3.
"""
_WAIT = 'trap "exit 0" TERM; until [ -e {} ]; do sleep {} & wait $!; done'


@dataclass(frozen=True)
class Artifact:
    """The result of a build, kept as JSON: an image, and the build steps that are still to be run in it."""

    image: str
    """The image of the job's container."""
    base_image: str = ""
    """The image that it was built from."""
    build_steps: tuple[str, ...] = ()
    """Build steps to run in each job's container before its command."""
    timeout: float = 0.0
    """Time limit of these steps, in seconds."""

    @classmethod
    def parse(cls, text: str) -> Artifact:
        fields = json.loads(text)
        build_steps, timeout = tuple(fields.get("steps", ())), float(fields.get("timeout", 0))
        return cls(fields["image"], fields.get("name", fields["image"]), build_steps, timeout)

    def text(self) -> str:
        steps = {"steps": list(self.build_steps), "timeout": self.timeout} if self.build_steps else {}
        return json.dumps({"v": 1, "image": self.image, "name": self.base_image or self.image, **steps})

    @property
    def is_built(self) -> bool:
        """Return whether polyjob built the image."""
        return bool(self.base_image) and self.base_image != self.image


def artifact_of(spec: JobSpec, artifact: str | None) -> Artifact:
    """Return the artifact of a job: that of its build, or its own image. Raises StartFailed without an image."""
    if artifact:
        return Artifact.parse(artifact)
    if not spec.image:
        raise StartFailed("A job in a pod needs an image: set `build.image`.", Reason.IMAGE)
    return Artifact(spec.image, spec.image)


def job_pod(spec: JobSpec, artifact: Artifact, options: Options) -> Manifest:
    """Return the pod of a job. If the job has code or earlier outputs, an init container waits for them."""
    init_containers, containers = _job_containers(spec, artifact, options)
    pod = {
        **_POD_DEFAULTS,
        "terminationGracePeriodSeconds": max(1, math.ceil(spec.grace)),
        "containers": containers,
        "volumes": [{"name": "files", **_volume(options)}, *_claims(spec)],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **_placement_fields(spec.placement, options),
    }
    if init_containers:
        pod["initContainers"] = init_containers
    if spec.timeout:
        limits = spec.timeout + artifact.timeout + spec.grace + options.patience + DEADLINE_SLACK_SECONDS
        pod["activeDeadlineSeconds"] = min(LONGEST_DEADLINE_SECONDS, math.ceil(limits))
    labels = {**spec.placement.labels, INSTALLATION: spec.installation, JOB: spec.uuid}
    build_timeout = {BUILD_TIMEOUT: f"{artifact.timeout:g}"} if artifact.build_steps else {}
    return _pod(spec.name, labels, {**spec.placement.annotations, **build_timeout}, pod)


def job_secret(spec: JobSpec, pod_uid: str) -> Manifest:
    """Return the Secret with the values of a job's secrets. The job's pod owns it."""
    labels = {INSTALLATION: spec.installation, JOB: spec.uuid, "app.kubernetes.io/managed-by": "polyjob"}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": spec.name, "uid": pod_uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": spec.name, "labels": labels, "ownerReferences": [owner]},
        "type": "Opaque",
        "immutable": True,
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in spec.secrets.items()},
    }


def build_pod(spec: BuildSpec, name: str, image: str, options: Options) -> Manifest:
    """Return the pod that builds an image from a Dockerfile and pushes it. An init container receives its files."""
    variables = {"IMAGE": image, "HOME": "/tmp"}
    variables |= {"NOCACHE": "1"} if spec.nocache else {}
    variables |= {"INSECURE": "1"} if options.is_insecure else {}
    mounts: list[Manifest] = [{"name": "files", "mountPath": HOME}]
    volumes: list[Manifest] = [{"name": "files", "emptyDir": {}}]
    if options.registry_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        volumes.append({"name": "registry", "secret": {"secretName": options.registry_secret, "items": items}})
        mounts.append({"name": "registry", "mountPath": CREDENTIALS, "readOnly": True})
        variables["DOCKER_CONFIG"] = CREDENTIALS
        variables["REGISTRY_AUTH_FILE"] = f"{CREDENTIALS}/config.json"
    script = f'printf "%s\\n" "{BEGIN_LINE.decode().strip()}"; {{ {options.builder_command}; }} 2>&1'
    builder = {
        "name": BUILDER,
        "image": options.builder_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", literal(script)],
        "workingDir": f"{HOME}/context",
        "env": _variables(variables),
        "volumeMounts": mounts,
    }
    labels = {INSTALLATION: spec.installation, BUILD: spec.uuid}
    unconfined = {"type": "Unconfined"}  # a builder without root makes namespaces of its own
    pod = {
        **_POD_DEFAULTS,
        "activeDeadlineSeconds": min(LONGEST_DEADLINE_SECONDS, max(1, math.ceil(spec.timeout))),
        "terminationGracePeriodSeconds": 1,
        "initContainers": [_input_helper(options) | {"volumeMounts": mounts[:1]}],
        "containers": [builder],
        "volumes": volumes,
        "securityContext": {"seccompProfile": unconfined, "appArmorProfile": unconfined},
    }
    return _pod(name, labels, {}, pod)


def fence_pod(name: str, uuid: str, installation: str, options: Options) -> Manifest:
    """Return a pod that only takes a name. It is never scheduled, and every pod security standard admits it."""
    container = {
        "name": MAIN,
        "image": options.helper_image,
        "command": ["true"],
        "resources": options.helper_amounts(),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        **_POD_DEFAULTS,
        "containers": [container],
        "schedulingGates": [{"name": "polyjob/never"}],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return _pod(name, {INSTALLATION: installation, FENCE: uuid}, {}, pod)


def carrier_pod(name: str, uuid: str, installation: str, options: Options) -> Manifest:
    """Return a pod with only the helper container. It waits, and mounts the files of all jobs in the claim."""
    script = f'trap "exit 0" TERM; sleep {CARRIER_LIFETIME_SECONDS} & wait $!'
    helper = _helper(HELPER, options, script) | {"volumeMounts": [_ALL_FILES]}
    pod = {
        **_POD_DEFAULTS,
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": CARRIER_LIFETIME_SECONDS,
        "containers": [helper],
        "volumes": [{"name": "files", **_volume(options)}],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }
    return _pod(name, {INSTALLATION: installation, CARRIER: uuid}, {}, pod)


def literal(text: str) -> str:
    """Escape text for a command or variable of a manifest, so that the cluster replaces no `$(NAME)` in it."""
    return text.replace("$", "$$")


# Containers.


def _job_containers(spec: JobSpec, artifact: Artifact, options: Options) -> tuple[list[Manifest], list[Manifest]]:
    """Return (the init containers, the containers) of a job's pod."""
    init_containers = []
    if artifact.is_built:
        init_containers.append(_image_files(artifact.image, options))
    if spec.upload or spec.inputs or spec.job_outputs:
        init_containers.append(_input_helper(options))
    containers = [
        _helper(HELPER, options, f"{_WAIT.format(END_MARKER, 2)}; sleep {OUTPUTS_LIFETIME_SECONDS} & wait $!"),
        *([_helper(STEPS, options, _WAIT.format(STEPS_MARKER, 0.2))] if artifact.build_steps else []),
        _main(spec, artifact, options),
    ]
    job_folder = _job_folder(spec, options)
    for container in [*init_containers, *containers]:
        container["volumeMounts"] = [{"name": "files", "mountPath": HOME, **job_folder}]
    containers[-1]["volumeMounts"] += [_code_mount(job_folder), *_claim_mounts(spec)]
    if options.claim:
        containers[0]["volumeMounts"].append(_ALL_FILES)
    return init_containers, containers


def _main(spec: JobSpec, artifact: Artifact, options: Options) -> Manifest:
    name, value = marker_variable(spec.uuid)
    own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
    own |= volume_variables({volume.name: volume.mount_path for volume in spec.volumes})
    own |= inputs_variables(INPUTS, [outputs.name for outputs in spec.job_outputs])
    launch = LAUNCH_BUILT if artifact.build_steps else LAUNCH
    if spec.secrets:
        launch = launch.replace(_BUILD_STEP, f"(unset {' '.join(spec.secrets)}; {_BUILD_STEP})")
    container: Manifest = {
        "name": MAIN,
        "image": artifact.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", literal(launch), "sh"],
        "args": [literal(spec.cmd), *map(literal, artifact.build_steps)],
        "workingDir": WORKING_FOLDER,
        "env": [*_variables({**spec.env, **own}, except_for=spec.secrets), *_secret_variables(spec)],
        "securityContext": CONFINED,
        "lifecycle": {"preStop": {"exec": {"command": signal_command("TERM", spec.uuid)}}},
    }
    sources = [{"secretRef": {"name": name}} for name in spec.placement.secrets]
    sources += [{"configMapRef": {"name": name}} for name in spec.placement.config_maps]
    if sources:
        container["envFrom"] = sources
    resources = _resources(spec, options)
    if resources:
        container["resources"] = resources
    return container


def signal_command(signal: str, uuid: str) -> list[str]:
    """Return the command that signals every process of a job, to be run in its container."""
    return ["/bin/sh", "-c", SIGNAL, "sh", signal, "=".join(marker_variable(uuid))]


def _helper(name: str, options: Options, script: str) -> Manifest:
    return {
        "name": name,
        "image": options.helper_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", literal(script)],
        "resources": options.helper_amounts(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "FOWNER"]},
        },
    }


def _input_helper(options: Options) -> Manifest:
    return _helper(INPUT, options, f"{_WAIT.format(FILES_MARKER, 0.1)}; sleep 0.2")


def _image_files(image: str, options: Options) -> Manifest:
    """Return a container that copies the working folder of a built image to the job's working folder."""
    return {
        "name": IMAGE_FILES,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", f"mkdir -p -m 0777 {CODE}; cp -R {WORKING_FOLDER}/. {CODE}/ || true"],
        "resources": options.helper_amounts(),
        "securityContext": CONFINED,
    }


def _resources(spec: JobSpec, options: Options) -> Manifest:
    resources = {"requests": _amounts(spec.requests), "limits": _amounts(spec.limits)}
    if spec.resources.gpu:
        resources["limits"][options.gpu] = str(spec.resources.gpu)
    return {kind: amounts for kind, amounts in resources.items() if amounts}


def _amounts(resources: Resources) -> dict[str, str]:
    amounts = {}
    if resources.cpu:
        amounts["cpu"] = f"{max(1, round(resources.cpu * 1000))}m"
    if resources.memory:
        amounts["memory"] = str(resources.memory)
    return amounts


def _variables(variables: Mapping[str, str], except_for: Container[str] = ()) -> list[Manifest]:
    return [{"name": name, "value": literal(value)} for name, value in variables.items() if name not in except_for]


def _secret_variables(spec: JobSpec) -> list[Manifest]:
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": spec.name, "key": name}}} for name in spec.secrets]


# Volumes.


def _volume(options: Options) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": options.claim}} if options.claim else {"emptyDir": {}}


def _job_folder(spec: JobSpec, options: Options) -> Manifest:
    """Return the part of a mount that selects the job's folder in its volume."""
    return {"subPath": f"polyjob/{spec.uuid}"} if options.claim else {}


_ALL_FILES: Manifest = {"name": "files", "mountPath": CLAIM, "subPath": "polyjob"}
"""Mounts the parent of the jobs' folders, because a job's folder cannot be removed from within."""


def _code_mount(job_folder: Manifest) -> Manifest:
    return {"name": "files", "mountPath": WORKING_FOLDER, "subPath": "/".join([*job_folder.values(), "code"])}


def _claims(spec: JobSpec) -> list[Manifest]:
    """Return the volumes of a pod for those of its job. They are numbered, because a cluster allows fewer names."""
    return [
        {"name": f"volume-{index}", "persistentVolumeClaim": {"claimName": volume.source}}
        for index, volume in enumerate(spec.volumes)
    ]


def _claim_mounts(spec: JobSpec) -> list[Manifest]:
    return [
        {"name": f"volume-{index}", "mountPath": volume.mount_path, "readOnly": volume.is_read_only}
        for index, volume in enumerate(spec.volumes)
    ]


# Pods.


_POD_DEFAULTS = {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False}


def _placement_fields(placement: Placement, options: Options) -> Manifest:
    pull_secrets = [*placement.pull_secrets, *([options.registry_secret] if options.registry_secret else [])]
    fields = {
        "nodeSelector": dict(placement.node_selector),
        "affinity": dict(placement.affinity),
        "tolerations": [dict(toleration) for toleration in placement.tolerations],
        "imagePullSecrets": [{"name": name} for name in dict.fromkeys(pull_secrets)],
        "serviceAccountName": placement.service_account,
    }
    return {key: value for key, value in fields.items() if value}


def _pod(name: str, labels: Mapping[str, str], annotations: Mapping[str, str], spec: Manifest) -> Manifest:
    metadata: Manifest = {"name": name, "labels": {**labels, "app.kubernetes.io/managed-by": "polyjob"}}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
