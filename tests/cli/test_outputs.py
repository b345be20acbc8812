"""`polyjob outputs`."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from polyjob.cli import outputs
from polyjob.cli.client import Client
from tests.cli.helpers import JOB_PATH, JOB_URL, finished_job, json_of, polyjob, scripted_server
from tests.e2e.conftest import Server


@pytest.fixture(scope="module")
def number(server: Server) -> str:
    return finished_job(server, "cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir d; printf ab > d/f; printf x > g")


def names_in(tarball: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tarball)) as opened:
        return opened.getnames()


def test_files_are_listed(server: Server, number: str) -> None:
    assert json_of(server, "outputs", number, "--json") == [{"path": "d/f", "size": 2}, {"path": "g", "size": 1}]
    assert b"2 B  d/f" in polyjob(server, "outputs", number, "--tree", "d").stdout


def test_file_is_printed(server: Server, number: str) -> None:
    assert polyjob(server, "outputs", number, "d/f").stdout == b"ab"


def test_all_outputs_are_saved_as_a_tarball(server: Server, number: str, tmp_path: Path) -> None:
    target = tmp_path / "all.tar.gz"
    assert polyjob(server, "outputs", number, "-o", str(target)).returncode == 0
    assert f"{number}/d/f" in names_in(target.read_bytes())
    assert f"{number}/g" in names_in(polyjob(server, "outputs", number, "-o", "-").stdout)


def test_folder_is_saved_as_a_tarball(server: Server, number: str, tmp_path: Path) -> None:
    target = tmp_path / "d.tar.gz"
    assert polyjob(server, "outputs", number, "d", "-o", str(target)).returncode == 0
    assert names_in(target.read_bytes()) == [f"{number}/d", f"{number}/d/f"]


@pytest.mark.parametrize("folder", ["", "new/"])
def test_folder_as_target_gets_a_file_of_that_name(server: Server, number: str, folder: str, tmp_path: Path) -> None:
    target = f"{tmp_path}/{folder}"
    assert polyjob(server, "outputs", number, "-o", target).returncode == 0
    assert polyjob(server, "outputs", number, "d/f", "-o", target).returncode == 0
    assert (tmp_path / folder / "f").read_bytes() == b"ab"
    assert tarfile.is_tarfile(tmp_path / folder / f"quick-start-{number}.tar.gz")


def test_missing_file_saves_nothing(server: Server, number: str, tmp_path: Path) -> None:
    assert polyjob(server, "outputs", number, "none", "-o", f"{tmp_path}/").returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_job_without_outputs_saves_nothing(server: Server, tmp_path: Path) -> None:
    number = finished_job(server, "true")
    done = polyjob(server, "outputs", number, "-o", str(tmp_path / "all.tar.gz"))
    assert (done.returncode, b"has no outputs" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [[], ["f"]])
def test_existing_pipe_is_written_to(server: Server, done_job: str, tmp_path: Path, path: list[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    done = polyjob(server, "outputs", done_job, *path, "-o", str(pipe))
    content = reader.communicate(timeout=60)[0]
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [pipe])
    assert pipe.is_fifo()
    assert content == b"x\n" if path else tarfile.is_tarfile(io.BytesIO(content))


def test_slash_stands_for_all_outputs(server: Server, done_job: str, tmp_path: Path) -> None:
    assert polyjob(server, "outputs", done_job, "/", "-o", f"{tmp_path}/").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"quick-start-{done_job}.tar.gz"]


def test_folder_of_large_outputs_is_complete(server: Server, tmp_path: Path) -> None:
    script = "mkdir d; for i in $(seq 30); do head -c 100000 /dev/urandom > d/$i; done; cp -r d e"
    number = finished_job(server, f"cd $POLYAXON_RUN_OUTPUTS_PATH; {script}")
    assert polyjob(server, "outputs", number, "e", "-o", str(tmp_path / "e.tar.gz")).returncode == 0
    with tarfile.open(tmp_path / "e.tar.gz") as tarball:
        assert sum(member.size for member in tarball) == 3_000_000


class TestFileNames:
    def test_output_of_any_name_is_printed(self, server: Server) -> None:
        names = ["日本語.txt", "caf\udce9.txt", "line\nfeed"]
        script = "cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir $(printf 'dir\\377'); printf in > $(printf 'dir\\377')/f; "
        script += "printf 1 > 日本語.txt; printf 2 > $(printf 'caf\\351.txt'); printf 3 > \"$(printf 'line\\nfeed')\""
        number = finished_job(server, script)
        listed = [entry["path"] for entry in json_of(server, "outputs", number, "--json")]
        assert listed == ["caf%E9.txt", "dir%FF/f", "line%0Afeed", "日本語.txt"]
        requested = [*names, *listed, "dir\udcff/f"]
        contents = [polyjob(server, "outputs", number, name).stdout for name in requested]
        assert contents == [b"1", b"2", b"3", b"2", b"in", b"3", b"1", b"in"]
        for folder in ("dir\udcff", "dir%FF"):
            done = polyjob(server, "outputs", number, folder, "-o", "-")
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tarball:
                assert [member.name for member in tarball if member.isfile()] == [f"{number}/dir\udcff/f"]

    def test_names_that_look_alike_are_distinguished(self, server: Server) -> None:
        script = "cd $POLYAXON_RUN_OUTPUTS_PATH; for name in $(printf 'caf\\351') caf%E9; do "
        script += "printf %s $name > $name; mkdir in-$name; printf %s $name > in-$name/f; done"
        number = finished_job(server, script)
        listed = [entry["path"] for entry in json_of(server, "outputs", number, "--json")]
        assert listed == ["caf%25E9", "caf%E9", "in-caf%25E9/f", "in-caf%E9/f"]
        contents = [polyjob(server, "outputs", number, name).stdout for name in listed]
        assert contents == [b"caf%E9", b"caf\xe9"] * 2
        for folder, content in (("in-caf%E9", b"caf\xe9"), ("in-caf%25E9", b"caf%E9")):
            done = polyjob(server, "outputs", number, folder, "-o", "-")
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tarball:
                files = [tarball.extractfile(member) for member in tarball if member.isfile()]
                assert [file.read() for file in files if file] == [content]

    def test_name_cannot_control_the_terminal(self, server: Server) -> None:
        script = r"""cd $POLYAXON_RUN_OUTPUTS_PATH; touch "$(printf 'a\n1.0 GB forged\033[31m')" """
        done = polyjob(server, "outputs", finished_job(server, script), "--tree")
        assert b"\x1b" not in done.stdout
        assert done.stdout.count(b"\n") == 1


def test_folders_are_requested_when_they_are_due() -> None:
    tree = {
        "": {"files": [["a.txt", 1], ["b", 2]], "dirs": ["a", "c"]},
        "a": {"files": [["x", 3]], "dirs": ["d"]},
        "a/d": {"files": [["y", 4], ["y", 5]], "dirs": []},
    }
    requested: list[str] = []

    def list_folder(handler: BaseHTTPRequestHandler) -> Any:
        requested.append(parse_qs(urlsplit(handler.path).query).get("path", [""])[0])
        return tree[requested[-1]]

    with scripted_server({f"GET {JOB_URL}/outputs/tree": list_folder}) as url:
        files = outputs._files_below(Client(url, "k", is_local=True), JOB_PATH, "")
        first = [next(files) for _ in range(5)]
    assert first == [("a.txt", 1), ("a/d/y", 4), ("a/d/y", 5), ("a/x", 3), ("b", 2)]
    assert requested == ["", "a", "a/d"]
