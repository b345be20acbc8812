"""Keys of one's own: list, make, revoke."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from flask import Response, g, request

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, me
from polyjob.api.schemas.tokens import MadeTokenSchema, TokenBody, TokenRowSchema
from polyjob.auth import identity, users
from polyjob.auth.permissions import Access, requires
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.clock import now
from polyjob.db.models import Project, Token
from polyjob.errors import Forbidden, Invalid, NotFound, Problem
from polyjob.jobconfig.checks import check_values, deserialize

USER = {
    "name": "user",
    "in": "query",
    "description": "Whose; for administrators.",
    "schema": {"type": "string"},
}

blp = Blueprint("tokens", __name__, description="Keys of one's own.")


@blp.get("/tokens")
@blp.doc(parameters=[USER])
@blp.page(TokenRowSchema)
@requires(Access.ACCOUNT)
def list_tokens() -> dict[str, Any]:
    """List one's keys, the latest first; never the keys themselves"""
    owner = me()
    name = request.args.get("user")
    if name is not None and name != owner.username:
        if not owner.is_admin:
            raise Forbidden("Only administrators see the tokens of others.")
        owner = users.find(name)
    query = users.list_tokens(owner)
    return page(list(query.limit(limit()).offset(offset())), query.count())


@blp.post("/tokens")
@blp.reads(TokenBody, required=True)
@blp.may_conflict
@blp.response(201, MadeTokenSchema)
@requires(Access.ACCOUNT)
def create_token() -> Token:
    """Make a key; this answer is the only one that shows it"""
    return make(read_body())


@blp.delete("/tokens/<int:number>")
@blp.empty(204)
@requires(Access.ACCOUNT)
def revoke_token(number: int) -> Response:
    """Revoke a key: it is dead at once. Administrators revoke anybody's"""
    users.revoke_token(users.find_token(number, me()))
    return empty(204)


def make(body: Mapping[str, Any]) -> Token:
    """The key that the body asks for, for whoever asks; `token` of the row is the key itself. Raises Invalid, Forbidden
    and Conflict."""
    check_values(body)
    sent = deserialize(TokenBody(), body, "")
    if sent.get("name") is None:
        raise Invalid([Problem("/name", "This field is required.")])
    scope = Scope(sent.get("scope") or Scope.ADMIN)
    if not g.identity.scope.covers(scope):
        raise Forbidden(f"A token of scope `{g.identity.scope}` makes none of scope `{scope}`.")
    seconds = sent.get("expires_in")
    life = _within_makers(None if seconds is None else datetime.timedelta(seconds=seconds))
    row, key = users.create_token(me(), sent["name"], life, scope=scope, project=_asked_project(sent.get("project")))
    row.token = key
    return row


def _within_makers(life: datetime.timedelta | None) -> datetime.timedelta | None:
    """A key that expires makes none that outlives it; but one that was got for a password does as the password."""
    maker = g.identity.token
    if maker is None or maker.expires_at is None or maker.name == LOGIN_TOKEN_NAME:
        return life
    left: datetime.timedelta = maker.expires_at - now()
    return left if life is None else min(left, life)


def _asked_project(name: str | None) -> Project | None:
    if name is None:
        return None
    owner, dot, project = name.replace("/", ".").partition(".")
    try:
        return identity.find_project(me(), owner if dot else me().username, project if dot else owner, to_write=False)
    except NotFound:
        raise Invalid([Problem("/project", f"There is no project `{name}`.")]) from None
