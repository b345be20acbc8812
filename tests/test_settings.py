"""The table of settings: how each is read, and that the documentation shows all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polyjob.setting_values import MAX_VOLUME_NAME_LENGTH, MAX_VOLUMES
from polyjob.settings import SettingError, environment, read_settings, settings_table
from runners.volumes import Volume

ROOT = Path(__file__).resolve().parent.parent


def test_documentation_shows_every_setting():
    page = (ROOT / "docs/configuration.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `POLYJOB_")]
    assert rows == [f"| `{info.variable}` | {info.kind} | {info.default} | {info.help} |" for info in settings_table()]


@pytest.mark.parametrize("info", settings_table(), ids=lambda info: info.variable)
def test_default_is_a_literal_or_plain_words(info):
    literal = re.fullmatch(r"`([^`]+)`", info.default)
    if literal:
        assert read_settings({info.variable: literal[1]}) == read_settings({})
    else:
        assert re.match(r"(?:the|an?|all|none|host) ?|`[$~]", info.default)


def test_defaults():
    settings = read_settings({"XDG_DATA_HOME": "/ignored: read from the process"})
    assert (settings.host, settings.port, settings.runner) == ("127.0.0.1", 8000, "process")
    assert settings.stop_grace == 10
    assert settings.slots >= 1
    assert settings.data_dir.is_absolute()
    assert settings.kubernetes.patience == 600
    assert "buildctl" in settings.kubernetes.builder_command


@pytest.mark.parametrize(("home", "expected"), [("/x/data", "/x/data/polyjob"), ("", "/home/ana/.local/share/polyjob")])
def test_default_data_folder_follows_xdg(home, expected, monkeypatch):
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
        ("volumes", "none", ()),
        (
            "volumes",
            "data=/srv/a:b/  models=/srv/models:rw c=claim:data-1:ro",
            (
                Volume("data", "/srv/a:b"),
                Volume("models", "/srv/models", is_read_only=False),
                Volume("c", "data-1", is_claim=True),
            ),
        ),
    ],
)
def test_child_process_gets_the_same_settings(name, text, value):
    settings = read_settings({f"POLYJOB_{name.upper()}": text})
    assert getattr(settings, name) == value
    assert read_settings(environment(settings)) == settings


@pytest.mark.parametrize(
    ("variable", "option", "text", "value"),
    [
        ("KUBE_CONFIG", "kubeconfig", "/etc/kube.yml", "/etc/kube.yml"),
        ("KUBE_PATIENCE", "patience", "2.5", 2.5),
        ("KUBE_HELPER_RESOURCES", "helper_resources", "limits.cpu=1  requests.cpu=1m", "limits.cpu=1 requests.cpu=1m"),
        ("REGISTRY", "registry", "registry.example.org/team", "registry.example.org/team"),
        ("BUILDER_COMMAND", "builder_command", "make image", "make image"),
    ],
)
def test_kubernetes_settings_become_options_of_its_runner(variable, option, text, value):
    settings = read_settings({f"POLYJOB_{variable}": text})
    assert getattr(settings.kubernetes, option) == value
    assert read_settings(environment(settings)) == settings
    assert type(settings.kubernetes).read(settings.kubernetes.to_strings()) == settings.kubernetes


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
        ("PUBLIC_URL", "https://jobs.example.org/a b"),
        ("PUBLIC_URL", "https://jobs.example.org/a//b"),
        ("PUBLIC_URL", "https://jobs.example.org/a/../b"),
        ("PUBLIC_URL", "https://jobs.example.org/a;b"),
        ("PUBLIC_URL", "https://jobs.example.org:65536"),
        ("PUBLIC_URL", "https://jobs example"),
        ("PUBLIC_URL", "https://user@jobs.example.org"),
        ("PUBLIC_URL", "https://日本.jp"),
        ("KUBE_PATIENCE", "-1"),
    ],
)
def test_invalid_value_is_refused_with_its_variable(variable, text):
    with pytest.raises(SettingError, match=rf"^POLYJOB_{variable}='{text}' is not valid: expected "):
        read_settings({f"POLYJOB_{variable}": text})


@pytest.mark.parametrize("link", ["tcp://10.96.66.10:80", "tcp://[fd00::1]:80", "udp://172.17.0.2:8000"])
def test_service_link_is_not_a_port(link):
    assert read_settings({"POLYJOB_PORT": link}).port == 8000


@pytest.mark.parametrize("text", ["limits.cpu", "cpu=1", "limits.cpu=1 core", "limits.cpu=-1", "none limits.cpu=1"])
def test_invalid_helper_resources_are_refused(text):
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


def test_path_of_public_url_keeps_its_case():
    settings = read_settings({"POLYJOB_PUBLIC_URL": "https://Example.org:8443/Jobs/of.ana/"})
    assert settings.url == "https://example.org:8443/Jobs/of.ana"
    assert (settings.public_origin, settings.public_path) == ("https://example.org:8443", "/Jobs/of.ana")
    assert read_settings({"POLYJOB_PUBLIC_URL": "https://example.org/"}).public_path == ""


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = read_settings({"POLYJOB_DATA_DIR": "data", "POLYJOB_KUBE_CONFIG": "kube.yml"})
    assert settings.data_dir == tmp_path / "data"
    assert settings.kubernetes.kubeconfig == str(tmp_path / "kube.yml")
    assert read_settings({}).kubernetes.kubeconfig == ""


def test_missing_folders_before_dots_are_not_needed(tmp_path, monkeypatch):
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    settings = read_settings({"POLYJOB_DATA_DIR": "../data", "POLYJOB_KUBE_CONFIG": f"{start}/sub/../../kube.yml"})
    start.rmdir()
    assert settings.data_dir == tmp_path / "data"
    assert settings.kubernetes.kubeconfig == str(tmp_path / "kube.yml")


def test_dots_after_a_link_are_resolved_by_the_link(tmp_path):
    (tmp_path / "disk/polyjob").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/polyjob")
    assert read_settings({"POLYJOB_DATA_DIR": f"{tmp_path}/link/../data"}).data_dir == tmp_path / "disk/data"
    assert read_settings({"POLYJOB_DATA_DIR": f"{tmp_path}/link"}).data_dir == tmp_path / "link"


def test_missing_home_folder_is_refused():
    with pytest.raises(SettingError, match="POLYJOB_DATA_DIR='~no-such-user/data' is not valid"):
        read_settings({"POLYJOB_DATA_DIR": "~no-such-user/data"})


def test_empty_variable_counts_as_not_set():
    assert read_settings({"POLYJOB_PORT": ""}).port == 8000


def test_override_wins_over_the_environment():
    assert read_settings({"POLYJOB_PORT": "9"}, port=0).port == 0
    assert read_settings({"POLYJOB_PORT": "9"}, port=None).port == 9


@pytest.mark.parametrize(
    ("overrides", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 1}, "http://127.0.0.1:1"),
        ({"host": "::", "port": 1}, "http://[::1]:1"),
        ({"host": "fe80::1", "port": 1}, "http://[fe80::1]:1"),
        ({"public_url": "https://jobs.example.org"}, "https://jobs.example.org"),
    ],
)
def test_url_is_public_url_or_host_and_port(overrides, url):
    assert read_settings({}, **overrides).url == url


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ("process",)),
        ({"POLYJOB_RUNNER": "docker"}, ("docker",)),
        ({"POLYJOB_RUNNERS": "docker"}, ("docker",)),
        ({"POLYJOB_RUNNERS": "process, docker process"}, ("process", "docker")),
        ({"POLYJOB_RUNNERS": "docker", "POLYJOB_RUNNER": "docker"}, ("docker",)),
        ({"POLYJOB_RUNNERS": "", "POLYJOB_RUNNER": ""}, ("process",)),
    ],
)
def test_first_listed_runner_is_the_default(environ, names):
    settings = read_settings(environ)
    assert (settings.runner_names, settings.runner) == (names, names[0])
    assert read_settings(environment(settings)) == settings


def test_runner_settings_that_differ_are_refused():
    with pytest.raises(SettingError) as failure:
        read_settings({"POLYJOB_RUNNERS": "process docker", "POLYJOB_RUNNER": "process"})
    assert str(failure.value) == (
        "POLYJOB_RUNNER='process' and POLYJOB_RUNNERS='process docker' differ: set only one of them"
    )


def test_runner_of_the_command_line_wins():
    settings = read_settings({"POLYJOB_RUNNERS": "process docker"}, runner="kubernetes")
    assert (settings.runner, settings.runner_names) == ("kubernetes", ("kubernetes",))


def test_slots_are_set_for_each_runner():
    settings = read_settings({"POLYJOB_SLOTS": "process=4, docker=2"})
    assert [settings.slots_of(name) for name in ("process", "docker")] == [4, 2]
    assert settings.slots_of("kubernetes") == read_settings({}).slots_of("process")
    assert read_settings(environment(settings)) == settings
    assert [read_settings({"POLYJOB_SLOTS": "3"}).slots_of(name) for name in ("process", "docker")] == [3, 3]


@pytest.mark.parametrize("text", ["process=0", "process=", "=2", "process=2 3", "process=2 process=3", "0", "x"])
def test_invalid_slots_are_refused(text):
    with pytest.raises(SettingError, match=r"POLYJOB_SLOTS=.* is not valid: expected a whole number"):
        read_settings({"POLYJOB_SLOTS": text})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/srv/data", "`/srv/data` has no `=`"),
        ("data=srv", "`srv` is not an absolute path"),
        ("data=", "`` is not an absolute path"),
        ("data=/srv/../etc", "is not an absolute path without `..`"),
        ("data=/srv\x07", "is not an absolute path"),
        ("data=claim:Data", "`Data` is not a valid name of a persistent volume claim"),
        ("data=claim:", "`` is not a valid name of a persistent volume claim"),
        ("=/srv", "`` is not a valid name of a volume"),
        ("../x=/srv", "`../x` is not a valid name of a volume"),
        ("-x=/srv", "`-x` is not a valid name of a volume"),
        (f"{'x' * (MAX_VOLUME_NAME_LENGTH + 1)}=/srv", "is not a valid name of a volume"),
        ("data=/a data=/b", "the name `data` is given to more than one volume"),
        (" ".join(f"v{number}=/v" for number in range(MAX_VOLUMES + 1)), "it has 101 volumes; at most 100 are allowed"),
    ],
)
def test_invalid_volumes_are_refused_with_the_reason(text, reason):
    with pytest.raises(SettingError, match=re.escape(reason)) as refused:
        read_settings({"POLYJOB_VOLUMES": text})
    assert str(refused.value).startswith("POLYJOB_VOLUMES is not valid: ")


def test_variables_of_other_runners_are_their_options():
    environ = {"POLYJOB_FAR_AWAY_QUEUE": "gpu", "POLYJOB_FAR_URL": "", "POLYJOB_TOKEN": "secret", "POLYJOB_SLOTS": "2"}
    settings = read_settings(environ)
    assert settings.options_of("far-away") == {"queue": "gpu"}
    assert settings.options_of("far") == {"away_queue": "gpu"}
    assert settings.runner_variables == (("POLYJOB_FAR_AWAY_QUEUE", "gpu"),)
    assert read_settings(environment(settings)) == settings
