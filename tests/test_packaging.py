"""The wheel, the lock of dependencies, and the scripts that find a Python."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

import polyjob

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-")


def test_versions_agree():
    assert polyjob.__version__ == PROJECT["version"]
    assert f"## {polyjob.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def pinned(lines):
    names = []
    for entry in re.sub(r"\\\n\s*", "", lines).splitlines():
        found = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)( ; [^-]+?)?((\s*--hash=sha256:[0-9a-f]{64})+)", entry)
        assert found, entry
        names.append(found.group(1))
    assert len(set(names)) == len(names)
    return set(names)


def test_lock_pins_every_requirement_by_hash():
    headings = (
        "# Dependencies of polyjob, and of its Docker runner.\n(.*)# Dependencies of the Kubernetes runner.\n(.*)"
        "# Dependencies of the tests and linters.\n(.*)"
    )
    base, kubernetes, others = map(pinned, re.fullmatch(headings, LOCK, re.DOTALL).groups())
    extras = PROJECT["optional-dependencies"]
    assert {name_of(item) for item in [*PROJECT["dependencies"], *extras["docker"], "hatchling"]} <= base
    assert {name_of(item) for item in extras["kubernetes"]} <= base | kubernetes
    assert "kubernetes" in kubernetes
    assert len(base | kubernetes | others) == len(base) + len(kubernetes) + len(others)
    assert {name_of(item) for item in itertools.chain.from_iterable(extras.values())} <= base | kubernetes | others


def test_lock_has_no_host_and_no_path():
    assert "://" not in LOCK
    assert "/" not in LOCK
    assert not re.search(r"^\s*-(?!-hash)", LOCK, re.MULTILINE)


INTERPRETER = """#!/bin/sh
case "$*" in
*--requirement*) for lock; do :; done; grep -c "^kubernetes==" "$lock" >> installed || true ;;
*venv*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""
"""A Python that records for each lock that it installs whether the Kubernetes client is in it."""


class Checkout:
    """The files that `make run` reads, in a folder of their own, with a Python that only records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools/python"):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "python"
        self.python.write_text(INTERPRETER)
        self.python.chmod(0o755)

    def installed_by_run(self, **variables: str) -> list[bool]:
        """Call `make run`. Return for each lock that it installed whether the Kubernetes client is in it."""
        (self.folder / "installed").write_text("")
        environ = {"PATH": os.environ["PATH"], "PYTHON": str(self.python), **variables}
        subprocess.run(["make", "run"], cwd=self.folder, env=environ, check=True, capture_output=True, timeout=60)
        return [count != "0" for count in (self.folder / "installed").read_text().split()]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_run_installs_no_kubernetes_client_by_default(checkout):
    assert checkout.installed_by_run() == [False]
    assert checkout.installed_by_run(POLYJOB_RUNNER="docker") == []


@pytest.mark.parametrize("variables", [{"POLYJOB_RUNNER": "kubernetes"}, {"POLYJOB_RUNNERS": "process kubernetes"}])
def test_run_installs_the_kubernetes_client_once_named(variables, checkout):
    assert checkout.installed_by_run() == [False]
    assert checkout.installed_by_run(**variables) == [True]
    assert checkout.installed_by_run(**variables) == []


def test_new_lock_reinstalls_the_kubernetes_client(checkout):
    checkout.installed_by_run(POLYJOB_RUNNER="kubernetes")
    os.utime(checkout.folder / "requirements.lock", (time.time() + 2, time.time() + 2))
    assert checkout.installed_by_run() == [False, True]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_all_files_of_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for folder, prefix in [("polyjob", ""), ("runners", ""), ("templates", "polyjob/")]:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert prefix + path.relative_to(ROOT).as_posix() in inside


def test_wheel_runs_without_the_checkout(wheel, tmp_path):
    folder = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("POLYJOB_", "COV"))}
    command = [sys.executable, "-m", "polyjob", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"polyjob, version {polyjob.__version__}\n"), done.stderr


def test_missing_python_is_reported_in_one_line(tmp_path):
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "tools/python")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "polyjob: Python 3.11 or newer is missing; install it and try again.\n"


@pytest.mark.parametrize(("module", "missing_part"), [("venv", "module venv"), ("ensurepip", "module ensurepip")])
def test_missing_part_of_python_is_reported_in_one_line(module, missing_part, tmp_path):
    fake = tmp_path / "python3"
    fake.write_text(f'#!/bin/sh\ncase "$2" in *{module}*) exit 1;; esac\nexit 0\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "tools/python")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == f"polyjob: the {missing_part} of python3 is missing; install it and try again.\n"


def test_wrong_python_variable_is_reported_in_one_line(tmp_path):
    fake = tmp_path / "python2"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "PYTHON": str(fake)}
    command = ["/bin/sh", str(ROOT / "tools/python")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"polyjob: Python 3.11 or newer, which {fake} is not, is missing; install it and try again.\n"


def test_python_variable_selects_the_python():
    command = ["/bin/sh", str(ROOT / "tools/python")]
    done = subprocess.run(command, env={"PYTHON": sys.executable}, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sys.executable}\n", "")


def test_old_python_is_reported_in_one_line():
    old = "import runpy, sys; sys.version_info = (3, 10, 1); runpy.run_path('polyjob/__main__.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", old], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"polyjob: Python 3\.11 or newer is needed; this is \S+\n", done.stderr)
