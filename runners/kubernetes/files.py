"""Files into a pod and out of it, through its helper containers: in pieces, whatever their size."""

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

from runners.base import RunnerUnavailable
from runners.common import tarstream
from runners.kubernetes import pod_status
from runners.kubernetes.api import Api, Refused
from runners.kubernetes.exec import Failed, NotRun, run, stream
from runners.kubernetes.manifests import CLAIM, CODE, GIVEN, HELPER, HOME, INPUT, LOGS, OUTPUTS

PIECE = 120.0
"""Seconds that a piece of a file may take."""
AT_ONCE = 4
"""Pods that files are put into side by side."""
ENDED_UNDER_IT = 137
"""The exit code of a command whose container has ended."""
STATUS_LAG = 5.0
"""Seconds that a pod may take to say that."""
FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds before files are put in again, after that has failed."""
_UNPACK = "head -c {} | tar xof - -C /"
_PACK = (
    "cd {} || exit 0; if [ -d outputs ] && ! [ -L outputs ]; then cd outputs && exec tar cf - .; fi; "
    "if [ -e outputs ] || [ -L outputs ]; then exec tar cf - outputs; fi"
)


@dataclass(frozen=True)
class PodFiles:
    """What is put into the pod of a job, kept as JSON until the job is cleared away: paths of tar.gz archives."""

    upload: str | None = None
    inputs: str | None = None

    @classmethod
    def read(cls, text: str) -> PodFiles:
        stored = json.loads(text)
        return cls(stored.get("code"), stored.get("inputs"))

    def text(self) -> str:
        return json.dumps({"code": self.upload, "inputs": self.inputs})

    def pieces(self) -> Iterator[bytes]:
        return tarstream.given(self, (OUTPUTS, LOGS, CODE), code=CODE, outputs=OUTPUTS)


def put(api: Api, pod: str, pieces: Iterable[bytes], folder: Path) -> None:
    """Unpack an archive, which still has no end, below `/` in the container of a pod that waits for it, and have that
    container end. Repeatable: nothing of the pod but that container has run. `folder` is for a file that goes again.

    Raises NotRun, Failed, Refused, RunnerUnavailable, OSError, tarfile.TarError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for piece in pieces:
            file.write(piece)
        file.write(_marker())  # unpacked last, so that it tells of all the rest
        file.write(tarstream.END_OF_ARCHIVE)
        size = file.tell()
        file.seek(0)
        command = ["/bin/sh", "-c", _UNPACK.format(size)]
        try:
            for _ in stream(api, pod, INPUT, command, PIECE, _chunks(file)):
                pass
        except Failed as error:
            if error.code != ENDED_UNDER_IT or not _has_taken(api, pod):
                raise


def _has_taken(api: Api, pod: str) -> bool:
    """Whether the container that waits has seen that all is there, and ended before the command that brought it."""
    deadline = time.monotonic() + STATUS_LAG
    while True:
        code = pod_status.exit_code(api.get(api.pod(pod)), INPUT)
        if code is not None or time.monotonic() > deadline:
            return code == 0
        time.sleep(0.1)


def fetch(api: Api, pod: str, home: str = HOME) -> Iterator[bytes]:
    """The outputs folder, as `RemoteRunner.outputs` has it. `home` is where the pod's helper has the job's files.

    Raises NotRun, Failed, Refused, RunnerUnavailable."""
    packed = stream(api, pod, HELPER, ["/bin/sh", "-c", _PACK.format(home)], PIECE)
    first = next(packed, None)
    if first is None:
        return
    try:
        yield from tarstream.renamed(_joined(first, packed), _output_name)
    except tarfile.TarError as error:
        raise RunnerUnavailable(f"What {pod} gave of its outputs is no archive: {error}") from None
    for _ in packed:  # the padding; and only here it is known to have gone well
        pass
    yield tarstream.END_OF_ARCHIVE


def remove_all(api: Api, pod: str, uuid: str) -> None:
    """Remove the files of a job from the claim that the helper of a pod has. Raises as `fetch`."""
    run(api, pod, HELPER, ["rm", "-rf", f"{CLAIM}/{uuid}"], PIECE)


def _output_name(name: str) -> str | None:
    return "." if name == "outputs" else tarstream.below(name, 0)


def _joined(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _marker() -> bytes:
    return tarfile.TarInfo(GIVEN.strip("/")).tobuf()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(1 << 16), b"")


class FileInjector:
    """Puts files into pods, in threads of its own, each pod once at a time. All of it can be lost: a pod waits."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._given: set[str] = set()
        """Pods that have all, whether they say so already or not."""
        self._rests: dict[str, tuple[float, float]] = {}
        """Pod → (when it may be tried again, for how long it rested)."""
        self._why: dict[str, str] = {}

    def begin(self, pod: str, gift: PodFiles) -> None:
        """Have the files of a pod put in, unless that goes on, or has just failed. Returns at once."""
        with self._lock:
            at, _ = self._rests.get(pod, (0.0, 0.0))
            if pod in self._given or pod in self._busy or len(self._busy) >= AT_ONCE or time.monotonic() < at:
                return
            self._busy.add(pod)
        threading.Thread(target=self._give, args=(pod, gift), name="kubernetes-files", daemon=True).start()

    def trouble(self, pod: str) -> str | None:
        """Why the last try has failed."""
        return self._why.get(pod)

    def forget(self, pod: str) -> None:
        with self._lock:
            self._given.discard(pod)
            self._rests.pop(pod, None)
            self._why.pop(pod, None)

    def _give(self, pod: str, gift: PodFiles) -> None:
        why: str | None = None
        try:
            put(self._api, pod, gift.pieces(), self._folder)
        except (NotRun, Failed, Refused, RunnerUnavailable, OSError, tarfile.TarError, EOFError) as error:
            why = f"The job's files could not be put into its pod: {error}"
        with self._lock:
            self._busy.discard(pod)
            _, rest = self._rests.get(pod, (0.0, 0.0))
            rest = min(LONGEST_REST, rest * 2 or FIRST_REST)
            self._rests[pod] = time.monotonic() + rest, rest
            self._why.pop(pod, None)
            if why:
                self._why[pod] = why
            else:
                self._given.add(pod)
