"""The parts of a job's config that each runner supports: one table per runner, used by the server and by the docs.

A runner refuses a part that it cannot honour if leaving it out would change the result of the job or grant more access.
If the part only limits or places the job, the job runs without it and gets a note. No backend's SDK is imported here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class SupportLevel(enum.StrEnum):
    HONOURED = "honoured"
    NOTED = "noted"
    """The job runs without the part, and a note on the job says so."""
    REFUSED = "refused"
    """The API rejects a config that has the part, with status 400."""


@dataclass(frozen=True)
class Support:
    level: SupportLevel
    reason: str = ""
    """Text for the user. For a noted part: what happens instead. For a refused part: the cause, a semicolon, and an
    alternative."""


def _honoured() -> Support:
    return Support(SupportLevel.HONOURED)


def _noted(reason: str) -> Support:
    return Support(SupportLevel.NOTED, reason)


def _refused(reason: str) -> Support:
    return Support(SupportLevel.REFUSED, reason)


_HOST = "the job runs on the server's own machine, without an image"
_PLACED = "there is one machine to run on"
_CLUSTER = "only a cluster has it"
_ELSEWHERE = "only a cluster has it; leave it out, or use the kubernetes runner"
_REFERENCE = "only a cluster has it; set the values in `environment.env_vars`, or use the kubernetes runner"
_CODE = "the project's upload is used; check this out and upload it by `polyjob run -u FOLDER`"
_OWN_FILES = "the job does not see the server's folders; upload the folder by `polyjob run -u FOLDER`"
_OUTPUTS = "write to `$POLYAXON_RUN_OUTPUTS_PATH`, which polyjob keeps"

PROCESS: Mapping[str, Support] = {
    "framework": _noted("it has no effect on a job"),
    "backend": _noted("no runner of this server has that name, or the request names another one"),
    "logging": _honoured(),
    "build.image": _noted(_HOST),
    "build.build_steps": _honoured(),
    "build.env_vars": _honoured(),
    "build.lang_env": _honoured(),
    "build.nocache": _honoured(),
    "build.backend": _noted("the process runner builds a virtualenv by itself"),
    "build.dockerfile": _refused("the process runner builds no images; write what the file runs as `build_steps`"),
    "build.context": _refused("the process runner builds no images; upload the folder by `polyjob run -u FOLDER`"),
    "build.ref": _refused("the build is chosen by its content; name one by `build_job` beside the config"),
    "build.commit": _refused(_CODE),
    "build.branch": _refused(_CODE),
    "build.git": _refused(_CODE),
    "environment.env_vars": _honoured(),
    "environment.workdir": _honoured(),
    "environment.resources.cpu": _noted("it is not enforced"),
    "environment.resources.memory": _noted("it is not enforced"),
    "environment.resources.gpu": _honoured(),
    "environment.resources.pids": _noted("it is not enforced"),
    "environment.resources.tpu": _refused("polyjob does not assign TPUs; leave it out, or ask for `gpu`"),
    "environment.node_selector": _noted(_PLACED),
    "environment.affinity": _noted(_PLACED),
    "environment.tolerations": _noted(_PLACED),
    "environment.labels": _noted(_CLUSTER),
    "environment.annotations": _noted(_CLUSTER),
    "environment.index": _noted("it has no effect on a job"),
    "environment.image_pull_secrets": _noted(_HOST),
    "environment.service_account": _refused(_ELSEWHERE),
    "environment.secret_refs": _honoured(),
    "environment.configmap_refs": _refused(_REFERENCE),
    "environment.config_map_refs": _refused(_REFERENCE),
    "environment.data_refs": _honoured(),
    "environment.artifact_refs": _refused(f"no artifact stores are configured; {_OUTPUTS}"),
    "environment.persistence.data": _honoured(),
    "environment.persistence.outputs": _refused(f"there are no stores of outputs to choose from; {_OUTPUTS}"),
    "environment.outputs.jobs": _honoured(),
    "environment.outputs.experiments": _refused("there are no experiments; list jobs in `environment.outputs.jobs`"),
    "environment.max_restarts": _refused("a job runs once; use `termination.max_retries`"),
    "termination.timeout": _honoured(),
    "termination.grace": _honoured(),
    "termination.ttl": _noted("polyjob cleans up the backend as soon as a job ends"),
    "termination.max_retries": _honoured(),
    "termination.retry": _honoured(),
    "termination.restart_policy": _refused("a job runs once; use `termination.max_retries`"),
}

_IMAGES = "an image is built from `image` and `build_steps`; write what the file runs as `build_steps`"
_FOLDER = "only requirement files are there when an image is built; upload the folder by `polyjob run -u FOLDER`"

DOCKER: Mapping[str, Support] = {
    **PROCESS,
    "build.image": _honoured(),
    "build.backend": _noted("the Docker Engine builds"),
    "build.dockerfile": _refused(_IMAGES),
    "build.context": _refused(_FOLDER),
    "environment.workdir": _refused(_OWN_FILES),
    "environment.resources.cpu": _honoured(),
    "environment.resources.memory": _honoured(),
    "environment.resources.gpu": _honoured(),
    "environment.resources.pids": _honoured(),
    "environment.node_selector": _noted("there is one Engine to run on"),
    "environment.affinity": _noted("there is one Engine to run on"),
    "environment.tolerations": _noted("there is one Engine to run on"),
    "environment.image_pull_secrets": _noted("the Engine's own are used"),
}

KUBERNETES: Mapping[str, Support] = {
    **DOCKER,
    "build.backend": _noted("the server's builder is used"),
    "environment.resources.pids": _noted("the kubelet bounds the processes of a pod"),
    "environment.node_selector": _honoured(),
    "environment.affinity": _honoured(),
    "environment.tolerations": _honoured(),
    "environment.labels": _honoured(),
    "environment.annotations": _honoured(),
    "environment.image_pull_secrets": _honoured(),
    "environment.service_account": _honoured(),
    "environment.configmap_refs": _honoured(),
    "environment.config_map_refs": _honoured(),
}

_NO_IMAGES = "this runner builds no images"
_NO_VOLUMES = "this runner has no volumes; download the data in the command"

BASIC: Mapping[str, Support] = {
    **PROCESS,
    "build.image": _noted("this runner uses no images"),
    "build.build_steps": _refused("this runner builds nothing; run the steps in the command"),
    "build.backend": _noted(_NO_IMAGES),
    "build.dockerfile": _refused(f"{_NO_IMAGES}; run its steps in the command"),
    "build.context": _refused(f"{_NO_IMAGES}; upload the folder by `polyjob run -u FOLDER`"),
    "environment.workdir": _refused(_OWN_FILES),
    "environment.resources.gpu": _refused("this runner knows no GPUs; leave it out, or choose another `backend`"),
    "environment.node_selector": _noted("this runner places jobs itself"),
    "environment.affinity": _noted("this runner places jobs itself"),
    "environment.tolerations": _noted("this runner places jobs itself"),
    "environment.image_pull_secrets": _noted("this runner uses no images"),
    "environment.secret_refs": _refused("this runner keeps no secrets; let the command fetch them"),
    "environment.data_refs": _refused(_NO_VOLUMES),
    "environment.persistence.data": _refused(_NO_VOLUMES),
    "environment.outputs.jobs": _refused(
        "this runner does not pass them on; start from the outputs of one job by `polyjob copy` or `polyjob resume`"
    ),
}
"""Support of a runner of another package, as far as the runner does not declare it: it only runs commands."""

CAPABILITIES: Mapping[str, Mapping[str, Support]] = {
    "process": PROCESS,
    "docker": DOCKER,
    "kubernetes": KUBERNETES,
    "fake": {path: Support(SupportLevel.HONOURED) for path in PROCESS} | {"backend": PROCESS["backend"]},
}
"""Runner → path of a part of the config → support. The server itself honours every part that is not listed."""

REQUIRED_PARTS: Mapping[str, Mapping[str, str]] = {
    "docker": {"build.image": "a container runs an image"},
    "kubernetes": {"build.image": "a pod's container runs an image"},
}
"""Runner → path of a part that every config for it must have → the reason."""

LOCAL_RUNNERS = frozenset({"process"})
"""Runners whose jobs write directly into the job's folder, from their start on; see `Runner.is_local`."""

BUILD_RESULTS: Mapping[str, str] = {"process": "a virtualenv", "docker": "an image"}
"""Runner → what its builds produce, for messages. Runners for which that depends on the settings are not listed."""

CLAIM_RUNNERS = frozenset({"kubernetes"})
"""Runners whose volumes are persistent volume claims. Those of all others are folders."""

CLUSTER_SECRET_RUNNERS = frozenset({"kubernetes"})
"""Runners whose cluster has secrets of its own, which jobs can name."""

GPU_ASSIGNING_RUNNERS = frozenset({"kubernetes"})
"""Runners whose backend itself assigns GPUs to the jobs that ask for them."""
