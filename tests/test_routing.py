"""The rules that map paths to views."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.exceptions import BadHost, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from polyjob.app import make_app
from polyjob.routing import LazyRule, RuleMap, adapter_of

RULES = [("/a/<name>", "first"), ("/a/<int:number>/b", "second")]
ENVIRONS = {
    "plain": {},
    "host": {"HTTP_HOST": "ÄB.example:8080"},
    "default port": {"HTTP_HOST": "example:443", "wsgi.url_scheme": "https"},
    "invalid host": {"HTTP_HOST": "a b"},
    "no host": {"SERVER_NAME": "::1", "SERVER_PORT": "8000"},
    "prefix": {"SCRIPT_NAME": "/pre/fix"},
    "encoded path": {"PATH_INFO": "//\xc3\xa4/\xff"},
    "query": {"QUERY_STRING": "a=\xc3\xa4&b=\xff"},
    "method": {"REQUEST_METHOD": "POST"},
}


def test_lazy_rules_build_the_same_urls() -> None:
    lazy, eager = (Map([kind(path, endpoint=name) for path, name in RULES]).bind("host") for kind in (LazyRule, Rule))
    for endpoint, values in (("first", {"name": "x y"}), ("second", {"number": 3, "page": "2"})):
        for _ in range(2):
            assert lazy.build(endpoint, values) == eager.build(endpoint, values)


def test_application_compiles_no_unused_rule(monkeypatch) -> None:
    compiled = []
    original = Rule._compile_builder
    monkeypatch.setattr(Rule, "_compile_builder", lambda *arguments: compiled.append(arguments) or original(*arguments))
    app: Flask = make_app()
    assert compiled == []
    assert next(app.url_map.iter_rules("pages.static")).build({"filename": "a.css"}) == ("", "/static/a.css")
    assert len(compiled) == 1


@pytest.mark.parametrize("changes", ENVIRONS.values(), ids=ENVIRONS)
def test_adapter_equals_that_of_werkzeug(changes):
    rules = Map()
    environ = EnvironBuilder(path="/a").get_environ()
    if "SERVER_NAME" in changes:
        del environ["HTTP_HOST"]
    environ |= changes
    expected = vars(rules.bind_to_environ(environ, subdomain=""))
    expected["path_info"] = f"/{expected['path_info'].lstrip('/')}"  # as it is matched
    for _ in range(2):
        assert vars(adapter_of(rules, Request(environ))) == expected


def test_invalid_host_is_refused():
    environ = EnvironBuilder().get_environ() | {"HTTP_HOST": "a..b"}
    for _ in range(2):
        with pytest.raises(BadHost):
            adapter_of(Map(), Request(environ))


def test_values_of_a_path_are_not_shared_between_requests():
    adapter = RuleMap([Rule("/<name>", endpoint="view")]).bind("localhost")
    adapter.match("/a")[1]["name"] = "b"
    assert adapter.match("/a") == ("view", {"name": "a"})


def test_new_rules_are_found():
    rules = RuleMap([Rule("/<name>", endpoint="view")])
    adapter = rules.bind("localhost")
    assert adapter.match("/a")[0] == "view"
    rules.add(Rule("/a", endpoint="other"))
    assert adapter.match("/a")[0] == "other"
    with pytest.raises(NotFound):
        adapter.match("/a/b")
