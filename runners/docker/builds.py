"""Builds of the Docker runner: an image from a base image, build steps and requirement files."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import docker.auth
from docker.errors import APIError

from runners.base import BuildFailed, BuildSpec, RunnerError, RunnerUnavailable
from runners.common.build_log import BuildLog
from runners.common.dockerfile import OPEN_FOLDER, WORKING_FOLDER, first_step, render_dockerfile
from runners.common.requirement_files import read_requirement_files
from runners.common.tarstream import build_context
from runners.docker.build_stream import ANSWER_TIMEOUT_SECONDS, BaseImageRemoved, BuildStream, EngineRefused, NoAnswer
from runners.docker.containers import client_proxies
from runners.docker.images import (
    BASE,
    BUILD,
    KEY,
    REPOSITORY,
    exact_name,
    find_image,
    full_names,
    inspect_image,
    is_reserved,
    make_artifact,
)
from runners.machine_faults import is_machine_fault

BUILD_ATTEMPTS = 3
"""Attempts of a build whose cached layers are removed meanwhile."""
UNREACHABLE_REGISTRY = (
    "no such host", "refused", "timeout", "deadline", "dial tcp", "tls", "eof", "did not answer",
    "unexpected http status: 5",
)  # fmt: skip
"""Texts in the Engine's answer if it cannot reach a registry."""


def build_image(
    client: Any, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], labels: Mapping[str, str]
) -> str:
    """Build as `Runner.build` does. The artifact has the ids of the image and of its base image."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base image: set `build.image`.")
    if is_reserved(spec.image):
        raise BuildFailed(f"`{spec.image}` is the image of another build; name its base image instead.")
    log = BuildLog(file, spec.log_limit)
    stop_reason = _stop_reason(cancelled, time.monotonic() + spec.timeout)
    stream = BuildStream(client, log, stop_reason, first_step(spec, labels, has_open_folder=True))
    try:
        base = _base(client, spec.image, spec.nocache, stream)
        if not (spec.build_steps or spec.env or spec.requirement_files):
            return make_artifact(spec.image, base)
        tag = f"{REPOSITORY}:{spec.uuid}"
        image = inspect_image(client, tag)
        if image is not None and (image["Config"]["Labels"] or {}).get(BUILD) == spec.uuid:
            log.say(f"The image {tag} exists already.")
            return make_artifact(spec.image, base, tag, image["Id"])
        if spec.build_steps:
            _warn_of_volumes(base, log)
        resolved = dataclasses.replace(spec, image=exact_name(spec.image, base))
        final_labels = {KEY: spec.key, BASE: base["Id"], BUILD: spec.uuid}
        dockerfile = render_dockerfile(resolved, labels, final_labels, has_open_folder=True)
        context = build_context(dockerfile, read_requirement_files(spec), f"{OPEN_FOLDER}{WORKING_FOLDER}")
        _build(stream, tag, spec.nocache, client_proxies(client, spec.env), context)
        image = inspect_image(client, tag)
        if image is None:
            raise RunnerUnavailable(f"The image {tag} was removed right after it was built.")
        return make_artifact(spec.image, base, tag, image["Id"])
    finally:
        log.end()


def _build(stream: BuildStream, tag: str, nocache: bool, variables: Mapping[str, str], build_context: bytes) -> None:
    for remaining in reversed(range(BUILD_ATTEMPTS)):
        try:
            options = {"t": tag, "nocache": nocache, "rm": True, "forcerm": True, "buildargs": json.dumps(variables)}
            stream.run("/build", options, build_context)
            return
        except BaseImageRemoved:
            if not remaining:
                raise
            nocache = True
            stream.restart("A cached layer was removed meanwhile. The build starts again without the cache.")
        except EngineRefused as error:
            if is_machine_fault(str(error)):
                raise RunnerUnavailable(f"The Docker Engine could not build: {error}") from None
            raise
        except APIError as error:
            if error.is_server_error():
                raise
            raise BuildFailed(f"The Docker Engine refused the build: {error.explanation or error}") from None


def _warn_of_volumes(base: Mapping[str, Any], log: BuildLog) -> None:
    """Note in the log that each build step gets fresh volumes, which the Engine removes with the step's container."""
    config = base["Config"]
    triggers = (line.split(None, 1) for line in config.get("OnBuild") or ())
    volumes = [*(config.get("Volumes") or ()), *(words[-1] for words in triggers if words[0].upper() == "VOLUME")]
    if volumes:
        log.say(f"The base image declares volumes. Files that build steps write there are lost: {', '.join(volumes)}")


def _stop_reason(cancelled: Callable[[], bool], deadline: float) -> Callable[[], str | None]:
    def reason() -> str | None:
        if cancelled():
            return "The build was cancelled."
        return "The build exceeded its time limit." if time.monotonic() > deadline else None

    return reason


def _base(client: Any, image: str, is_fresh: bool, stream: BuildStream) -> dict[str, Any]:
    """Return the Engine's description of the base image, which is pulled if it is missing.

    With `is_fresh`, an existing image is pulled too, and used as it is if that fails.
    """
    try:
        base = find_image(client, image)
    except APIError as error:
        if error.is_server_error():
            raise
        raise _pull_error(image, str(error.explanation or error)) from None
    if base is not None and not is_fresh:
        return base
    try:
        _pull(client, image, stream)
    except BuildFailed as error:
        if base is None or stream.stop_reason() is not None:
            raise
        stream.log.say(f"The existing image is used, because a newer one could not be pulled. {error}")
        stream.restart()
        return base
    base = find_image(client, image)
    if base is None:
        raise BuildFailed(f"The image `{image}` does not exist or cannot be pulled.")
    return base


def _pull(client: Any, image: str, stream: BuildStream) -> None:
    """Pull an image. Raises BuildFailed, RunnerUnavailable."""
    stream.log.say(f"Pulling {image}")
    repository, at, digest = full_names(image)[0].partition("@")
    name, _, tag = (repository, at, digest) if at else repository.rpartition(":")
    try:
        stream.run("/images/create", {"fromImage": name, "tag": tag}, b"", _credentials(client, image))
    except APIError as error:
        raise _pull_error(image, str(error.explanation or error)) from None
    except EngineRefused as error:
        raise _pull_error(image, str(error)) from None
    except NoAnswer:
        raise _pull_error(image, f"it did not answer for {ANSWER_TIMEOUT_SECONDS} seconds") from None


def _credentials(client: Any, image: str) -> dict[str, str]:
    """Return the header with the credentials that `docker login` has stored for the image's registry."""
    registry, _ = docker.auth.resolve_repository_name(image.partition("@")[0])
    header = docker.auth.get_config_header(client, registry)
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}


def _pull_error(image: str, text: str) -> RunnerError:
    if "invalid reference format" in text or "invalid checksum digest" in text:
        return BuildFailed(f"`{image}` is not a valid image name.")
    reason = text
    for name in (full_names(image)[0], image):
        reason = reason.replace(name, "").replace(name.partition("@")[0].rpartition(":")[0] or name, "")
    reason = reason.lower()
    if any(word in reason for word in UNREACHABLE_REGISTRY):
        return BuildFailed(f"The registry of `{image}` cannot be reached: {text}")
    if is_machine_fault(reason):
        return RunnerUnavailable(f"The Docker Engine could not pull `{image}`: {text}")
    return BuildFailed(f"The image `{image}` does not exist or cannot be pulled: {text}")
