"""The API reference."""

from __future__ import annotations

from flask.testing import FlaskClient

from polyjob.pages import reference
from tests.pages.helpers import Page


class TestReference:
    def test_every_operation_and_schema_is_shown_without_sign_in(self, visitor: FlaskClient) -> None:
        answer = visitor.get("/docs/api/")
        assert answer.status_code == 200
        page = Page(answer.text)
        document = visitor.get("/openapi.json").json
        for path, members in document["paths"].items():
            for method in members.keys() - {"parameters"}:
                assert f"{method.upper()} {path}" in page.text
        for name, schema in document["components"]["schemas"].items():
            assert not schema.get("properties") or f'id="{name}"' in answer.text
        assert "script" not in page.tags

    def test_internal_links_have_targets(self, visitor: FlaskClient) -> None:
        text = visitor.get("/docs/api").text
        for link in Page(text).links:
            assert not link.startswith("#") or f'id="{link[1:]}"' in text, link

    def test_common_errors_are_named_once(self, visitor: FlaskClient) -> None:
        document = visitor.get("/openapi.json").json
        operations = {operation.name: operation for operation in reference.operations(document)}
        assert [code for code, *_ in operations["add_member"].responses] == ["201", "409"]
        assert "401" in [code for code, *_ in operations["log_in"].responses]

    def test_types_are_readable(self) -> None:
        assert reference.type_of({"type": ["array", "null"], "items": {"type": "string"}}) == "list of text or null"
        assert reference.type_of({"oneOf": [{"$ref": "#/x/Job"}, {"type": "integer"}]}) == "Job or integer"
        assert reference.type_of({"type": "string", "format": "binary"}) == "bytes"
        assert reference.type_of({}) == "anything"
