"""The audit trail of the server, for administrators."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.params import parse_digits
from polyjob.api.schemas.audit import KINDS
from polyjob.auth.permissions import Access, requires
from polyjob.services import audit

PAGE_SIZE = 100
MAX_PAGE = 10_000

blp = Blueprint("audit", __name__)


@blp.get("/audit")
@requires(Access.ADMINISTRATOR)
def list_audit() -> AnyResponse:
    """Show a page of the changes, last change first. An unknown kind or page counts as not given."""
    user, kind = request.args.get("user", "").strip(), request.args.get("kind", "")
    kind = kind if kind in KINDS else ""
    number = min(max(1, parse_digits(request.args.get("page", "")) or 1), MAX_PAGE)
    query = audit.list_entries(kind=kind or None, user=user or None)
    entries = list(query.limit(PAGE_SIZE + 1).offset((number - 1) * PAGE_SIZE))

    def url(page: int) -> str:
        parameters = {"user": user, "kind": kind, "page": str(page) if page > 1 else ""}
        return f"?{urlencode({name: value for name, value in parameters.items() if value})}"

    page = render_template(
        "audit.html",
        entries=[(entry, _details(entry.details)) for entry in entries[:PAGE_SIZE]],
        user_filter=user,
        kind_filter=kind,
        kinds=[("", "everything"), *((name, name) for name in KINDS)],
        previous=url(number - 1) if number > 1 else None,
        next_page=url(number + 1) if len(entries) > PAGE_SIZE and number < MAX_PAGE else None,
    )
    return make_response(page)


def _details(details: dict[str, Any] | None) -> str:
    shown = {name: value for name, value in (details or {}).items() if value not in (None, False)}
    return ", ".join(f"{name}: {_text(value)}" for name, value in shown.items())


def _text(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return " ".join(map(_text, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_text(item)}" for name, item in value.items())
    return str(value)
