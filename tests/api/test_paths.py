"""Different spellings of a path lead to its view, without a redirect."""

from __future__ import annotations

import pytest

from polyjob.api.paths import normalize

from .conftest import BASE, CONFIG, JOBS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a//b///c//", "/a/b/c"),
        ("//a", "/a"),
        ("/api/v1/a/b/jobs.json", "/api/v1/a/b/jobs"),
        ("/api//v1/users.json/", "/api/v1/users"),
        ("/a.json", "/a.json"),
    ],
)
def test_path_is_normalized(path, expected):
    assert normalize(path) == expected


@pytest.mark.parametrize("spelling", ["{0}", "{0}/", "{0}//", "{0}.json"])
@pytest.mark.parametrize("name", ["", "/statuses", "/logs", "/outputs", "/outputs/download", "/coderef"])
def test_reads_with_and_without_final_slash(client, name, spelling):
    number = client.submit()["id"]
    assert client.get(spelling.format(f"{JOBS}/{number}{name}")).status_code == 200


@pytest.mark.parametrize("path", [f"{BASE}//jobs/", "/api//v1/ana//demo/jobs", f"{BASE}/jobs/"])
def test_writes_by_odd_spellings_have_their_effect(client, path):
    response = client.post(path, {"config": CONFIG})
    assert response.status_code == 201
    assert client.get(JOBS).json["count"] == 1


def test_fixed_segments_come_before_users(client):
    assert client.get("/api/v1/users/").json["username"] == "ana"
    assert client.get("/api/v1/versions/cli/").json["min_version"] == "0.0.0"
    assert client.get("/api/v1/log_handler").json["tags"] == {}


@pytest.mark.parametrize("number", ["9" * 18, "9" * 19, "9" * 40, "0", "-1", "1.0", "x", "٣"])
def test_numbers_that_are_no_ids_are_not_found(client, number):
    response = client.get(f"{JOBS}/{number}")
    assert (response.status_code, response.json["status"]) == (404, 404)


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/app", "/"),
        ("/app/", "/"),
        ("/app/ana/demo", "/ana/demo"),
        ("/app/ana/demo/jobs/1", "/ana/demo/jobs/1"),
        ("/app//evil.example/x", "/evil.example/x"),
        ("/app/\\evil.example", "/"),
        ("/app/%5C%5Cevil.example", "/"),
        ("/app/%2F%2Fevil.example", "/evil.example"),
    ],
)
def test_dashboard_addresses_lead_to_pages_of_this_server(anonymous, path, page):
    response = anonymous.get(path)
    assert (response.status_code, response.headers["Location"]) == (302, page)


@pytest.mark.parametrize("path", ["/_health", "/statusz", "/statusz/"])
def test_old_health_paths_answer(anonymous, path):
    assert anonymous.get(path).status_code == 200
