"""Settings of the machine that expose files of root or the server to jobs."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runners.process import isolation
from runners.process.isolation import gaps, gaps_between_jobs


@pytest.fixture(autouse=True)
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that leaves nothing open."""
    monkeypatch.setattr(isolation, "SYSCTLS", tmp_path)
    for name in ("fs/protected_hardlinks", "kernel/yama/ptrace_scope"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    return tmp_path


def test_ordinary_machine_has_no_gaps() -> None:
    assert gaps("nobody") == gaps("nosuchaccount") == gaps_between_jobs() == []


def test_unprotected_hard_links_are_a_gap(sysctls: Path) -> None:
    (sysctls / "fs/protected_hardlinks").write_text("0\n")
    (gap,) = gaps("nobody")
    assert "fs.protected_hardlinks" in gap


def test_root_is_a_gap() -> None:
    (gap,) = gaps("root")
    assert "is root" in gap


@pytest.mark.parametrize("group", ["docker", "disk", "shadow"])
def test_groups_with_the_rights_of_root_are_a_gap(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {1: "users", 2: group}
    monkeypatch.setattr(os, "getgrouplist", lambda name, number: [1, 2])
    monkeypatch.setattr(isolation.grp, "getgrgid", lambda number: type("Group", (), {"gr_name": names[number]}))
    (gap,) = gaps(pwd.getpwnam("nobody").pw_name)
    assert group in gap


@pytest.mark.parametrize("value", ["0\n", None])
def test_open_memory_is_a_gap_between_jobs(sysctls: Path, value: str | None) -> None:
    scope = sysctls / "kernel/yama/ptrace_scope"
    scope.write_text(value) if value else scope.unlink()
    assert len(gaps_between_jobs()) == 1
