"""Records of what remote runners have started: on disk before anything depends on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runners.records import Records


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
