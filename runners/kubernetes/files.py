"""Copying files into and out of a pod, through its helper containers: in chunks, whatever their size."""

from __future__ import annotations

import json
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runners.base import JobOutputs, RunnerUnavailable
from runners.common import tarstream
from runners.common.tar_names import path_below
from runners.kubernetes import pod_status
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.exec import CommandFailed, CommandNotRun, run, stream
from runners.kubernetes.manifests import CLAIM, CODE, FILES_MARKER, HELPER, HOME, INPUT, INPUTS, LOGS, OUTPUTS

CHUNK_SECONDS = 120.0
"""Time limit for one chunk of a file."""
MAX_INJECTIONS = 4
"""Number of pods that files are copied into at the same time."""
KILLED_WITH_CONTAINER = 137
"""Exit code of a command whose container has ended."""
STATUS_LAG_SECONDS = 5.0
"""Time that a pod may take to report that its container has ended."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
"""Pauses before files are copied again after a failure."""
_UNPACK = "head -c {} | tar xof - -C /"
_PACK = (
    "cd {} || exit 0; if [ -d outputs ] && ! [ -L outputs ]; then cd outputs && exec tar cf - .; fi; "
    "if [ -e outputs ] || [ -L outputs ]; then exec tar cf - outputs; fi"
)


@dataclass(frozen=True)
class PodFiles:
    """The files to copy into the pod of a job, as paths of tar.gz files. Kept as JSON until the job is cleaned."""

    upload: str | None = None
    inputs: str | None = None
    job_outputs: tuple[JobOutputs, ...] = ()

    @classmethod
    def parse(cls, text: str) -> PodFiles:
        stored = json.loads(text)
        job_outputs = tuple(JobOutputs(name, path) for name, path in stored.get("job_outputs", ()))
        return cls(stored.get("code"), stored.get("inputs"), job_outputs)

    def text(self) -> str:
        job_outputs = [(outputs.name, outputs.path) for outputs in self.job_outputs]
        return json.dumps({"code": self.upload, "inputs": self.inputs, "job_outputs": job_outputs})

    def chunks(self) -> Iterator[bytes]:
        """Yield the tarball to unpack in the pod, without its end."""
        return tarstream.files_for_job(
            self, (OUTPUTS, LOGS, CODE), upload_folder=CODE, outputs_folder=OUTPUTS, inputs_folder=INPUTS
        )


def inject(api: Api, pod: str, chunks: Iterable[bytes], folder: Path) -> None:
    """Unpack a tarball below `/` in the container `input` of a pod, which waits for it and then ends.

    The tarball comes without its end. `folder` is for a temporary file. Repeatable: no other container of the pod has
    started yet. Raises CommandNotRun, CommandFailed, ApiRefused, RunnerUnavailable, OSError, tarfile.TarError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for chunk in chunks:
            file.write(chunk)
        file.write(_marker())  # unpacked last, so its presence proves that all other files are complete
        file.write(tarstream.END_OF_TARBALL)
        size = file.tell()
        file.seek(0)
        command = ["/bin/sh", "-c", _UNPACK.format(size)]
        try:
            for _ in stream(api, pod, INPUT, command, CHUNK_SECONDS, _file_chunks(file)):
                pass
        except CommandFailed as error:
            if error.code != KILLED_WITH_CONTAINER or not _is_complete(api, pod):
                raise


def _is_complete(api: Api, pod: str) -> bool:
    """Return whether the container `input` has found all files, and ended before the command that unpacked them."""
    deadline = time.monotonic() + STATUS_LAG_SECONDS
    while True:
        code = pod_status.exit_code(api.get(api.pod(pod)), INPUT)
        if code is not None or time.monotonic() > deadline:
            return code == 0
        time.sleep(0.1)


def fetch(api: Api, pod: str, home: str = HOME) -> Iterator[bytes]:
    """Yield the outputs folder, as `RemoteRunner.outputs` does. `home` is the folder of the job's files in the helper.

    Raises CommandNotRun, CommandFailed, ApiRefused, RunnerUnavailable.
    """
    packed = stream(api, pod, HELPER, ["/bin/sh", "-c", _PACK.format(home)], CHUNK_SECONDS)
    first = next(packed, None)
    if first is None:
        return
    try:
        yield from tarstream.rename_members(_chain(first, packed), _output_name)
    except tarfile.TarError as error:
        raise RunnerUnavailable(f"The outputs from {pod} are not a valid tarball: {error}") from None
    for _ in packed:  # the padding; the command's exit code is known only after it
        pass
    yield tarstream.END_OF_TARBALL


def remove_all(api: Api, pod: str, uuid: str) -> None:
    """Remove the files of a job from the claim that the helper of a pod mounts. Raises as `fetch`."""
    run(api, pod, HELPER, ["rm", "-rf", f"{CLAIM}/{uuid}"], CHUNK_SECONDS)


def _output_name(name: str) -> str | None:
    return "." if name == "outputs" else path_below(name, 0)


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _marker() -> bytes:
    return tarfile.TarInfo(FILES_MARKER.strip("/")).tobuf()


def _file_chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(1 << 16), b"")


@dataclass(eq=False)
class Injection:
    """The progress of copying files into one pod."""

    is_done: bool = False
    """The pod has all files, whether its status shows that already or not."""
    pause: float = 0.0
    """Seconds of the last pause after a failure."""
    retry_at: float = 0.0
    error: str | None = None
    """The reason why the last attempt failed."""


class FileInjector:
    """Copies files into pods, in threads of its own, one at a time for each pod."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def begin(self, pod: str, files: PodFiles, injection: Injection) -> None:
        """Start to copy files into a pod, unless that is going on, is done, or has just failed. Returns at once."""
        with self._lock:
            if injection.is_done or pod in self._busy or time.monotonic() < injection.retry_at:
                return
            if len(self._busy) >= MAX_INJECTIONS:
                return
            self._busy.add(pod)
        threading.Thread(target=self._run, args=(pod, files, injection), name="kubernetes-files", daemon=True).start()

    def _run(self, pod: str, files: PodFiles, injection: Injection) -> None:
        message: str | None = None
        try:
            inject(self._api, pod, files.chunks(), self._folder)
        except (
            CommandNotRun,
            CommandFailed,
            ApiRefused,
            RunnerUnavailable,
            OSError,
            tarfile.TarError,
            EOFError,
        ) as error:
            message = f"The job's files could not be copied into its pod: {error}"
        with self._lock:
            self._busy.discard(pod)
            injection.pause = min(LONGEST_RETRY_SECONDS, injection.pause * 2 or FIRST_RETRY_SECONDS)
            injection.retry_at = time.monotonic() + injection.pause
            injection.error = message
            injection.is_done = message is None
