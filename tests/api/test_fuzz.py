"""Random requests: every one gets a response, and none is an error of the server."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyjob.api.schemas.job_bodies import JobChangeBody, JobCreateBody
from polyjob.jobconfig.schema import ConfigSchema
from tests.sampling import examples

from .conftest import BASE, JOBS

KEYS = sorted({*JobCreateBody().fields, *JobChangeBody().fields, *ConfigSchema().fields, "cmd", "status", "details"})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=10)
    | st.sampled_from(["a", '{"run": {"cmd": "a"}}', "running", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=15,
)
BODIES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
QUIET = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", JOBS),
        ("PATCH", f"{JOBS}/1"),
        ("POST", f"{JOBS}/1/restart"),
        ("POST", f"{JOBS}/1/statuses"),
        ("POST", f"{JOBS}/1/coderef"),
        ("POST", "/api/v1/projects"),
    ],
)
def test_bodies(client, method, path):
    client.submit()

    @QUIET
    @given(BODIES)
    def send(body):
        response = client.call(method, path, data=json.dumps(body), content_type="application/json")
        assert response.status_code in (200, 201, 400), response.text
        shown = client.get(f"{JOBS}/1")
        assert shown.status_code == 200
        json.loads(shown.text, parse_constant=pytest.fail)

    send()


def test_paths_and_queries(client):
    client.submit()

    @QUIET
    @given(st.text(max_size=20), st.text(max_size=20))
    def ask(path, query):
        for base in (BASE, f"{JOBS}/1/statuses", "/api/v1"):
            response = client.get(f"{base}/{quote(path)}", query_string={"limit": query, "offset": query, "wait": "0"})
            assert response.status_code < 500

    ask()


def test_raw_bytes(client):
    @QUIET
    @given(
        st.binary(max_size=200),
        st.sampled_from(
            [
                "application/json",
                "multipart/form-data; boundary=b",
                "application/x-www-form-urlencoded",
                "text/plain",
                "",
            ]
        ),
    )
    def send(data, kind):
        for method, path in (("POST", JOBS), ("PUT", f"{BASE}/repo/upload"), ("POST", "/api/v1/users/token")):
            assert client.call(method, path, data=data, content_type=kind).status_code in (400, 415)

    send()
