"""Health and readiness of the server."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from polyjob.app import create_app
from polyjob.clock import Clock
from polyjob.db.database import close_database, database
from polyjob.db.migrations import latest_version, migrate
from polyjob.db.models import Job
from polyjob.engine_link import EngineLock, record_start
from polyjob.storage.store import Store

from .conftest import BASE, JOBS, Client

HOLD = """
import sys
from pathlib import Path
from polyjob.engine_link import EngineLock
lock = EngineLock(Path(sys.argv[1]))
lock.acquire()
lock.record_pass(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""
VERSIONS = {"latest_version": "0.6.1", "min_version": "0.0.0"}


@pytest.mark.parametrize("token", [None, "0" * 40])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("versions/cli", VERSIONS),
        ("versions/platform", VERSIONS),
        ("versions/lib", VERSIONS),
        ("versions/chart", {"version": "0.6.1"}),
        ("log_handler", {"dns": None, "dsn": None, "environment": "production", "tags": {}}),
    ],
)
def test_versions_do_not_need_a_token(app, path, expected, token):
    for slash in ("", "/"):
        response = Client(app, token).get(f"/api/v1/{path}{slash}")
        assert (response.status_code, response.json) == (200, expected)


def test_healthz_does_not_use_the_database(app, anonymous, settings):
    close_database()
    (settings.data_dir / "polyjob.db").write_bytes(b"no database" * 1000)
    response = anonymous.get("/healthz")
    assert (response.status_code, response.data) == (200, b"")


@pytest.fixture
def silence():
    """Seconds since the engine's last pass."""
    return 0.0


@pytest.fixture
def engine(settings, silence):
    """A process that holds the engine's lock, and its report."""
    report = {"pid": 1, "at": "now", "runner": {"name": "fake", "ok": True, "message": None}}
    (settings.data_dir / "engine.json").write_text(json.dumps(report))
    clock = Clock()
    beat = f"{clock.boot_id}:{clock.seconds() - silence:.6f}"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(settings.data_dir), beat], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.communicate()


class TestReadyz:
    def test_ready_if_all_parts_work(self, anonymous, engine):
        response = anonymous.get("/readyz")
        fine = {"ok": True, "why": None}
        assert (response.status_code, response.json) == (
            200,
            {"ok": True, "database": fine, "disk": fine, "engine": fine, "runner": fine},
        )

    def test_missing_engine_is_reported(self, anonymous):
        response = anonymous.get("/readyz")
        assert (response.status_code, response.json["ok"]) == (503, False)
        assert "No engine is running" in response.json["engine"]["why"]
        assert response.json["runner"]["ok"] is False
        assert response.json["database"]["ok"] is response.json["disk"]["ok"] is True

    @pytest.mark.parametrize("silence", [45.0])
    def test_hanging_engine_is_reported(self, anonymous, engine):
        response = anonymous.get("/readyz")
        assert (response.status_code, response.json["engine"]["ok"]) == (503, False)
        assert response.json["engine"]["why"].startswith("The engine has made no pass for 4")

    @pytest.mark.parametrize("silence", [20.0])
    def test_long_pass_is_tolerated(self, anonymous, engine):
        assert anonymous.get("/readyz").json["engine"] == {"ok": True, "why": None}

    def test_retried_starts_slow_ends_and_restarts_are_remarks(self, client, anonymous, engine, settings):
        number = client.submit()["id"]
        note = [{"kind": "retry", "text": "Its start is tried again: no"}]
        Job.update(status="scheduled", notes=note).where(Job.id == number).execute()
        report = {"runner": {"name": "fake", "ok": True, "message": None}, "slow": [7, 8]}
        (settings.data_dir / "engine.json").write_text(json.dumps(report))
        for name, count in (("engine", 2), ("web", 4)):
            for _ in range(count):
                record_start(settings.data_dir, name, Clock())
        response = anonymous.get("/readyz")
        assert (response.status_code, response.json["engine"]["ok"]) == (200, True)
        assert response.json["engine"]["why"] == (
            f"1 slot is held by a job whose start is retried: #{number}. "
            "These jobs have taken minutes to end: #7, #8. "
            "The engine crashed and was restarted once within the last hour. "
            "The web server crashed and was restarted 3 times within the last hour."
        )

    def test_readiness_check_does_not_take_the_engine_lock(self, anonymous, settings):
        anonymous.get("/readyz")
        lock = EngineLock(settings.data_dir)
        lock.acquire()
        lock.release()

    def test_failing_runner_is_reported(self, anonymous, engine, settings):
        report = {"runner": {"name": "fake", "ok": False, "message": "gone fishing"}}
        (settings.data_dir / "engine.json").write_text(json.dumps(report))
        response = anonymous.get("/readyz")
        assert (response.status_code, response.json["runner"]["why"]) == (503, "fake: gone fishing")

    @pytest.mark.parametrize("text", ["", "{}", "nonsense", "[]"])
    def test_damaged_engine_report_is_ignored(self, anonymous, engine, settings, text):
        (settings.data_dir / "engine.json").write_text(text)
        assert anonymous.get("/readyz").json["runner"] == {"ok": False, "why": "The engine has not checked it yet."}

    def test_low_disk_is_reported(self, settings, engine):
        app = create_app(dataclasses.replace(settings, disk_low=1 << 60))
        response = Client(app).get("/readyz")
        assert (response.status_code, response.json["disk"]["ok"]) == (503, False)

    def test_database_with_another_schema_is_reported(self, anonymous, engine):
        database.execute_sql("PRAGMA user_version = 999")
        response = anonymous.get("/readyz")
        assert (response.status_code, response.json["database"]["ok"]) == (503, False)
        assert "999" in response.json["database"]["why"]


