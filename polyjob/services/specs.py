"""Specs: translate stored configs to what a runner receives, and compute the key by which builds are reused.

Pure: reads neither the clock nor files, and no rows except those that it receives.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyjob.db.models import Build, Job
from polyjob.errors import Forbidden, Invalid, Problem
from polyjob.jobconfig.commands import shell_text
from polyjob.jobconfig.compose import working_folder
from polyjob.services import capacity, volumes
from polyjob.setting_values import MIB
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import DOCKER_HOST_ALIAS, BuildSpec, JobOutputs, JobSpec, Placement, Resources, RunnerSettings
from runners.capabilities import Support, SupportLevel
from runners.common.dockerfile import render_dockerfile
from runners.registry import RUNNERS, RunnerFacts, runner_facts

API_VERSION = "v1"


GPU_PATH = "environment.resources.gpu"
BACKEND_PATH = "backend"
"""Part of a config that names the runner; see `polyjob.services.runner_choice`."""
SECRET_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,99}\Z")
"""A name of a secret in polyjob. A secret of a cluster has no capital letters and no `_`."""
WITHDRAWN_KINDS = ("invalidated", "archived", "deleted")
"""Reasons of a build that replaces one that a user withdrew. Its build steps run again, without the backend's cache."""


def check_runner_support(
    config: Mapping[str, Any], runner: str, settings: Settings | None = None, pointer: str = "/config"
) -> list[dict[str, str]]:
    """Check that the runner honours the config. Return notes on the parts that it ignores.

    Without `settings`, the number of GPUs and the names of volumes are not checked. Raises Invalid with a pointer to
    each part that the runner must refuse.
    """
    facts = runner_facts(runner)
    unsupported = list(_unsupported_parts(config, facts))
    notes, problems = _notes(unsupported, config, runner), []
    for path, support in unsupported:
        if support.level is SupportLevel.REFUSED:
            detail = f"The {runner} runner cannot honour `{path}`: {support.reason}."
            problems.append(Problem(f"{pointer}/{path.replace('.', '/')}", detail))
    if settings is not None and not problems:
        problems += volumes.problems(config, settings, runner, pointer)
    requested = requested_gpus(config, runner)
    gpus = capacity.read(settings).max_requested_gpus if requested and settings else requested
    if requested > gpus:
        if gpus or "build.image" in facts.required_parts:
            counts = f"{requested} GPU{'s' if requested > 1 else ''}, but the server has {gpus or 'none'}"
            detail = f"The job asks for {counts}. `POLYJOB_GPUS` lists the GPUs of the server."
            problems.append(Problem(f"{pointer}/{GPU_PATH.replace('.', '/')}", detail))
        else:
            notes.append({"kind": GPU_PATH, "text": f"`{GPU_PATH}` was not used: the server has no GPU."})
    for path, reason in facts.required_parts.items():
        if not _look_up(config, path):
            detail = f"The {runner} runner needs `{path}`: {reason}."
            problems.append(Problem(f"{pointer}/{path.replace('.', '/')}", detail))
    if problems:
        raise Invalid(problems)
    return notes


def check_working_folder(config: Mapping[str, Any] | None, may_choose_folder: bool) -> None:
    """Raise Forbidden if the config names a working folder and the sender may not choose one."""
    if working_folder(config) is not None and not may_choose_folder:
        raise Forbidden(
            "Only an administrator, with a token of scope `admin` for all projects, may choose the folder of a job."
            " Omit `environment.workdir`, or on the command line, use `--clean`."
        )


def notes_on_ignored_parts(config: Mapping[str, Any], runner: str) -> list[dict[str, str]]:
    """Return a note for each part of the config that this runner ignores: {"kind": path, "text"}."""
    return _notes(_unsupported_parts(config, runner_facts(runner)), config, runner)


def _notes(unsupported: Iterable[tuple[str, Support]], config: Mapping[str, Any], runner: str) -> list[dict[str, str]]:
    return [
        {"kind": path, "text": f"`{path}` was not used: {support.reason}."}
        for path, support in unsupported
        if support.level is SupportLevel.NOTED and (path != BACKEND_PATH or config[BACKEND_PATH] != runner)
    ]


def _unsupported_parts(config: Mapping[str, Any], facts: RunnerFacts) -> Iterator[tuple[str, Support]]:
    """Yield each part of the config that the runner does not honour, with its support."""
    for section, path, support in facts.unsupported:
        if section in config and _look_up(config, path):
            yield path, support


