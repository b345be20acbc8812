"""`polyjob slots` and `polyjob gpus`."""

from __future__ import annotations

import pytest

from polyjob.cli.capacity import _parse_indices, _parse_slots
from polyjob.cli.errors import UsageError
from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server

RUNNERS = ["process", "docker"]


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        (("4",), {"process": 4, "docker": 4}),
        (("process=0",), {"process": 0}),
        (("process=2", "docker=default"), {"process": 2, "docker": None}),
        (("default",), {"process": None, "docker": None}),
    ],
)
def test_slots_are_parsed(changes: tuple[str, ...], slots: dict[str, int | None]) -> None:
    assert _parse_slots(changes, RUNNERS) == slots


@pytest.mark.parametrize("text", ["-1", "=4", "process=", "process", "process=x", ""])
def test_invalid_slots_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        _parse_slots((text,), RUNNERS)


@pytest.mark.parametrize(
    ("text", "indices"), [("0,1", [0, 1]), ("3", [3]), ("0 2", [0, 2]), ("none", []), ("default", None)]
)
def test_gpus_are_parsed(text: str, indices: list[int] | None) -> None:
    assert _parse_indices(text) == indices


@pytest.mark.parametrize("text", ["", "a", "0;1", "-1", ","])
def test_invalid_gpus_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        _parse_indices(text)


def test_slots_and_gpus_change_on_a_running_server(server: Server) -> None:
    try:
        assert polyjob(server, "slots", "process=5").stdout.split()[-4:] == [b"process", b"5", b"0", b"3"]
        assert json_of(server, "slots", "--json")["process"]["is_default"] is False
        assert json_of(server, "gpus", "0,1", "--json")["value"] == [0, 1]
        assert b"Warning: GPUs 0, 1 are not in the server's default." in polyjob(server, "gpus").stderr
        assert polyjob(server, "gpus", "none").stderr == b""
        refused = polyjob(server, "slots", "docker=1")
        assert (refused.returncode, b"slots.docker: This server does not use" in refused.stderr) == (1, True)
    finally:
        polyjob(server, "gpus", "default")
        assert json_of(server, "slots", "default", "--json")["process"]["value"] == 3
