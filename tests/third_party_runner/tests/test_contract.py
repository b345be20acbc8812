"""The contract suite of polyjob, for this runner."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_runner.runner import PlainRunner

from runners.base import JobSpec, Runner, Running
from runners.testing import CommandHarness, wait_for
from runners.testing.contract import *  # noqa: F403


class PlainHarness(CommandHarness):
    def make(self) -> Runner:
        return PlainRunner(self.settings, self.woken.set)

    def unstartable_job(self) -> JobSpec:
        return self.spec("echo a\0b")

    def lost_job(self) -> tuple[JobSpec, str]:
        spec = self.spec("sleep 1000")
        handle = self.runner.start(spec, None)
        wait_for(lambda: isinstance(self.state(handle), Running))
        os.kill(self.supervisor(spec), signal.SIGKILL)
        return spec, handle

    def supervisor(self, spec: JobSpec) -> int:
        """Return the pid of the job's supervisor, whose last argument is the private folder of the job."""
        argument = os.fsencode(self.data / "plain" / spec.uuid)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().split(b"\0")[-2:-1] == [argument]:
                    return int(path.parent.name)
            except OSError:
                time.sleep(0)
        raise AssertionError("the job has no supervisor")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[PlainHarness]:
    harness = PlainHarness(tmp_path)
    yield harness
    harness.close()
