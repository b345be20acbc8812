"""Routes of the documented API that polyjob does not serve: 404 with a hint."""

from __future__ import annotations

import pytest

from polyjob.api.unsupported import hint

from .conftest import BASE


@pytest.mark.parametrize("segment", ["experiments", "groups", "notebook", "notebooks", "tensorboard", "tensorboards"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", BASE + "/{}"),
        ("POST", BASE + "/{}/"),
        ("GET", BASE + "/{}/7/statuses/"),
        ("POST", BASE + "/{}/start"),
        ("DELETE", BASE + "/{}/7"),
        ("GET", "/api/v1/bookmarks/ana/{}/"),
        ("GET", "/api/v1/archives/ana/{}"),
        ("GET", "/api/v1/searches/ana/demo/{}"),
        ("GET", "/ws/v1/ana/demo/{}/7/logs/"),
    ],
)
def test_other_kinds_of_runs_are_named(client, method, path, segment):
    response = client.call(method, path.format(segment))
    assert response.status_code == 404
    assert response.json["detail"].startswith("polyjob runs jobs, not ")
    assert response.json["detail"].endswith("Use `kind: job`.")


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", f"{BASE}/repo/external/", "upload"),
        ("POST", f"{BASE}/repo/sync", "upload"),
        ("GET", f"{BASE}/ci/", "CI"),
        ("DELETE", f"{BASE}/ci", "CI"),
        ("GET", "/api/v1/searches/ana/demo/jobs", "searches"),
        ("POST", f"{BASE}/jobs/1/impersonatetoken/", "POLYAXON_SECRET_USER_TOKEN"),
        ("POST", f"{BASE}/jobs/1/imporsonatetoken", "POLYAXON_SECRET_USER_TOKEN"),
        ("GET", f"{BASE}/jobs/1/resources", "resources"),
    ],
)
def test_other_missing_routes_name_an_alternative(client, method, path, words):
    response = client.call(method, path)
    assert (response.status_code, words in response.json["detail"]) == (404, True), response.text


def test_hints_need_a_token(anonymous):
    assert anonymous.get(f"{BASE}/experiments").status_code == 401


@pytest.mark.parametrize("path", [f"{BASE}/nothing", f"{BASE}/experiment", "/ana/demo/experiments", "/api/v2/a/b/ci"])
def test_paths_of_no_api_have_no_hint(path):
    assert hint(path) is None
