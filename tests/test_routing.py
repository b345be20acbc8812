"""The rules that map paths to views."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import Map, Rule

from polyjob.app import make_app
from polyjob.routing import LazyRule

RULES = [("/a/<name>", "first"), ("/a/<int:number>/b", "second")]


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