class TestAnotherSchema:
    @pytest.mark.parametrize("schema", [0, 999])
    def test_calls_get_503_with_another_schema(self, client, schema):
        client.submit()
        database.execute_sql(f"PRAGMA user_version = {schema}")
        for method, path in [
            ("GET", JOBS),
            ("POST", JOBS),
            ("GET", BASE),
            ("POST", "/api/v1/users/token"),
            ("GET", "/x"),
        ]:
            response = client.call(method, path)
            assert (response.status_code, response.mimetype) == (503, "application/problem+json")
            assert int(response.headers["Retry-After"]) > 0
        assert database.execute_sql("PRAGMA user_version").fetchone() == (schema,)

    def test_pages_get_503_with_another_schema(self, client):
        database.execute_sql("PRAGMA user_version = 999")
        response = client.get("/", headers={"Accept": "text/html"})
        assert (response.status_code, response.mimetype) == (503, "text/html")

    def test_requests_work_once_the_schema_is_current(self, tmp_path, settings):
        close_database()
        folder = tmp_path / "empty"
        Store(folder).prepare()
        client = Client(create_app(dataclasses.replace(settings, data_dir=folder)))
        assert client.get(JOBS).status_code == 503
        assert database.execute_sql("PRAGMA user_version").fetchone() == (0,)
        migrate(folder)
        assert client.get(JOBS).status_code == 401
        assert client.get("/sign-in/x").status_code == 410
        assert database.execute_sql("PRAGMA user_version").fetchone() == (latest_version(),)


def test_proxy_headers_are_trusted_only_if_configured(settings, client, user):
    client.submit()
    client.submit()
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "jobs.example", "X-Forwarded-For": "10.0.0.1"}
    assert client.get(f"{JOBS}?limit=1", headers=headers).json["next"].startswith("http://localhost/")
    behind = Client(create_app(dataclasses.replace(settings, trusted_proxies=1)))
    behind.headers = client.headers
    assert behind.get(f"{JOBS}?limit=1", headers=headers).json["next"].startswith("https://jobs.example/api/v1/")
    named = Client(create_app(dataclasses.replace(settings, public_url="https://named.example")))
    named.headers = client.headers
    assert named.get(f"{JOBS}/1").json["urls"]["self"] == "https://named.example/api/v1/ana/demo/jobs/1"
