"""The rules that map paths to views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from werkzeug.routing import Map, MapAdapter, Rule, RuleFactory
from werkzeug.routing.matcher import StateMachineMatcher
from werkzeug.sansio.utils import get_host
from werkzeug.wrappers import Request

_MAX_REMEMBERED_PATHS = 512
"""Paths whose rule is remembered. Clients repeat them: they submit to one path, and poll some others."""


class LazyRule(Rule):
    """A rule that compiles the function which builds its URLs when that is first called.

    No page links to most routes of the API, and compiling the functions of all routes would take most of the time that
    it takes to create the application.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compile_builder = super()._compile_builder
        compiled: Callable[..., tuple[str, str]] | None = None

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            nonlocal compiled
            if compiled is None:
                compiled = compile_builder(append_unknown)
            return compiled(rule, **values)

        return build


class RuleMap(Map):
    """The rules of the application. It remembers the rules of the latest paths that have one."""

    def __init__(self, rules: Iterable[RuleFactory] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._matcher = _RememberingMatcher(self.merge_slashes)
        for rule in rules or ():
            self.add(rule)


class _RememberingMatcher(StateMachineMatcher):
    def __init__(self, merge_slashes: bool) -> None:
        super().__init__(merge_slashes)
        self._remembered = lru_cache(_MAX_REMEMBERED_PATHS)(super().match)

    def update(self) -> None:
        super().update()
        self._remembered.cache_clear()

    def match(self, domain: str, path: str, method: str, websocket: bool) -> tuple[Rule, MutableMapping[str, Any]]:
        rule, values = self._remembered(domain, path, method, websocket)
        return rule, dict(values)


def adapter_of(rules: Map, request: Request) -> MapAdapter:
    """Return the adapter of a request. It equals that of `Map.bind_to_environ`, but knows the latest server names.

    Raises BadHost for a host that is not a domain name.
    """
    environ = request.environ
    return MapAdapter(
        rules,
        _server_name(request.scheme, environ.get("HTTP_HOST"), request.server),
        request.root_path,
        "",
        request.scheme,
        request.path,
        request.method,
        request.query_string.decode(errors="replace"),
    )


@lru_cache(64)
def _server_name(scheme: str, host: str | None, server: tuple[str, int | None] | None) -> str:
    return _NO_RULES.bind(get_host(scheme, host, server)).server_name


_NO_RULES = Map()
