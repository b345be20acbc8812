"""Volumes, as users of the command line see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.helpers import json_of, polyjob
from tests.e2e.conftest import Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="module")
def offering(folder: Path) -> Iterator[Server]:
    """A server with the volumes `data` and `models`, and `gone`, whose folder is missing."""
    for name in ("data", "models"):
        (folder / name).mkdir()
    (folder / "data/given").write_text("given\n")
    text = f"data={folder}/data:ro models={folder}/models:rw gone={folder}/gone"
    with Server(folder / "server", volumes=text, workers="1") as started:
        yield started


def test_volumes_are_listed(offering: Server, folder: Path) -> None:
    lines = polyjob(offering, "volumes").stdout.decode().splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "ACCESS", "PATHS"],
        ["data", "read-only", f"{folder}/data"],
        ["models", "read-write", f"{folder}/models"],
        ["gone", "read-only", f"{folder}/gone"],
    ]
    assert json_of(offering, "volumes", "--json")[1]["is_read_only"] is False


def test_job_uses_the_volumes_that_it_names(offering: Server, folder: Path) -> None:
    words = ["python3", "-c", PROGRAM]
    done = polyjob(offering, "run", "--volume", "data", "--volume", "models", *words)
    assert (done.returncode, done.stdout, (folder / "models/made").read_text()) == (0, b"given\n", "made")
    job = json_of(offering, "ls", "--json", "-n", "1")[0]["id"]
    assert b"volumes    data, models\n" in polyjob(offering, "show", str(job)).stdout
    again = polyjob(offering, "restart", str(job))
    assert (again.returncode, again.stdout) == (0, b"given\n")


PROGRAM = """
import json, os, pathlib
paths = json.loads(os.environ["POLYAXON_DATA_PATHS"])
print(pathlib.Path(paths["data"], "given").read_text(), end="")
pathlib.Path(paths["models"], "made").write_text("made")
"""


def test_unknown_volume_is_refused_with_the_option(offering: Server) -> None:
    refused = polyjob(offering, "run", "--volume", "dat", "true")
    assert (refused.returncode, refused.stdout) == (125, b"")
    assert b"--volume: There is no volume `dat` for the process runner; it has: data, models, gone." in refused.stderr


def test_missing_folder_fails_the_job_with_the_reason(offering: Server, folder: Path) -> None:
    failed = polyjob(offering, "run", "--volume", "gone", "true")
    assert failed.returncode == 125
    assert f"The volume `gone` cannot be used: {folder}/gone: No such file or directory".encode() in failed.stderr
    assert not (folder / "gone").exists()


def test_server_without_volumes_says_so(server: Server) -> None:
    assert b"There are no volumes." in polyjob(server, "volumes").stderr
