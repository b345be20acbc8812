"""What the Kubernetes API server is told: the pod of a job, of a build, and that which keeps a name taken. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import BuildSpec, JobSpec, Reason, Resources, StartFailed, marker_variable
from runners.common.dockerfile import FOLDER
from runners.kubernetes.options import Options

Manifest = dict[str, Any]

INSTALLATION, JOB, BUILD, FENCE = "polyjob.installation", "polyjob.job", "polyjob.build", "polyjob.fence"
"""Labels of what is ours; a job's uuid, a build's uuid, and a job that is never to run."""
CARRIER = "polyjob.files"
"""Label: the uuid of a job whose files a pod fetches from a claim."""
BUILD_TIMEOUT = "polyjob.build-timeout"
"""Annotation: the seconds that the build steps in a job's container may take."""
MAIN, HELPER, STEPS, INPUT, KEPT, BUILDER = "job", "files", "steps", "input", "image-files", "builder"
"""Names of containers: the job's own, the one that hands out files, the one that ends when the build steps have; the
ones before them: what takes files in, and what keeps those of a built image; and that of a build."""
HOME = "/polyjob"
"""The folder that the containers of a pod share."""
CLAIM = "/polyjob-claim"
"""Where the helper finds the files of all jobs that share a claim."""
OUTPUTS, LOGS, CODE = f"{HOME}/outputs", f"{HOME}/logs", f"{HOME}/code"
GIVEN, BUILT, ENDED = f"{HOME}/.given", f"{HOME}/.built", f"{HOME}/.ended"
"""Files that say: all is put in; the steps are done; the command has ended."""
CREDENTIALS = "/polyjob-registry"
CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["NET_RAW"]}}
"""Of containers that run an image of the job's own. More cannot be dropped: root installs packages, and images change
to a user of their own."""
KEEP = 7 * 86_400
"""Seconds that the outputs of a job that has ended can be fetched."""
CARRIES = 3600
"""Seconds that a pod which gives or removes files of a claim lives at most."""
SLACK = 6 * 3600
"""Seconds that a pod may live beyond all that its job is granted."""
LONGEST = 2**31 - 1
"""Seconds of a pod's deadline that the API server takes."""
BEGIN = b"polyjob begins\n"
"""What a container writes first, and no log shows: where it is not the first, something was dropped before."""
STEP = "step "
"""How the termination message of a failed step begins; its number comes behind."""

_BEGINNING = f'exec 2>/dev/null; printf "%s\\n" "{BEGIN.decode().strip()}"; mkdir -p {OUTPUTS} {LOGS}; '
"""The shell itself says nothing: it would tell of each signal that has ended what it waited for."""
_COMMAND = (
    'if command -v bash >/dev/null; then bash -c "$command" 2>&1; else /bin/sh -c "$command" 2>&1; fi; code=$?; '
    f": > {ENDED}; exit $code"
)
LAUNCH = f"{_BEGINNING}command=$1; {_COMMAND}"
"""The shell stays the container's first process, to which no signal comes from within; all that is left ends with it.
The command and its children are ordinary processes, which a signal ends unless they say otherwise."""
LAUNCH_BUILT = (
    f"{_BEGINNING}command=$1; shift; number=0; total=$#; "
    'for step in "$@"; do number=$((number + 1)); printf "Step %s/%s: %s\\n" "$number" "$total" "$step"; '
    '/bin/sh -e -c "$step" 2>&1; code=$?; '
    f'if [ "$code" != 0 ]; then printf "{STEP}%s" "$number" > /dev/termination-log; : > {ENDED}; exit "$code"; fi; '
    f"done; : > {BUILT}; {_COMMAND}"
)
SIGNAL = 'case "$(cat /proc/1/environ)" in *"$2"*) kill "-$1" -1;; *) exit 3;; esac'
"""Shell text that sends the signal $1 to every process of a container but the first, if that bears the mark $2."""
_WAIT = 'trap "exit 0" TERM; until [ -e {} ]; do sleep {} & wait $!; done'


