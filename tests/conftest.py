"""Fixtures of all tests: a data folder with an open database, a user and a project."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from flask import Flask

from polyjob.app import configure, make_app
from polyjob.auth import login, throttle
from polyjob.clock import now
from polyjob.db.database import close_database, open_database, write
from polyjob.db.migrations import migrate
from polyjob.db.models import Meta, Project, User
from polyjob.logs.watcher import EXTENSION, Watcher
from polyjob.settings import Settings, read_settings
from polyjob.storage.store import Store
from tests import distribution, sampling
from tests.require import is_long_run

collect_ignore = ["third_party_runner"]
"""A distribution of its own; `test_third_party_runner.py` runs its tests."""

hypothesis.settings.register_profile("the same each time", derandomize=True, max_examples=sampling.examples(100))
hypothesis.settings.load_profile("the same each time")


def pytest_configure() -> None:
    sampling.choose_sample()  # the workers inherit the variable


def pytest_report_header() -> str | None:
    if is_long_run():
        return None
    chosen = f"{sampling.SAMPLE_VARIABLE}={sampling.choose_sample()}"
    return f"short run: large tests take samples, other ones each day; {chosen} takes the same again"


def pytest_sessionstart(session: pytest.Session) -> None:
    distribution.import_own_share(session.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sampling.skip_others(items)
    items.sort(key=lambda item: distribution.rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return distribution.worker_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> distribution.UnitScheduling | None:
    return distribution.UnitScheduling(config, log) if config.option.dist == "load" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each reason for which tests were skipped."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped tests")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty database, to be copied: its migrations take longer than most tests."""
    folder = tmp_path_factory.mktemp("new")
    open_database(folder)
    migrate(folder)
    close_database()
    return folder / "polyjob.db"


@pytest.fixture
def data_dir(tmp_path: Path, new_database: Path) -> Iterator[Path]:
    """An empty data folder of an installation of its own, with its database open in this process."""
    folder = tmp_path / "data"
    Store(folder).prepare()
    shutil.copyfile(new_database, folder / "polyjob.db")
    open_database(folder)
    with write("test"):
        Meta.update(value=uuid.uuid4().hex).where(Meta.key == "installation").execute()
    yield folder
    close_database()


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return read_settings({}, data_dir=data_dir, runner="fake", slots=2, disk_low=0)


@pytest.fixture(scope="session")
def unconfigured_app() -> Flask:
    """The application without settings, made once: its routes take longer to compile than most tests take to run."""
    return make_app()


@pytest.fixture
def app(unconfigured_app: Flask, settings: Settings) -> Flask:
    configure(unconfigured_app, settings)
    unconfigured_app.testing = True
    return unconfigured_app


@pytest.fixture
def watcher(app: Flask) -> Iterator[Watcher]:
    """The application's watcher. No subscription outlives the test."""
    watcher: Watcher = app.extensions[EXTENSION]
    yield watcher
    watcher.close()


@pytest.fixture
def user(data_dir: Path) -> User:
    with write("test"):
        return User.create(username="ana", created_at=now())


@pytest.fixture
def project(user: User) -> Project:
    moment = now()
    with write("test"):
        return Project.create(
            uuid="f" * 32, user=user, name="demo", is_public=False, created_at=moment, updated_at=moment
        )


@pytest.fixture
def login_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all failed logins, and stop the clock of the delays after them."""
    monkeypatch.setattr(throttle, "clock", lambda: 1000.0)
    monkeypatch.setattr(login, "_by_account", throttle.FailureLimit())
    monkeypatch.setattr(login, "_by_address", throttle.FailureLimit(login.MAX_FAILURES_OF_ADDRESS))
    by_name = throttle.FailureLimit(login.MAX_FAILURES_OF_NAME, login.MAX_NAME_DELAY_SECONDS)
    monkeypatch.setattr(login, "_by_name", by_name)
