"""Builds of the Kubernetes runner: a pod builds an image and pushes it.

Without a registry, each job runs the build steps itself.

Pod and image are named by the build. So after a crash the next engine follows the pod that exists, or finds the image
that was pushed. Jobs use the image by its digest, because a tag can be moved to another image.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from runners.base import (
    BuildFailed,
    BuildSpec,
    HandleNotFound,
    RunnerError,
    RunnerRefused,
    RunnerUnavailable,
    StartFailed,
)
from runners.common.build_log import BuildLog
from runners.common.dockerfile import render_dockerfile
from runners.common.requirement_files import read_requirement_files
from runners.common.tarstream import file_member
from runners.kubernetes import files, pod_status, pods
from runners.kubernetes.api import Api, ApiRefused, Object
from runners.kubernetes.diagnostics import ProblemTimer
from runners.kubernetes.exec import CommandFailed, CommandNotRun
from runners.kubernetes.logs import LogCursor, Logs
from runners.kubernetes.manifests import BUILD, BUILDER, HOME, INPUT, INSTALLATION, Artifact, build_pod
from runners.kubernetes.options import Options
from runners.kubernetes.pod_status import StartProblem
from runners.kubernetes.refusals import of_create
from runners.kubernetes.registry import RegistryUnavailable, image_digest, repository_name
from runners.machine_faults import is_machine_fault

POLL_SECONDS = 0.3
"""Pause between two requests for a builder's pod."""
LOG_CHUNK_BYTES = 1 << 20
NO_REGISTRY = (
    "No registry is configured: each job runs the build steps in its own pod before its command; nothing is kept."
)
IMAGE_MISSING = "its image is no longer in the registry"
_FAILED_STEP = re.compile(rb"^(?:#\d+ [\d.]+ )?polyjob: step (\d+) ended with exit code (\d+)\s*$", re.MULTILINE)
"""The line that a failing build step writes. BuildKit puts its own number and time before each line."""
TAIL_BYTES = 1 << 16
"""Size of the end of the builder's log that is searched for that line."""
LAST_WORDS_BYTES = 2000
"""Size of the end of the log in which a builder explains its own failure."""


def build_image(
    api: Api, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], options: Options, folder: Path
) -> str:
    """Build, as `Runner.build` does. `folder` is for temporary files. Raises ApiRefused, too."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base image: set `build.image`.")
    if is_reserved(spec.image, options):
        raise BuildFailed(reserved_image_message(spec.image))
    log = BuildLog(file, spec.log_limit)
    try:
        if not spec.build_steps and not (spec.requirement_files and options.registry):
            return Artifact(spec.image, spec.image).text()
        if not options.registry:
            log.say(NO_REGISTRY)
            return Artifact(spec.image, spec.image, spec.build_steps, spec.timeout).text()
        image = image_name(spec, options)
        if image_exists(image, options):
            log.say(f"The image {image} already exists.")
        else:
            _Build(api, spec, log, cancelled, options, folder, image).run()
        return Artifact(_name_by_digest(image, options, log), spec.image).text()
    finally:
        log.end()


def image_name(spec: BuildSpec, options: Options) -> str:
    return f"{_repository(options)}:{spec.uuid}"


def build_pod_name(spec: BuildSpec) -> str:
    return f"polyjob-build-{spec.uuid}"


def is_reserved(image: str, options: Options) -> bool:
    """Return whether an image that a job names was built by polyjob, possibly for another user."""
    return bool(options.registry) and repository_name(image) == repository_name(_repository(options))


def reserved_image_message(image: str) -> str:
    """Return the message that refuses an image of polyjob's own repository."""
    return f"`{image}` is in the repository where polyjob keeps images of builds; name the image that it is based on."


def image_exists(image: str, options: Options) -> bool | None:
    """Return whether the registry has an image; None if it does not tell."""
    try:
        return image_digest(image, insecure=options.is_insecure) is not None
    except RegistryUnavailable:
        return None