@dataclass(frozen=True)
class Artifact:
    """What a build leaves for its jobs, kept as JSON: an image, and what is to be done in it first."""

    image: str
    """To run."""
    name: str = ""
    """What it was made from."""
    steps: tuple[str, ...] = ()
    """To be run in each job's container, before its command."""
    timeout: float = 0.0
    """Seconds that these may take."""

    @classmethod
    def read(cls, text: str) -> Artifact:
        told = json.loads(text)
        steps, timeout = tuple(told.get("steps", ())), float(told.get("timeout", 0))
        return cls(told["image"], told.get("name", told["image"]), steps, timeout)

    def text(self) -> str:
        steps = {"steps": list(self.steps), "timeout": self.timeout} if self.steps else {}
        return json.dumps({"v": 1, "image": self.image, "name": self.name or self.image, **steps})

    @property
    def is_built(self) -> bool:
        """Whether the image is one that polyjob has had made."""
        return bool(self.name) and self.name != self.image


def artifact_of(spec: JobSpec, artifact: str | None) -> Artifact:
    """Raises StartFailed where there is no image."""
    if artifact:
        return Artifact.read(artifact)
    if not spec.image:
        raise StartFailed("A job in a pod needs an image: set `build.image`.", Reason.IMAGE)
    return Artifact(spec.image, spec.image)


def job_pod(spec: JobSpec, artifact: Artifact, options: Options) -> Manifest:
    """The pod of a job. Where it has code or earlier outputs, a container before all others waits for them."""
    placement = spec.placement
    before = []
    if artifact.is_built:
        before.append(_keeper_of(artifact.image, options))
    if spec.upload or spec.inputs:
        before.append(_helper(INPUT, options, f"{_WAIT.format(GIVEN, 0.1)}; sleep 0.2"))
    containers = [
        _helper(HELPER, options, f"{_WAIT.format(ENDED, 2)}; sleep {KEEP} & wait $!"),
        *([_helper(STEPS, options, _WAIT.format(BUILT, 0.2))] if artifact.steps else []),
        _main(spec, artifact, options),
    ]
    shared = _shared(spec, options)
    for container in [*before, *containers]:
        container["volumeMounts"] = [{"name": "files", "mountPath": HOME, **shared}]
    containers[-1]["volumeMounts"].append(_code(shared))
    if options.claim:
        containers[0]["volumeMounts"].append(_ALL_FILES)
    pod = {
        **_common(options),
        "terminationGracePeriodSeconds": max(1, math.ceil(spec.grace)),
        "containers": containers,
        "volumes": [{"name": "files", **_volume(options)}],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }
    if before:
        pod["initContainers"] = before
    if spec.timeout:
        granted = spec.timeout + artifact.timeout + spec.grace + options.patience + SLACK
        pod["activeDeadlineSeconds"] = min(LONGEST, math.ceil(granted))
    pulls = [*placement.pull_secrets, *([options.registry_secret] if options.registry_secret else [])]
    told = {
        "nodeSelector": dict(placement.node_selector),
        "affinity": dict(placement.affinity),
        "tolerations": [dict(toleration) for toleration in placement.tolerations],
        "imagePullSecrets": [{"name": name} for name in dict.fromkeys(pulls)],
        "serviceAccountName": placement.service_account,
    }
    labels = {**placement.labels, INSTALLATION: spec.installation, JOB: spec.uuid}
    limit = {BUILD_TIMEOUT: f"{artifact.timeout:g}"} if artifact.steps else {}
    return _pod(
        spec.name,
        labels,
        {**placement.annotations, **limit},
        pod | {key: value for key, value in told.items() if value},
    )


def build_pod(spec: BuildSpec, name: str, image: str, options: Options) -> Manifest:
    """The pod that makes an image, as its Dockerfile says, and pushes it; its files are put in first."""
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
    script = f'printf "%s\\n" "{BEGIN.decode().strip()}"; {{ {options.builder_command}; }} 2>&1'
    builder = {
        "name": BUILDER,
        "image": options.builder_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", literal(script)],
        "workingDir": f"{HOME}/context",
        "env": _variables(variables),
        "volumeMounts": mounts,
    }
    before = _helper(INPUT, options, f"{_WAIT.format(GIVEN, 0.1)}; sleep 0.2") | {"volumeMounts": mounts[:1]}
    labels = {INSTALLATION: spec.installation, BUILD: spec.uuid}
    unconfined = {"type": "Unconfined"}  # a builder without root makes namespaces of its own
    told = {
        **_common(options),
        "activeDeadlineSeconds": min(LONGEST, max(1, math.ceil(spec.timeout))),
        "terminationGracePeriodSeconds": 1,
        "initContainers": [before],
        "containers": [builder],
        "volumes": volumes,
        "securityContext": {"seccompProfile": unconfined, "appArmorProfile": unconfined},
    }
    return _pod(name, labels, {}, told)