def _look_up(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def build_key(
    config: Mapping[str, Any], runner: str, files: Mapping[str, str], python: str = ""
) -> tuple[str, dict[str, Any]]:
    """Return the key of a config's `build` section, and its parts: everything that the artifact depends on.

    `files` maps the path of each requirement file in the upload to its SHA-256. `python` is the setting; empty means
    the Python of polyjob. The command and `nocache` are not parts, nor is the image on a runner that does not use it.
    """
    section = config["build"]
    image_support = runner_facts(runner).support.get("build.image")
    uses_images = image_support is None or image_support.level is SupportLevel.HONOURED
    parts = {
        "runner": runner,
        **({"image": section.get("image")} if uses_images else {}),
        **({"python": python or platform.python_version()} if runner == "process" else {}),
        "build_steps": section.get("build_steps") or [],
        "env_vars": sorted(build_env(section).items()),
        "files": dict(files),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest(), parts


def build_env(section: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that a config's `build` section sets for its build steps and for its jobs."""
    language = section.get("lang_env")
    env = dict.fromkeys(("LC_ALL", "LANG", "LANGUAGE"), language) if language else {}
    return env | dict(section.get("env_vars") or [])


def build_spec(build: Build, store: Store, settings: Settings, installation: str) -> BuildSpec:
    section = build.config["build"]
    return BuildSpec(
        uuid=build.uuid,
        installation=installation,
        folder=str(store.build_folder(build.uuid)),
        key=build.key,
        image=section.get("image"),
        build_steps=tuple(section.get("build_steps") or ()),
        env=build_env(section),
        nocache=bool(section.get("nocache")) or (build.reason or {}).get("kind") in WITHDRAWN_KINDS,
        upload=str(store.upload_path(build.code.digest)) if build.code else None,
        requirement_files=tuple(build.code.files) if build.code else (),
        timeout=settings.build_timeout,
        log_limit=settings.log_limit,
    )


def runner_settings(settings: Settings, installation: str, runner: str) -> RunnerSettings:
    """Return the settings with which a runner is created."""
    options = {
        "python": settings.python,
        "docker_shm": str(settings.docker_shm),
        **settings.kubernetes.to_strings(),
    }
    if runner not in RUNNERS:
        options = settings.options_of(runner)
    return RunnerSettings(
        data_dir=str(settings.data_dir),
        installation=installation,
        job_env=settings.job_env,
        job_user=settings.job_user or None,
        options={name: value for name, value in options.items() if value},
    )


def build_dockerfile(build: Build, store: Store, settings: Settings) -> str | None:
    """Return the Dockerfile of the build's image, without labels, or None if the build makes no image."""
    has_image = build.runner == "docker" or (build.runner == "kubernetes" and settings.kubernetes.registry)
    if not build.is_managed or not has_image:
        return None
    spec = build_spec(build, store, settings, installation="")
    return render_dockerfile(spec, {}, has_open_folder=build.runner == "docker")


def job_spec(
    job: Job,
    store: Store,
    settings: Settings,
    installation: str,
    token: str,
    inputs: Path | None,
    job_outputs: Sequence[JobOutputs] = (),
    *,
    is_pinned: bool = False,
) -> JobSpec:
    """Return what the runner needs to start the job.

    `token` is the job's own, the only token that it gets. `inputs` is the tarball of outputs that it begins with, and
    `job_outputs` are those of earlier jobs that it reads.
    `is_pinned` is true if the job named its build. A job with a working folder of its own does not need the upload.
    """
    config = job.config
    environment = config.get("environment") or {}
    workdir = working_folder(config)
    requested = environment.get("resources") or {}
    return JobSpec(
        uuid=job.uuid,
        installation=installation,
        folder=str(store.job_folder(job.uuid)),
        cmd=job_command(config),
        env=job_env(job, settings, token),
        image=(config.get("build") or {}).get("image"),
        resources=dataclasses.replace(parse_resources(requested), gpus=tuple(job.gpus or ())),
        hides_gpus=capacity.read(settings).assigns_gpus,
        requests=parse_resources(requested, "requests"),
        limits=parse_resources(requested, "limits"),
        placement=parse_placement(environment),
        volumes=volumes.volumes_of(config, settings, job.runner),
        workdir=workdir,
        timeout=time_limit(config, settings),
        upload=str(store.upload_path(job.code.digest)) if job.code and not workdir else None,
        is_pinned=is_pinned,
        inputs=str(inputs) if inputs else None,
        job_outputs=tuple(job_outputs),
        grace=grace_period(config, settings),
        log_limit=settings.log_limit,
    )


def job_command(config: Mapping[str, Any]) -> str:
    """Return the text that the job's shell runs."""
    return shell_text(config["run"]["cmd"])


def parse_resources(requested: Mapping[str, Any], *fields: str) -> Resources:
    """Return the amount of each resource from the first of `fields` that is set.

    `fields` are `limits` and `requests`, in this order if none is given. Memory is in MiB in the config, and in
    bytes in the result.
    """

    def amount(kind: str) -> Any:
        item = requested.get(kind) or {}
        return next((item[field] for field in fields or ("limits", "requests") if item.get(field)), None)

    memory = amount("memory")
    return Resources(
        cpu=amount("cpu"), memory=int(memory * MIB) if memory else None, gpu=amount("gpu"), pids=amount("pids")
    )


def parse_placement(environment: Mapping[str, Any]) -> Placement:
    """Return the placement of a job on a cluster, from the config's section `environment`."""
    config_maps = [*(environment.get("configmap_refs") or ()), *(environment.get("config_map_refs") or ())]
    return Placement(
        node_selector=environment.get("node_selector") or {},
        affinity=environment.get("affinity") or {},
        tolerations=tuple(environment.get("tolerations") or ()),
        labels=environment.get("labels") or {},
        annotations=environment.get("annotations") or {},
        pull_secrets=tuple(environment.get("image_pull_secrets") or ()),
        service_account=environment.get("service_account"),
        secrets=tuple(name for name in environment.get("secret_refs") or () if not SECRET_NAME.match(name)),
        config_maps=tuple(dict.fromkeys(config_maps)),
    )


def secret_names(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names of the secrets of polyjob that a config names. The others are those of a cluster."""
    names = ((config or {}).get("environment") or {}).get("secret_refs") or ()
    return tuple(dict.fromkeys(name for name in names if SECRET_NAME.match(name))) if names else ()


def requested_gpus(config: Mapping[str, Any] | None, runner: str) -> int:
    """Return the number of GPUs of this machine that polyjob assigns to a job. 0 if the runner assigns GPUs itself."""
    requested = ((config or {}).get("environment") or {}).get("resources")
    if not requested or runner_facts(runner).assigns_gpus:
        return 0
    return parse_resources(requested).gpu or 0


def grace_period(config: Mapping[str, Any], settings: Settings) -> float:
    """Return the seconds between TERM and KILL."""
    value = (config.get("termination") or {}).get("grace")
    return settings.stop_grace if value is None else float(value)


def time_limit(config: Mapping[str, Any], settings: Settings) -> float | None:
    """Return the seconds that the job may run, or None for no limit."""
    value = (config.get("termination") or {}).get("timeout")
    return (settings.job_timeout if value is None else float(value)) or None


def server_address(settings: Settings, runner: str) -> str:
    """Return the address at which a job reaches the server.

    In a container, 127.0.0.1 is the container itself. A server that listens on every address is reached by a name of
    the machine instead.
    """
    if runner == "docker" and not settings.public_url and settings.host in ("", "0.0.0.0", "::"):
        return f"http://{DOCKER_HOST_ALIAS}:{settings.port}"
    return settings.url


def job_env(job: Job, settings: Settings, token: str) -> dict[str, str]:
    """Return the job's environment: the variables that the documented API promises, then those of the config.

    The config cannot give a job GPUs that it does not ask for; without this rule, an NVIDIA runtime would obey the
    variable. The runner adds the variables that only it knows, such as the path of the outputs.
    """
    config, project = job.config, job.project
    host = server_address(settings, job.runner)
    info = {
        "project_name": project.unique_name,
        "project_uuid": project.uuid,
        "job_name": job.unique_name,
        "job_uuid": job.uuid,
        "role": "master",
        "type": "runner",
        "app": "polyjob",
    }
    resources = parse_resources((config.get("environment") or {}).get("resources") or {})
    env = {
        "POLYAXON_API": host,
        "POLYAXON_API_HTTP_HOST": host,
        "POLYAXON_API_WS_HOST": host.replace("http", "ws", 1),
        "POLYAXON_API_VERSION": API_VERSION,
        "POLYAXON_IN_CLUSTER": "true",
        "POLYAXON_IS_MANAGED": "true",
        "POLYAXON_JOB_INFO": json.dumps(info),
        "POLYAXON_LOG_LEVEL": (config.get("logging") or {}).get("level") or "INFO",
        "POLYAXON_DATA_PATHS": "{}",
        "POLYAXON_RUN_DATA_PATHS": "{}",
        "POLYAXON_REFS_OUTPUTS_PATHS": json.dumps({"jobs": [], "experiments": []}),
        "POLYAXON_SECRET_USER_TOKEN": token,
    }
    if job.gpus:
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if config.get("params"):
        env["POLYAXON_PARAMS"] = json.dumps(config["params"])
    own = build_env(config.get("build") or {}) | dict((config.get("environment") or {}).get("env_vars") or [])
    return env | own | ({} if resources.gpu else {"NVIDIA_VISIBLE_DEVICES": "none"})