def reporting_steps(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Return build steps that write their number and exit code if they fail, whatever the builder is."""
    return tuple(
        f"trap 'code=$?; [ $code = 0 ] || echo \"polyjob: step {step_number} ended with exit code $code\"' EXIT\n{step}"
        for step_number, step in enumerate(steps, 1)
    )


def _repository(options: Options) -> str:
    return f"{options.registry.removeprefix('http://').rstrip('/')}/polyjob"


def _name_by_digest(image: str, options: Options, log: BuildLog) -> str:
    """Return the image's name with its digest, or with its tag if the registry does not tell polyjob the digest."""
    try:
        digest = image_digest(image, insecure=options.is_insecure)
    except RegistryUnavailable as error:
        digest, reason = "", f": {error}"
    else:
        reason = ""
    if digest is None:
        raise RunnerUnavailable(f"The image {image} is not in the registry, although it was pushed.")
    if not digest:
        log.say(f"Jobs run on the tag {image}, because its digest is not known{reason}.")
        return image
    return f"{_repository(options)}@{digest}"


class _Build:
    """One build in a pod."""

    def __init__(
        self,
        api: Api,
        spec: BuildSpec,
        log: BuildLog,
        cancelled: Callable[[], bool],
        options: Options,
        folder: Path,
        image: str,
    ) -> None:
        self.api, self.spec, self.log, self.cancelled, self.options = api, spec, log, cancelled, options
        self.folder, self.image, self.name = folder, image, build_pod_name(spec)
        self.deadline = time.monotonic() + spec.timeout
        self.timer = ProblemTimer()
        self.problem: StartProblem | None = None
        self.has_files = False
        self.logs, self.cursor, self.tail = Logs(), LogCursor(), b""

    def run(self) -> None:
        """Build and push the image. Raises BuildFailed, ApiRefused, RunnerUnavailable."""
        pod = self._find_pod()
        if pod is not None and _has_ended(pod):
            self._delete(pod)  # of an earlier attempt
            pod = None
        if pod is None:
            manifest = build_pod(self.spec, self.name, self.image, self.options)
            try:
                pod = pods.create(self.api, manifest) or self._find_pod()
            except ApiRefused as error:
                raise _build_error(of_create(error)) from None
        if pod is None:
            raise RunnerUnavailable(f"The pod {self.name} has disappeared again.")
        self._check_owner(pod)
        try:
            self._follow(pod)
        finally:
            self.logs.close()
        self._delete(pod)

    def _follow(self, pod: Object | None) -> None:
        """Read the builder's log to its end, and check the exit code."""
        while pod is not None:
            self._check_limits(pod)
            if pod_status.container_runs(pod, INPUT) and not self.has_files:
                self._inject_files(pod)
            code = _exit_code(pod)
            if code is not None or pod_status.container_runs(pod, BUILDER):
                self._read_log()
            else:
                self._check_problem(pod)
            if code is not None:
                self._check_exit_code(pod, code)
                return
            threading.Event().wait(POLL_SECONDS)
            pod = self._find_pod()
        if not image_exists(self.image, self.options):
            raise RunnerUnavailable(f"The builder's pod {self.name} has disappeared, and its image does not exist.")

    def _check_limits(self, pod: Object) -> None:
        message = "The build was cancelled." if self.cancelled() else None
        if time.monotonic() > self.deadline:
            message = "The build exceeded its time limit."
        if message:
            self._delete(pod)
            raise BuildFailed(message)

    def _read_log(self) -> None:
        while True:
            try:
                data, self.cursor, _ = self.logs.read(self.api, self.name, BUILDER, self.cursor, LOG_CHUNK_BYTES)
            except HandleNotFound:
                return
            except ApiRefused as error:
                if error.status != 404:
                    raise
                return
            self.log.write(data)
            self.tail = (self.tail + data)[-TAIL_BYTES:]
            if len(data) < LOG_CHUNK_BYTES:
                return

    def _inject_files(self, pod: Object) -> None:
        try:
            files.inject(self.api, self.name, self._context(), self.folder)
            self.has_files = True
        except CommandNotRun:  # another engine has copied the same files, and the pod's status does not show it yet
            return
        except CommandFailed as error:
            raise RunnerUnavailable(f"The build's files could not be copied into its pod: {error}") from None
        except BuildFailed:  # the upload's requirement files cannot be used
            self._delete(pod)
            raise

    def _context(self) -> Iterator[bytes]:
        """Yield a tarball of the Dockerfile and the requirement files, without its end."""
        spec = dataclasses.replace(self.spec, build_steps=reporting_steps(self.spec.build_steps))
        folder = f"{HOME}/context".strip("/")
        yield from file_member(f"{folder}/Dockerfile", render_dockerfile(spec, {}).encode())
        for name, content, mode in read_requirement_files(self.spec):
            yield from file_member(f"{folder}/{name}", content, mode)

    def _check_problem(self, pod: Object) -> None:
        """Log a new problem of the pod, and fail the build if it lasts for too long."""
        problem, previous = pod_status.start_problem(pod), self.problem
        self.problem = problem
        if problem is None:
            self.timer.reset()
            return
        if previous is None or previous.kind != problem.kind:
            self.log.say(problem.text)
        if self.timer.is_final(problem, self.options.patience):
            self._delete(pod)
            raise BuildFailed(f"The builder's pod cannot be started: {problem.text}")

    def _check_exit_code(self, pod: Object, code: int) -> None:
        if code == 0:
            return
        matches = _FAILED_STEP.findall(self.tail)
        self._delete(pod)
        if matches:
            step, step_code = int(matches[-1][0]), int(matches[-1][1])
            raise BuildFailed(f"step {step} ended with exit code {step_code}", step, step_code)
        reason = pod_status.forced_end(pod, BUILDER)
        if pod_status.was_ended_by_cluster(pod, BUILDER):
            raise RunnerRefused(f"The builder was ended: {reason or 'its machine lost sight of it'}.")
        if reason:
            raise BuildFailed(f"the builder was ended: {reason}")
        last_words = self.tail[-LAST_WORDS_BYTES:].decode(errors="replace")
        if is_machine_fault(last_words):
            raise RunnerUnavailable(f"The builder ended with exit code {code}: {_last_machine_fault(last_words)}")
        raise BuildFailed(
            f"the builder ended with exit code {code}; see the build's log for the reason", exit_code=code
        )

    def _find_pod(self) -> Object | None:
        return pods.find(self.api, self.name)

    def _check_owner(self, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        if labels.get(INSTALLATION) != self.spec.installation or labels.get(BUILD) != self.spec.uuid:
            raise BuildFailed(f"There is already a pod named {self.name}, which does not belong to this polyjob.")

    def _delete(self, pod: Object) -> None:
        """Delete a pod, and wait until it has disappeared."""
        pods.delete(self.api, pod, 0 if _has_ended(pod) else 1)
        pods.wait_until_deleted(self.api, self.name, pod["metadata"]["uid"])


def _build_error(error: RunnerError) -> RunnerError:
    return BuildFailed(str(error)) if isinstance(error, StartFailed) else error


def _last_machine_fault(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if is_machine_fault(line)), "")


def _has_ended(pod: Object) -> bool:
    return _exit_code(pod) is not None


def _exit_code(pod: Object) -> int | None:
    """Return the builder's exit code; 137 if its pod has ended without one; None while it runs."""
    code = pod_status.exit_code(pod, BUILDER)
    has_ended = (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return 137 if code is None and has_ended else code
