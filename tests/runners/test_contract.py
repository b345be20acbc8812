"""The contract of `runners.base`, checked for every runner of polyjob with its harness."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from polyjob.storage.store import Store
from runners.base import RemoteRunner
from runners.testing import Harness
from runners.testing.contract import *  # noqa: F403


def test_huge_sparse_outputs_are_sealed_at_once(harness: Harness, tmp_path: Path) -> None:
    """A sparse file of 4 TB costs its job nothing, but a container delivers it as 4 TB of zeros."""
    if not harness.runs_commands:
        pytest.skip("this runner runs no commands")
    arguments = "if=/dev/zero of=huge bs=1M count=1 seek=4194304"
    spec = harness.spec(f'cd "$POLYAXON_RUN_OUTPUTS_PATH" && {{ busybox dd {arguments} || dd {arguments}; }}')
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    store, chunks = Store(tmp_path / "sealing"), None
    store.prepare()
    if isinstance(harness.runner, RemoteRunner):
        chunks = harness.runner.outputs(handle)
    else:
        (Path(spec.folder) / "outputs").rename(store.make_job_folder(spec.uuid) / "outputs")
    started_at = time.monotonic()
    store.seal(spec.uuid, "7", 100 << 30, chunks)
    assert time.monotonic() - started_at < 15
    assert "`huge` was not kept" in store.outputs(spec.uuid).notes[0]
    if isinstance(chunks, Generator):
        chunks.close()
    harness.runner.clean(handle)
