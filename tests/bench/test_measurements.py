"""The benchmarks measure a real server. These tests do not judge the figures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.lists import fill
from bench.load import generate_elsewhere
from bench.servers import ROOT, Checkout, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(Checkout(ROOT), tmp_path_factory.mktemp("bench") / "data") as started:
        yield started


def test_copied_jobs_are_listed_like_submitted_ones(server):
    client = server.client()
    client.run("true")
    assert client.wait(client.submit("false", tags=["rare"])) == "failed"
    fill(server.data / "polyjob.db", 300, failed_every=50)
    assert client.call("GET")["count"] == 300
    assert client.call("GET", "?query=status:failed")["count"] == 7
    assert client.call("GET", "?query=tags:rare")["count"] == 7
    assert client.call("GET", "/299/statuses")["count"] == client.call("GET", "/1/statuses")["count"]
    client.close()


def test_load_generator_counts_the_accepted_jobs(server):
    client = server.client()
    before = client.call("GET")["count"]
    load = generate_elsewhere(server.port, server.token, clients=2, seconds=0.2)
    assert load.accepted == client.call("GET")["count"] - before > 0
    assert load.refused == 0
    client.close()


def test_quick_run_writes_rows_with_floors(tmp_path):
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--quick", "--only", "one_job", "--json", str(path)]
    table = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "one job on an idle server: first command",
        "one job on an idle server: seen done",
    ]
    for row in rows:
        assert row["value"] > 0 < row["floor"]["value"]
        assert f"| {row['name']} | " in table
