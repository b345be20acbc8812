"""Builds of the Kubernetes runner: an image that a pod makes and pushes, or, without a registry, steps for each job.

Pod and image are named by the build, so that after a crash the next engine listens to the pod that is there, and finds
the image that was pushed. Jobs start by the image's digest: a tag can be moved to another image.
"""

from __future__ import annotations

import dataclasses
import re
import tarfile
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
from runners.common.tarstream import member
from runners.kubernetes import files, pod_status, pods
from runners.kubernetes.api import Api, Object, Refused
from runners.kubernetes.diagnostics import Troubles
from runners.kubernetes.exec import Failed, NotRun
from runners.kubernetes.logs import LogCursor, Logs
from runners.kubernetes.manifests import BUILD, BUILDER, HOME, INPUT, INSTALLATION, Artifact, build_pod
from runners.kubernetes.options import Options
from runners.kubernetes.pod_status import Trouble
from runners.kubernetes.refusals import of_create
from runners.kubernetes.registry import Unanswered, digest_of, repository_of
from runners.machine_faults import is_machine_fault

LARGEST_FILE = 16 << 20
"""Bytes of one requirement file."""
LOOK = 0.3
"""Seconds between two looks at a builder."""
PIECE = 1 << 20
NO_REGISTRY = "There is no registry: the steps run in the pod of each job, before its command, and nothing is kept."
GONE = "its image is not in the registry any more"
_STEP = re.compile(rb"^(?:#\d+ [\d.]+ )?polyjob: step (\d+) ended with exit code (\d+)\s*$", re.MULTILINE)
"""What a failing step writes; BuildKit puts its own number and time before each line."""
TAIL = 1 << 16
"""Bytes at the end of the builder's log in which that is looked for."""
LAST_WORDS = 2000
"""Bytes at its end in which a builder says what it could not do."""


def build_image(
    api: Api, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], options: Options, folder: Path
) -> str:
    """See `Runner.build`. Raises Refused, too. `folder` is for files that go again."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base: set `build.image`.")
    if is_own(spec.image, options):
        raise BuildFailed(not_for_jobs(spec.image))
    log = BuildLog(file, spec.log_limit)
    try:
        if not spec.build_steps and not (spec.requirement_files and options.registry):
            return Artifact(spec.image, spec.image).text()
        if not options.registry:
            log.say(NO_REGISTRY)
            return Artifact(spec.image, spec.image, spec.build_steps, spec.timeout).text()
        image = image_name(spec, options)
        if is_there(image, options):
            log.say(f"The image {image} is there already.")
        else:
            _Build(api, spec, log, cancelled, options, folder, image).run()
        return Artifact(_exact_name(image, options, log), spec.image).text()
    finally:
        log.end()


def image_name(spec: BuildSpec, options: Options) -> str:
    return f"{_repository(options)}:{spec.uuid}"


def pod_name(spec: BuildSpec) -> str:
    return f"polyjob-build-{spec.uuid}"


def is_own(image: str, options: Options) -> bool:
    """Whether an image that a job names is one that polyjob has built, maybe for somebody else."""
    return bool(options.registry) and repository_of(image) == repository_of(_repository(options))


def not_for_jobs(image: str) -> str:
    return f"`{image}` is where polyjob keeps the images of builds; name the image that it is made from."


def _repository(options: Options) -> str:
    return f"{options.registry.removeprefix('http://').rstrip('/')}/polyjob"


def _exact_name(image: str, options: Options, log: BuildLog) -> str:
    """The image by its digest; by its tag where the registry does not tell polyjob."""
    try:
        digest = digest_of(image, insecure=options.is_insecure)
    except Unanswered as error:
        digest, why = "", f": {error}"
    else:
        why = ""
    if digest is None:
        raise RunnerUnavailable(f"The image {image} is not in the registry, though it was pushed.")
    if not digest:
        log.say(f"Jobs run on the tag {image}, because its digest is not known{why}.")
        return image
    return f"{_repository(options)}@{digest}"


def is_there(image: str, options: Options) -> bool | None:
    """Whether the registry has an image; None where it does not say."""
    try:
        return digest_of(image, insecure=options.is_insecure) is not None
    except Unanswered:
        return None


def told_steps(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Steps that say their number and exit code as they fail, whatever builds them."""
    return tuple(
        f"trap 'code=$?; [ $code = 0 ] || echo \"polyjob: step {number} ended with exit code $code\"' EXIT\n{step}"
        for number, step in enumerate(steps, 1)
    )


