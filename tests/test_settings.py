"""The table of settings: what each takes, and that the documentation shows all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyjob.settings import SettingError, environment, read_settings, table

ROOT = Path(__file__).resolve().parent.parent


def test_the_documentation_shows_the_table():
    rows = [
        line for line in (ROOT / "docs/configuration.md").read_text().splitlines() if line.startswith("| `POLYJOB_")
    ]
    assert rows == [document_row(*row) for row in table()]


def document_row(variable, takes, default, help):
    shown = default if "`" in default or default.startswith("the ") else f"`{default}`" if default else ""
    return f"| `{variable}` | {takes} | {shown.replace('|', '&#124;')} | {help} |"


def test_defaults():
    settings = read_settings({"XDG_DATA_HOME": "/ignored here: read from the process"})
    assert (settings.host, settings.port, settings.runner) == ("127.0.0.1", 8000, "process")
    assert settings.stop_grace == 10
    assert settings.slots >= 1
    assert settings.data_dir.is_absolute()


@pytest.mark.parametrize(("home", "expected"), [("/x/data", "/x/data/polyjob"), ("", "/home/ana/.local/share/polyjob")])
def test_the_data_folder_follows_the_desktop_s_rule(home, expected, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", home)
    monkeypatch.setenv("HOME", "/home/ana")
    assert read_settings({}).data_dir == Path(expected)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("log_limit", "512", 512),
        ("log_limit", "4K", 4096),
        ("log_limit", "1.5 MiB", 3 << 19),
        ("log_limit", "2gb", 2 << 30),
        ("log_limit", "1T", 1 << 40),
        ("stop_grace", "0.5", 0.5),
        ("public_projects", "Yes", True),
        ("public_projects", "off", False),
        ("job_env", "A, B C_*", ("A", "B", "C_*")),
        ("port", "0", 0),
        ("data_dir", "/a/b", Path("/a/b")),
    ],
)
def test_a_text_becomes_a_value_and_goes_to_a_child_unchanged(name, text, value):
    settings = read_settings({f"POLYJOB_{name.upper()}": text})
    assert getattr(settings, name) == value
    assert read_settings(environment(settings)) == settings


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "65536"),
        ("PORT", "http"),
        ("SLOTS", "0"),
        ("SLOTS", "1.5"),
        ("FOLLOWERS", "-1"),
        ("STOP_GRACE", "-1"),
        ("STOP_GRACE", "nan"),
        ("LOG_LIMIT", "lots"),
        ("LOG_LIMIT", "-1K"),
        ("PUBLIC_PROJECTS", "maybe"),
        ("PUBLIC_URL", "jobs.example.org"),
        ("PUBLIC_URL", "javascript:alert"),
        ("PUBLIC_URL", "ftp://jobs.example.org"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "https:///jobs"),
        ("PUBLIC_URL", "https://jobs.example.org/polyjob"),
        ("PUBLIC_URL", "https://jobs.example.org:65536"),
        ("PUBLIC_URL", "https://jobs example"),
        ("PUBLIC_URL", "https://user@jobs.example.org"),
        ("PUBLIC_URL", "https://日本.jp"),
    ],
)
def test_a_wrong_text_is_an_error_that_names_the_variable(variable, text):
    with pytest.raises(SettingError, match=rf"^POLYJOB_{variable}='{text}' is not valid: it takes "):
        read_settings({f"POLYJOB_{variable}": text})


@pytest.mark.parametrize("link", ["tcp://10.96.66.10:80", "tcp://[fd00::1]:80", "udp://172.17.0.2:8000"])
def test_port_of_a_service_link_is_not_set(link):
    assert read_settings({"POLYJOB_PORT": link}).port == 8000


@pytest.mark.parametrize("text", ["limits.cpu", "cpu=1", "limits.cpu=1 core", "limits.cpu=-1", "none limits.cpu=1"])
def test_helper_resources_that_no_cluster_reads_are_refused(text):
    with pytest.raises(SettingError, match=r"POLYJOB_KUBE_HELPER_RESOURCES.*limits\.cpu=200m"):
        read_settings({"POLYJOB_KUBE_HELPER_RESOURCES": text})


@pytest.mark.parametrize(
    "address",
    [
        "http://job_server:8000",
        "https://xn--wgv71a119e.jp",
        "http://[fe80::1%25eth0]:8000",
        "HTTPS://Jobs.Example.org//",
    ],
)
def test_public_url_takes_any_host(address):
    assert read_settings({"POLYJOB_PUBLIC_URL": address}).url == address.rstrip("/").lower()


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = read_settings({"POLYJOB_DATA_DIR": "data", "POLYJOB_KUBE_CONFIG": "kube.yml"})
    assert settings.data_dir == tmp_path / "data"
    assert settings.kube_config == str(tmp_path / "kube.yml")
    assert read_settings({}).kube_config == ""


def test_paths_do_not_need_the_folders_before_dots(tmp_path, monkeypatch):
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    settings = read_settings({"POLYJOB_DATA_DIR": "../data", "POLYJOB_KUBE_CONFIG": f"{start}/sub/../../kube.yml"})
    start.rmdir()
    assert settings.data_dir == tmp_path / "data"
    assert settings.kube_config == str(tmp_path / "kube.yml")


def test_dots_behind_a_link_lead_where_the_system_leads(tmp_path):
    (tmp_path / "disk/polyjob").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/polyjob")
    assert read_settings({"POLYJOB_DATA_DIR": f"{tmp_path}/link/../data"}).data_dir == tmp_path / "disk/data"
    assert read_settings({"POLYJOB_DATA_DIR": f"{tmp_path}/link"}).data_dir == tmp_path / "link"


def test_a_home_folder_that_does_not_exist_is_refused():
    with pytest.raises(SettingError, match="POLYJOB_DATA_DIR='~no-such-user/data' is not valid"):
        read_settings({"POLYJOB_DATA_DIR": "~no-such-user/data"})


def test_an_empty_variable_is_not_set_and_an_override_wins():
    assert read_settings({"POLYJOB_PORT": ""}).port == 8000
    assert read_settings({"POLYJOB_PORT": "9"}, port=0).port == 0
    assert read_settings({"POLYJOB_PORT": "9"}, port=None).port == 9


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 1}, "http://127.0.0.1:1"),
        ({"host": "::", "port": 1}, "http://[::1]:1"),
        ({"host": "fe80::1", "port": 1}, "http://[fe80::1]:1"),
        ({"public_url": "https://jobs.example.org"}, "https://jobs.example.org"),
    ],
)
def test_the_url(given, url):
    assert read_settings({}, **given).url == url
