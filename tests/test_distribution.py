"""Distribution of the tests over the workers of pytest-xdist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distribution import DIVIDED, SLOW, UNDIVIDED, rank_of, unit_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", sorted({*SLOW, *UNDIVIDED, *DIVIDED}))
def test_listed_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/db/test_models.py::TestJobs::test_a[x]", "tests/db/test_models.py"),
        ("tests/runners/test_contract.py::test_a[docker]", "tests/runners/test_contract.py[docker]"),
        ("tests/runners/test_contract.py::test_a[docker-b]", "tests/runners/test_contract.py[docker]"),
        ("tests/cli/test_run.py::test_a", "tests/cli/"),
        ("tests/e2e/test_image.py::test_a[docker]", "tests/e2e/test_image.py"),
        ("tests/crash/test_crash_points.py::test_a[fake-b]", "tests/crash/test_crash_points.py::test_a[fake-b]"),
    ],
)
def test_unit_is_what_shares_servers(nodeid: str, unit: str) -> None:
    assert unit_of(nodeid) == unit


def test_slow_tests_come_first() -> None:
    nodeids = ["tests/api/test_jobs.py::a", "tests/runners/test_contract.py::a", "tests/browser/test_log.py::a"]
    assert sorted(nodeids, key=rank_of) == nodeids[::-1]