class _Build:
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
        self.folder, self.image, self.name = folder, image, pod_name(spec)
        self.deadline = time.monotonic() + spec.timeout
        self.troubles = Troubles(api, options.patience)
        self.trouble: Trouble | None = None
        self.has_given = False
        self.logs, self.cursor, self.tail = Logs(), LogCursor(), b""

    def run(self) -> None:
        """Have the image made. Raises BuildFailed, Refused, RunnerUnavailable."""
        pod = self._pod()
        if pod is not None and _has_ended(pod):
            self._delete(pod)  # of an earlier time
            pod = None
        if pod is None:
            manifest = build_pod(self.spec, self.name, self.image, self.options)
            try:
                pod = pods.create(self.api, manifest) or self._pod()
            except Refused as error:
                raise _of_build(of_create(error)) from None
        if pod is None:
            raise RunnerUnavailable(f"The pod {self.name} is gone again.")
        self._refuse_strangers(pod)
        try:
            self._follow(pod)
        finally:
            self.logs.close()
        self._delete(pod)

    def _follow(self, pod: Object | None) -> None:
        """Read the builder's log to its end, and judge that."""
        while pod is not None:
            self._end_if_asked(pod)
            if pod_status.container_runs(pod, INPUT) and not self.has_given:
                self._put()
            ended = _ending(pod)
            if ended is not None or pod_status.container_runs(pod, BUILDER):
                self._read()
            else:
                self._note_trouble(pod)
            if ended is not None:
                self._judge(pod, ended)
                return
            threading.Event().wait(LOOK)
            pod = self._pod()
        if not is_there(self.image, self.options):
            raise RunnerUnavailable(f"The builder's pod {self.name} is gone, and its image is not there.")

    def _end_if_asked(self, pod: Object) -> None:
        why = "The build was cancelled." if self.cancelled() else None
        if time.monotonic() > self.deadline:
            why = "The build took longer than it may."
        if why:
            self._delete(pod)
            raise BuildFailed(why)

    def _read(self) -> None:
        while True:
            try:
                data, self.cursor = self.logs.read(self.api, self.name, BUILDER, self.cursor, PIECE)
            except HandleNotFound:
                return
            except Refused as error:
                if error.status != 404:
                    raise
                return
            self.log.write(data)
            self.tail = (self.tail + data)[-TAIL:]
            if len(data) < PIECE:
                return

    def _put(self) -> None:
        try:
            files.put(self.api, self.name, self._context(), self.folder)
            self.has_given = True
        except NotRun:  # another has given it the same, and its pod does not say so yet
            return
        except (Failed, tarfile.TarError, EOFError) as error:
            raise RunnerUnavailable(f"The build's files could not be put into its pod: {error}") from None

    def _context(self) -> Iterator[bytes]:
        told = dataclasses.replace(self.spec, build_steps=told_steps(self.spec.build_steps))
        place = f"{HOME}/context".strip("/")
        yield from member(f"{place}/Dockerfile", render_dockerfile(told, {}).encode())
        if not self.spec.requirement_files or self.spec.upload is None:
            return
        with tarfile.open(self.spec.upload, "r:gz") as archive:
            for item in archive:
                name = item.name.removeprefix("./")
                content = archive.extractfile(item) if name in self.spec.requirement_files and item.isreg() else None
                if content is not None:
                    yield from member(f"{place}/{name}", content.read(LARGEST_FILE))

    def _note_trouble(self, pod: Object) -> None:
        trouble, before = pod_status.trouble_of(pod), self.trouble
        self.trouble = trouble
        if trouble is None:
            self.troubles.forget(self.name)
            return
        if before is None or before.kind != trouble.kind:
            self.log.say(trouble.text)
        if self.troubles.is_too_long(self.name, trouble):
            self._delete(pod)
            raise BuildFailed(f"The builder's pod cannot be started: {trouble.text}")

    def _judge(self, pod: Object, code: int) -> None:
        if code == 0:
            return
        found = _STEP.findall(self.tail)
        self._delete(pod)
        if found:
            step, step_code = int(found[-1][0]), int(found[-1][1])
            raise BuildFailed(f"step {step} ended with exit code {step_code}", step, step_code)
        why = pod_status.forced_end(pod, BUILDER)
        if pod_status.is_taken_away(pod, BUILDER):
            raise RunnerRefused(f"The builder was ended: {why or 'its machine lost sight of it'}.")
        if why:
            raise BuildFailed(f"the builder was ended: {why}")
        last = self.tail[-LAST_WORDS:].decode(errors="replace")
        if is_machine_fault(last):
            raise RunnerUnavailable(f"The builder ended with exit code {code}: {_last_line(last)}")
        raise BuildFailed(f"the builder ended with exit code {code}; the build's log says why", exit_code=code)

    def _pod(self) -> Object | None:
        return pods.find(self.api, self.name)

    def _refuse_strangers(self, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        if labels.get(INSTALLATION) != self.spec.installation or labels.get(BUILD) != self.spec.uuid:
            raise BuildFailed(f"A pod named {self.name} is there, and is not of this polyjob.")

    def _delete(self, pod: Object) -> None:
        """Have it deleted, and wait until it is gone."""
        pods.delete(self.api, pod, 0 if _has_ended(pod) else 1)
        pods.wait_until_gone(self.api, self.name, pod["metadata"]["uid"])


def _of_build(error: RunnerError) -> RunnerError:
    return BuildFailed(str(error)) if isinstance(error, StartFailed) else error


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if is_machine_fault(line)), "")


def _has_ended(pod: Object) -> bool:
    return _ending(pod) is not None


def _ending(pod: Object) -> int | None:
    """The builder's exit code; 137 where its pod was ended and does not say; None while it goes on."""
    code = pod_status.exit_code(pod, BUILDER)
    has_ended = (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return 137 if code is None and has_ended else code