def fence_pod(name: str, uuid: str, installation: str, options: Options) -> Manifest:
    """A pod that only takes a name: no scheduler ever looks at it. Every pod security standard admits it."""
    container = {
        "name": MAIN,
        "image": options.helper_image,
        "command": ["true"],
        "resources": options.helper_amounts(),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    told = {
        **_common(options),
        "containers": [container],
        "schedulingGates": [{"name": "polyjob/never"}],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return _pod(name, {INSTALLATION: installation, FENCE: uuid}, {}, told)


def carrier_pod(name: str, uuid: str, installation: str, options: Options) -> Manifest:
    """A pod of the helper alone, which waits and has the files of all jobs in the claim."""
    helper = _helper(HELPER, options, f'trap "exit 0" TERM; sleep {CARRIES} & wait $!') | {"volumeMounts": [_ALL_FILES]}
    told = {
        **_common(options),
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": CARRIES,
        "containers": [helper],
        "volumes": [{"name": "files", **_volume(options)}],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }
    return _pod(name, {INSTALLATION: installation, CARRIER: uuid}, {}, told)


def literal(text: str) -> str:
    """Text in a command or variable of a manifest, in which the cluster shall replace no `$(NAME)`."""
    return text.replace("$", "$$")


# Containers.


def _main(spec: JobSpec, artifact: Artifact, options: Options) -> Manifest:
    name, value = marker_variable(spec.uuid)
    own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
    launch = LAUNCH_BUILT if artifact.steps else LAUNCH
    container: Manifest = {
        "name": MAIN,
        "image": artifact.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", literal(launch), "sh"],
        "args": [literal(spec.cmd), *map(literal, artifact.steps)],
        "workingDir": FOLDER,
        "env": _variables({**spec.env, **own}),
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
    """What signals every process of a job, run in its container."""
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


def _keeper_of(image: str, options: Options) -> Manifest:
    """A container that copies what a built image has in its working folder to where the job will find it."""
    return {
        "name": KEPT,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", f"mkdir -p -m 0777 {CODE}; cp -R {FOLDER}/. {CODE}/ || true"],
        "resources": options.helper_amounts(),
        "securityContext": CONFINED,
    }


def _resources(spec: JobSpec, options: Options) -> Manifest:
    found = {"requests": _amounts(spec.requests), "limits": _amounts(spec.limits)}
    if spec.resources.gpu:
        found["limits"][options.gpu] = str(spec.resources.gpu)
    return {kind: amounts for kind, amounts in found.items() if amounts}


def _amounts(resources: Resources) -> dict[str, str]:
    amounts = {}
    if resources.cpu:
        amounts["cpu"] = f"{max(1, round(resources.cpu * 1000))}m"
    if resources.memory:
        amounts["memory"] = str(resources.memory)
    return amounts


def _variables(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": literal(value)} for name, value in variables.items()]


# Volumes.


def _volume(options: Options) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": options.claim}} if options.claim else {"emptyDir": {}}


def _shared(spec: JobSpec, options: Options) -> Manifest:
    """Where in its volume the files of a job are."""
    return {"subPath": f"polyjob/{spec.uuid}"} if options.claim else {}


_ALL_FILES: Manifest = {"name": "files", "mountPath": CLAIM, "subPath": "polyjob"}
"""A folder cannot be removed from within: this is the one above it."""


def _code(shared: Manifest) -> Manifest:
    return {"name": "files", "mountPath": FOLDER, "subPath": "/".join([*shared.values(), "code"])}


# Pods.


def _common(options: Options) -> Manifest:
    return {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False}


def _pod(name: str, labels: Mapping[str, str], annotations: Mapping[str, str], spec: Manifest) -> Manifest:
    metadata: Manifest = {"name": name, "labels": {**labels, "app.kubernetes.io/managed-by": "polyjob"}}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
