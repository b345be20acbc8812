"""Records of what remote runners have started: on disk before anything depends on them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runners.common.ledger import Records


def test_the_record_of_a_start_is_synced_before_it_has_its_name_and_then_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: Path = tmp_path / "job"
    synced: list[tuple[str, bool]] = []

    def sync(file: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{file}"), record.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    Records(tmp_path).write("job", "handle")
    assert synced == [(f"{record}.part", False), (str(tmp_path), True)]
    assert record.read_text() == "handle"


@pytest.mark.parametrize(("age", "is_recent"), [(0, True), (50, True), (70, False), (-50, True), (-3600, False)])
def test_recent_record_is_told_from_an_old_one(tmp_path: Path, age: float, is_recent: bool) -> None:
    records, written = Records(tmp_path), time.time() - age
    records.write("job", "", ".files")
    os.utime(tmp_path / "job.files", (written, written))
    assert records.is_recent("job", ".files", 60.0) is is_recent
