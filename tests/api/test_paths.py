"""Different spellings of a path lead to its view, without a redirect."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.api.paths import normalize
from polyjob.app import create_app

from .conftest import BASE, CONFIG, JOBS, Client


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


@pytest.mark.parametrize("path", ["/jobs", "/jobs/api/v1/ana/demo/jobs", "/api/v1/ana/demo/jobs"])
def test_path_of_the_public_url_may_be_passed_on(settings, client, user, path):
    below = Client(create_app(dataclasses.replace(settings, public_url="https://example.org/jobs")))
    below.headers = client.headers
    assert below.get(path).status_code == (200 if "api" in path else 401)
    assert below.get("/jobsx/api/v1/ana/demo/jobs").status_code == 404


def test_paths_of_the_api_below_api_are_not_shortened(settings, client, user):
    below = Client(create_app(dataclasses.replace(settings, public_url="https://example.org/api")))
    below.headers = client.headers
    assert below.submit()["urls"]["self"] == "https://example.org/api/api/v1/ana/demo/jobs/1"


def test_prefix_of_a_proxy_is_trusted_only_if_configured(settings, client, user):
    client.submit()
    client.submit()
    headers = {"X-Forwarded-Prefix": "/jobs/"}
    assert client.get(f"{JOBS}?limit=1", headers=headers).json["next"].startswith("http://localhost/api/v1/")
    behind = Client(create_app(dataclasses.replace(settings, trusted_proxies=1)))
    behind.headers = client.headers
    assert behind.get(f"{JOBS}?limit=1", headers=headers).json["next"].startswith("http://localhost/jobs/api/v1/")
    assert 'action="/jobs/sign-in"' in behind.get("/sign-in", headers=headers).text


def test_forwarded_host_does_not_count_beside_a_public_url(settings, user):
    behind = Client(create_app(dataclasses.replace(settings, public_url="https://example.org", trusted_proxies=1)))
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Origin": "https://evil.example"}
    response = behind.post("/sign-in", data={"username": "ana"}, headers=headers | {"Accept": "text/html"})
    assert response.status_code == 403
    assert "set POLYJOB_PUBLIC_URL" in response.text


@pytest.mark.parametrize("prefix", ["//evil.example", "/a/../..", "https://evil.example", '/"onclick=', "/a b", "/ä"])
def test_prefix_that_is_not_a_path_is_dropped(settings, client, user, prefix):
    behind = Client(create_app(dataclasses.replace(settings, trusted_proxies=1)))
    assert 'action="/sign-in"' in behind.get("/sign-in", headers={"X-Forwarded-Prefix": prefix}).text
