"""The OpenAPI document agrees with the API."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from .conftest import JOBS

DOCS = Path(__file__).parent.parent.parent / "docs" / "api.md"


@pytest.fixture
def document(anonymous):
    response = anonymous.get("/openapi.json")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return response.json


def operations(document):
    for path, members in document["paths"].items():
        for method, operation in members.items():
            if method != "parameters":
                yield f"{method.upper()} {path}", operation


def references(part):
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def _documented(rule):
    return re.sub(r"<(?:int:)?([a-z_]+)>", r"{\1}", rule)


def test_document_has_every_route(app, document):
    routes = {
        f"{method} {_documented(rule.rule)}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1/")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes <= {name for name, _ in operations(document)}
    assert len(routes) > 30


def test_every_reference_resolves(document):
    for reference in set(references(document)):
        part = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
        assert part


def test_every_operation_has_summary_and_errors(document):
    for name, operation in operations(document):
        assert operation["summary"], name
        assert "default" not in operation["responses"], name
        is_open = operation.get("security") == []
        assert "401" in operation["responses"] or is_open, name
        if name.split()[0] != "GET" and not is_open:
            assert operation["responses"].keys() >= {"400", "403", "404", "413", "503"}, name


def test_document_is_valid(document):
    validate(document)


def test_operation_ids_are_unique_and_have_responses(document):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for name, operation in operations(document):
        good = [code for code in operation["responses"] if code.startswith("2") or code == "101"]
        assert good, name
        responses = operation["responses"].values()
        assert all(response.get("description") or "$ref" in response for response in responses), name


def test_every_json_body_has_a_valid_example(document):
    for name, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None or "$ref" not in content["schema"]:
            continue
        assert "example" in content, name
        schema = {"components": document["components"]} | content["schema"]
        OAS31Validator(schema).validate(content["example"])


def test_errors_are_problems(document):
    for name, response in document["components"]["responses"].items():
        content = response["content"]
        assert list(content) == ["application/problem+json"], name
        assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert document["components"]["schemas"]["Problem"]["properties"].keys() == {
        "type",
        "title",
        "status",
        "detail",
        "errors",
    }


def test_job_schema_matches_the_response(client, document):
    job = client.submit()
    assert document["components"]["schemas"]["Job"]["properties"].keys() == job.keys()


def test_guide_lists_every_route(document):
    guide = DOCS.read_text()
    for name, _ in operations(document):
        method, path = name.split()
        shown = path.removeprefix("/api/v1")
        for word in ("username", "project_name", "job_id", "build_id", "schedule_id"):
            shown = shown.replace(f"{{{word}}}", {"username": "{u}", "project_name": "{p}"}.get(word, "{id}"))
        assert re.search(rf"`[A-Z, ]*\b{method}\b[A-Z, ]* {re.escape(shown)}`", guide), f"{method} {shown}"


def test_short_error_of_a_field_named_status_is_documented(client):
    client.submit()
    response = client.post(f"{JOBS}/1/statuses", {"status": "docs"}, headers={"Accept": "application/json"})
    assert (response.status_code, type(response.json["status"])) == (400, list)
    schema = client.get("/openapi.json").json["components"]["schemas"]["Problem"]["properties"]["status"]
    assert {kind["type"] for kind in schema["oneOf"]} == {"integer", "array"}
