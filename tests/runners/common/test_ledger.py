"""The records of jobs that a remote runner has started."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runners.common.ledger import Ledger


@pytest.mark.parametrize(("age", "is_recent"), [(0, True), (50, True), (70, False), (-50, True), (-3600, False)])
def test_record_is_recent_by_the_distance_of_the_clock(tmp_path: Path, age: float, is_recent: bool) -> None:
    ledger, written = Ledger(tmp_path), time.time() - age
    ledger.write("job", "", ".files")
    os.utime(tmp_path / "job.files", (written, written))
    assert ledger.is_recent("job", ".files", 60.0) is is_recent
