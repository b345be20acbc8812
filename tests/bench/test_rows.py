"""The table of the benchmarks."""

from __future__ import annotations

import json

from bench.rows import Row, Skipped, as_markdown, write_json

VALUES = {"polyjob": 150.0, "floor": 600.0, "baseline": 75.0}


def test_table_shows_ratios_to_baseline_and_floor():
    table = as_markdown([Row.of("jobs", "/s", VALUES, "spawn")], [], {})
    assert table.splitlines()[-1] == "| jobs | 150/s | 75.0/s | 2.00 | spawn: 600/s | 0.250 |  |"


def test_missing_peer_is_shown_as_not_installed():
    table = as_markdown([Row.of("jobs", "/s", {"polyjob": 1.5})], [], {"task-spooler": False})
    assert table.splitlines()[-1] == "| jobs | 1.50/s | not installed |  |  |  |"


def test_table_gives_the_reason_of_a_skipped_group():
    assert "| pods | not measured | | | | needs root |" in as_markdown(
        [], [Skipped("pods", "needs root")], {"tsp": True}
    )


def test_json_has_every_figure_and_the_ratio(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [Row.of("jobs", "/s", VALUES, "spawn")], [Skipped("pods", "needs root")], {"machine": "small"})
    assert json.loads(path.read_text()) == {
        "machine": "small",
        "rows": [
            {
                "name": "jobs",
                "value": 150.0,
                "unit": "/s",
                "floor": {"name": "spawn", "value": 600.0},
                "others": {"baseline": 75.0},
                "note": "",
                "ratio": 0.25,
            }
        ],
        "skipped": [{"group": "pods", "reason": "needs root"}],
    }
