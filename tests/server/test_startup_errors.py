"""A start that fails prints one line and exits with 1."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3

import pytest
from click.testing import CliRunner
from peewee import OperationalError

from polyjob.cli import main
from polyjob.engine_link import EngineLock
from polyjob.server import greeting
from polyjob.server.preparation import CannotServe, prepare
from polyjob.settings import SettingError, read_settings
from tests.runners.distributions import write_distribution
from tests.server.helpers import error_line


def test_invalid_setting(tmp_path):
    line = error_line("serve", "--data-dir", str(tmp_path), POLYJOB_SLOTS="many")
    expected = "expected a whole number, 1 or more, or words such as `process=4 docker=2`"
    assert line == f"polyjob: POLYJOB_SLOTS='many' is not valid: {expected}"


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize(
    ("variable", "text", "names"),
    [("RUNNER", "abacus", "process, docker, kubernetes"), ("LOG_LEVEL", "loud", "debug, info, warning, error")],
)
def test_unknown_name_in_a_setting(verb, variable, text, names, tmp_path):
    line = error_line(verb, "--data-dir", str(tmp_path / "data"), **{f"POLYJOB_{variable}": text, "POLYJOB_PORT": "0"})
    assert line == f"polyjob: POLYJOB_{variable}={text!r} is not valid: expected one of: {names}"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (
            {"RUNNERS": "process abacus"},
            "POLYJOB_RUNNERS='process abacus' is not valid: there is no runner 'abacus'; expected some of: "
            "process, docker, kubernetes",
        ),
        (
            {"RUNNERS": "process docker", "RUNNER": "docker"},
            "POLYJOB_RUNNER='docker' and POLYJOB_RUNNERS='process docker' differ: set only one of them",
        ),
        (
            {"SLOTS": "abacus=2"},
            "POLYJOB_SLOTS='abacus=2' is not valid: there is no runner 'abacus'; expected some of: "
            "process, docker, kubernetes",
        ),
    ],
)
def test_invalid_list_of_runners(variables, text, tmp_path):
    environment = {f"POLYJOB_{name}": value for name, value in variables.items()}
    assert error_line("serve", "--data-dir", str(tmp_path / "data"), **environment) == f"polyjob: {text}"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [
        ("far", "missing:Far", "the runner `far` of acme 1.0 cannot be imported: ModuleNotFoundError: No module named"),
        ("far", "json:dumps", "the runner `far` of acme 1.0 is not a runner: `json:dumps` is not a subclass of"),
        ("docker", "json:dumps", "acme 1.0 names its runner `docker`, which is a runner of polyjob"),
    ],
)
def test_unusable_runner_of_another_package(name, target, text, tmp_path):
    write_distribution(tmp_path, "acme", {name: target}, {})
    environment = {"POLYJOB_RUNNERS": f"process {name}", "PYTHONPATH": str(tmp_path)}
    line = error_line("serve", "--data-dir", str(tmp_path / "data"), **environment)
    assert line.startswith(f"polyjob: {text}")


def test_taken_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = error_line("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert line == f"polyjob: cannot listen on 127.0.0.1:{port}: the port is taken; choose another one with --port"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_impossible_data_dir(verb, tmp_path):
    (tmp_path / "file").write_text("")
    port = ["--port", "0"] if verb == "serve" else []
    line = error_line(verb, *port, "--data-dir", str(tmp_path / "file" / "data"))
    assert line == f"polyjob: the data folder '{tmp_path}/file/data' cannot be used: Not a directory"


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_too_long_path_of_the_data_dir(verb, tmp_path):
    folder = tmp_path.joinpath(*["long" * 50] * 4)
    port = ["--port", "0"] if verb == "serve" else []
    line = error_line(verb, *port, "--data-dir", str(folder))
    size = len(str(folder))
    assert line.endswith(f"long' cannot be used: its path has {size} bytes, and SQLite takes 493 at most")


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_damaged_database(verb, tmp_path):
    (tmp_path / "polyjob.db").write_bytes(b"no database at all\n" * 100)
    port = ["--port", "0"] if verb == "serve" else []
    line = error_line(verb, *port, "--data-dir", str(tmp_path))
    assert line == f"polyjob: the data folder '{tmp_path}' cannot be used: file is not a database"


def test_full_disk_during_the_greeting(settings, monkeypatch):
    def fill_up(settings):
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(greeting, "greeting", fill_up)
    with pytest.raises(CannotServe, match=r"cannot be used: database or disk is full$"):
        prepare(settings)


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_database_of_a_newer_polyjob(verb, data_dir):
    with contextlib.closing(sqlite3.connect(data_dir / "polyjob.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    port = ["--port", "0"] if verb == "serve" else []
    assert "Install the newer one again" in error_line(verb, *port, "--data-dir", str(data_dir))


@pytest.mark.parametrize("verb", ["serve", "engine"])
def test_another_engine(verb, data_dir):
    lock = EngineLock(data_dir)
    lock.acquire()
    try:
        port = ["--port", "0"] if verb == "serve" else []
        line = error_line(verb, *port, "--data-dir", str(data_dir))
    finally:
        lock.release()
    assert line == f"polyjob: an engine already works on {data_dir}: process {os.getpid()}"


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize("name", ["line\nfeed", "tab\t", "escape\x1b[31m", "delete\x7f"])
def test_control_character_in_the_data_dir(verb, name, tmp_path):
    port = ["--port", "0"] if verb == "serve" else []
    line = error_line(verb, *port, "--data-dir", str(tmp_path / name))
    assert line.endswith("cannot be used: its path has a control character")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("verb", ["serve", "engine"])
@pytest.mark.parametrize("name", ["a:b", ":", "a:b/c"])
def test_colon_in_the_data_dir(verb, name, tmp_path):
    port = ["--port", "0"] if verb == "serve" else []
    line = error_line(verb, *port, "--data-dir", str(tmp_path / name))
    assert line.endswith(": its path has a `:`, which would split the PATH of builds; choose a folder without one")
    assert list(tmp_path.iterdir()) == []


def test_relative_data_dir_in_a_removed_folder(tmp_path, monkeypatch):
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "start").rmdir()
    with pytest.raises(SettingError, match="POLYJOB_DATA_DIR='data' is not valid"):
        read_settings({"POLYJOB_DATA_DIR": "data"})


@pytest.mark.parametrize("folder", ["data", "../data", "~no-such-user/data"])
@pytest.mark.parametrize("verb", [["serve", "--port", "0"], ["engine"], ["gc"], ["abandon", "1"]])
def test_data_dir_without_an_absolute_path(verb, folder, tmp_path, monkeypatch):
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "start").rmdir()
    result = CliRunner().invoke(main, [*verb, "--data-dir", folder])
    assert result.exit_code == 1
    assert result.output == f"polyjob: --data-dir: {folder!r} cannot be made absolute; give an absolute path\n"
