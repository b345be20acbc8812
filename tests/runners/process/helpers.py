"""A tree of processes that ignores signals, and the log of a job."""

from __future__ import annotations

from pathlib import Path

from tests.runners.harness import (
    ProcessHarness,
    processes_of,
    wait_for,
)

TREE = "trap '' TERM; (setsid sleep 1000 &); (setsid sh -c 'trap \"\" TERM; sleep 1000; true' &); sleep 1000"


TREE_SIZE = 4


def start_tree(process: ProcessHarness, cmd: str = TREE, grace: float = 0.3) -> tuple[str, str]:
    """Return (uuid, handle) of a job with many processes, after all have started."""
    spec = process.spec(cmd, grace=grace)
    handle = process.runner.start(spec, None)
    wait_for(lambda: len(processes_of(spec.uuid)) >= TREE_SIZE)
    return spec.uuid, handle


def log_of(spec: object) -> str:
    return (Path(spec.folder) / "log").read_text()  # type: ignore[attr-defined]
