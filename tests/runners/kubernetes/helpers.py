"""Steps that several tests of the Kubernetes runner share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from runners.base import Exited, JobSpec, Missing, RunnerUnavailable, Running
from runners.kubernetes.api import Api
from runners.kubernetes.exec import CommandFailed, run
from runners.kubernetes.job_records import FILES
from runners.kubernetes.options import Options
from runners.kubernetes.starter import PENDING_REQUEST_SECONDS
from tests.runners.harness import archive, wait_for
from tests.runners.kubernetes_harness import KubernetesHarness

MakeHarness = Callable[..., KubernetesHarness]


def run_to_end(harness: KubernetesHarness, cmd: str, **fields: Any) -> tuple[Any, bytes, str]:
    """Run a job to its end, and return (its exit, its log, its handle)."""
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(spec, None)
    end = harness.end(handle)
    return end, harness.log(spec, handle), handle


def start_running(harness: KubernetesHarness, spec: JobSpec) -> str:
    """Start a job, wait until it runs, and return its handle."""
    handle = harness.runner.start(spec, None)
    wait_for(lambda: isinstance(harness.state(handle), Running))
    return handle


def note_of(harness: KubernetesHarness, handle: str) -> str:
    return str(getattr(harness.state(handle), "note", None))


def final_state(harness: KubernetesHarness, handle: str, runner: Any = None) -> Any:
    """Return the state of a job that has ended, else None."""
    state = harness.state(handle, runner)
    return state if isinstance(state, Exited | Missing) else None


def read_log(runner: Any, handle: str) -> Any:
    """Return (the log from its beginning, the cursor after it); None if the log is empty."""
    result = runner.logs(handle, None, 1 << 20)
    return result if result[0] else None


def release(harness: KubernetesHarness, spec: JobSpec) -> None:
    """Create the file `/tmp/go` in a job's container, which its command waits for."""
    api = Api(Options.read(harness.options))
    try:
        run(api, spec.name, "job", ["touch", "/tmp/go"], 10)
    except CommandFailed as error:
        if error.code != 128 + signal.SIGKILL:  # once the file exists, the job may end before `touch` does
            raise
    finally:
        api.close()


def is_active(pod: Any) -> bool:
    """Return whether a pod counts in a quota of pods."""
    return pod["status"].get("phase") not in ("Succeeded", "Failed")


def example_upload(harness: KubernetesHarness) -> str:
    """Return the path of an upload with the file `a.txt`, which contains `code`."""
    return archive(harness.folder / "code.tar.gz", ("a.txt", "code"))


def start_without_answer(harness: KubernetesHarness, spec: JobSpec) -> None:
    """Start a job whose request for a pod gets no answer, so that it may still be carried out."""
    harness.cluster.fail(None, times=None, verb="create", path="/pods$")
    with pytest.raises(RunnerUnavailable):
        harness.runner.start(spec, None)
    harness.cluster.heal()


def expire_requests(harness: KubernetesHarness, spec: JobSpec) -> None:
    """Make the last start of a job so old that its request can no longer be carried out."""
    record = harness.data / "kubernetes" / f"{spec.uuid}{FILES}"
    past = time.time() - PENDING_REQUEST_SECONDS
    os.utime(record, (past, past))
