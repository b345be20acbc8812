"""How often the engine and the web server were restarted."""

from __future__ import annotations

from polyjob.starts import KEPT_STARTS, record_end, record_start, restarts
from tests.engine.conftest import HandClock


def test_restarts_are_starts_that_no_orderly_end_preceded(tmp_path):
    clock = HandClock()
    counts = []
    for _ in range(3):
        record_start(tmp_path, "engine", clock)
        counts.append(restarts(tmp_path, "engine", clock))
    record_end(tmp_path, "engine")
    record_start(tmp_path, "engine", clock)
    assert [*counts, restarts(tmp_path, "engine", clock)] == [0, 1, 2, 0]
    assert restarts(tmp_path, "web", clock) == 0


def test_restarts_are_forgotten_after_an_hour_or_a_boot(tmp_path):
    clock = HandClock()
    for _ in range(2):
        record_start(tmp_path, "engine", clock)
    clock.move(3601)
    assert restarts(tmp_path, "engine", clock) == 0
    record_start(tmp_path, "engine", clock)
    clock.boot_id = "boot-2"
    assert restarts(tmp_path, "engine", clock) == 0


def test_the_file_of_starts_does_not_grow(tmp_path):
    clock = HandClock()
    for _ in range(3 * KEPT_STARTS):
        record_start(tmp_path, "engine", clock)
    assert len((tmp_path / "engine.starts").read_text().splitlines()) == KEPT_STARTS


def test_a_damaged_file_of_starts_counts_as_none(tmp_path):
    (tmp_path / "engine.starts").write_bytes(b"\xff\x00 nonsense")
    assert restarts(tmp_path, "engine", HandClock()) == 0
    record_start(tmp_path, "engine", HandClock())
