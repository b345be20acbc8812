"""Save servers, and talk to a saved one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from polyjob.cli import login, main
from polyjob.cli.errors import UsageError
from polyjob.cli.profiles import Profile, find_profile, read_profiles, save_profile
from tests.cli.helpers import Responder, command, scripted_server, server_tls
from tests.e2e.conftest import ROOT, Server


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "polyjob" / "config.toml"


def polyjob(config: Path, *arguments: str, data: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who has only the saved servers."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(config.parent), "XDG_CONFIG_HOME": str(config.parent.parent)}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "cwd": ROOT, "check": False}
    return subprocess.run(command(*arguments), input=data, env=environment | more, **options)


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def token(server: Server) -> str:
    return (server.data_dir / "root-token").read_text()


def test_saved_server_is_used_from_then_on(server: Server, config: Path) -> None:
    done = polyjob(config, "login", address(server), "--name", "lab", data=token(server))
    assert (done.returncode, "as root" in done.stderr, "`lab`" in done.stderr) == (0, True, True), done.stderr
    assert config.stat().st_mode & 0o777 == 0o600
    assert polyjob(config, "ls").returncode == 0
    assert polyjob(config, "--server", "lab", "ls", POLYJOB_URL="http://127.0.0.1:1").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--server", "lab"],
        ["--server", "other", "ls", "--server", "lab"],
        ["projects", "ls", "--server", "lab"],
        ["projects", "--server", "lab", "ls"],
        ["run", "--server", "lab", "--clean", "-q", "echo", "--server", "nowhere"],
    ],
)
def test_server_can_be_named_after_the_command(server: Server, config: Path, words: list[str]) -> None:
    save_profile(Profile("lab", address(server), token(server).strip()))
    save_profile(Profile("other", "http://127.0.0.1:1", "t"))
    done = polyjob(config, *words)
    assert done.returncode == 0, done.stderr
    if words[0] == "run":
        assert done.stdout == "--server nowhere\n"


def test_certificate_can_be_named_after_the_command(config: Path) -> None:
    save_profile(Profile("lab", "https://127.0.0.1:1", "t"))
    done = polyjob(config, "ls", "--ca-file", "/missing/ca.pem")
    assert (done.returncode, "/missing/ca.pem" in done.stderr) == (1, True), done.stderr


ANA: dict[str, Responder] = {"GET /healthz": lambda _: {}, "GET /api/v1/users": lambda _: {"username": "ana"}}


def log_in(*words: str) -> Result:
    return CliRunner().invoke(main, ["login", *words], input="token\n")


def test_address_without_a_scheme_is_tried_with_tls(
    config: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "_is_loopback", lambda url: False)
    with scripted_server(ANA, server_tls(certificate)) as url:
        untrusted = log_in(url.removeprefix("https://"))
        assert (untrusted.exit_code, "is not trusted" in untrusted.stderr) == (1, True)
        done = log_in(url.removeprefix("https://"), "--ca-file", str(certificate))
        assert (done.exit_code, f"Using {url}." in done.stderr) == (0, True), done.stderr
        assert [profile.url for profile in read_profiles()[0].values()] == [url]


def test_server_without_tls_is_used_with_a_warning(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "_is_loopback", lambda url: False)
    with scripted_server(ANA) as url:
        done = log_in(url.removeprefix("http://"))
    assert (done.exit_code, f"Using {url}, without encryption" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_address_of_this_machine_is_used_without_tls(host: str) -> None:
    assert login._with_scheme(f"{host}:8000", None) == f"http://{host}:8000"


def test_variables_take_precedence_over_the_default_server(config: Path) -> None:
    save_profile(Profile("lab", "http://saved", "t"))
    assert "127.0.0.1:1 cannot be reached" in polyjob(config, "ls", POLYJOB_URL="http://127.0.0.1:1").stderr
    assert "saved" in polyjob(config, "ls").stderr
    assert "saved" not in polyjob(config, "ls", POLYJOB_DATA_DIR="/nonexistent").stderr


def test_wrong_token_is_not_saved(server: Server, config: Path) -> None:
    assert polyjob(config, "login", address(server), data="wrong").returncode == 1
    assert not config.exists()


@pytest.mark.parametrize("url", ["http://[x", "http://x:port", "http://"])
def test_malformed_address_is_refused(config: Path, url: str) -> None:
    done = polyjob(config, "login", url)
    assert (done.returncode, "is not the address of a server" in done.stderr) == (1, True), done.stderr


def test_password_gives_a_token(server: Server, config: Path) -> None:
    body = {"username": "mia", "password": "a long password"}
    assert server.call("POST", "/api/v1/users/create", body).status == 201
    done = polyjob(config, "login", address(server), "--user", "mia", data="a long password\n")
    assert "as mia" in done.stderr, done.stderr
    assert read_profiles()[1] == f"127.0.0.1:{server.port}"
    assert server.call("DELETE", "/api/v1/users/delete/mia").status == 204


def test_unknown_server_suggests_the_nearest(config: Path) -> None:
    save_profile(Profile("gpu-box", "http://x", "t"))
    done = polyjob(config, "--server", "gpubox", "run", "true")
    assert (done.returncode, "Did you mean `gpu-box`?" in done.stderr) == (125, True)


def test_saved_texts_are_read_back() -> None:
    first, second = Profile("a.b", "https://x", "t"), Profile('ü"', "http://y", "\\", "/ca \x7f.pem")
    save_profile(first)
    save_profile(second)
    assert read_profiles() == ({"a.b": first, 'ü"': second}, 'ü"')


@pytest.mark.parametrize("text", ["default", "servers = 1", "[servers.x]\nurl = 'a'", "[servers.x]\nurll = 'a'"])
def test_invalid_file_is_named(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml is not valid"):
        find_profile(None)
