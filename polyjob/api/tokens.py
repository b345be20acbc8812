"""Tokens: list, create, revoke."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from flask import Response, g, request

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query
from polyjob.api.params import query_parameter
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, me, project_named
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.tokens import MadeTokenSchema, TokenBody, TokenRowSchema
from polyjob.auth import users
from polyjob.auth.permissions import Access, requires
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.clock import now
from polyjob.db.models import Token
from polyjob.errors import Forbidden, Invalid, Problem

USER = query_parameter("user", "Name of another user; for administrators.", type="string")

blp = Blueprint("tokens", __name__, description="Tokens of the current user.")


@blp.get("/tokens")
@blp.doc(parameters=[USER])
@blp.page(TokenRowSchema)
@requires(Access.ACCOUNT)
def list_tokens() -> dict[str, Any]:
    """List your tokens, latest first, without their secrets"""
    owner = me()
    name = request.args.get("user")
    if name is not None and name != owner.username:
        if not owner.is_admin:
            raise Forbidden("Only administrators can list the tokens of other users.")
        owner = users.find(name)
    query = users.list_tokens(owner)
    return page_of_query(query)


@blp.post("/tokens")
@blp.reads(TokenBody, required=True)
@blp.may_conflict
@blp.response(201, MadeTokenSchema)
@requires(Access.ACCOUNT)
def create_token() -> Token:
    """Create a token; only this response shows its secret"""
    return create_from_body(read_body())


@blp.delete("/tokens/<int:token_id>")
@blp.empty(204)
@requires(Access.ACCOUNT)
def revoke_token(token_id: int) -> Response:
    """Revoke a token; administrators can revoke those of other users, too"""
    users.revoke_token(users.find_token(token_id, me()))
    return empty(204)


def create_from_body(body: Mapping[str, Any]) -> Token:
    """Create the token that the body describes, for the current user. The row has the secret as `token`.

    Raises Invalid, Forbidden and Conflict.
    """
    fields = load_body(TokenBody(), body)
    if fields.get("name") is None:
        raise Invalid([Problem("/name", "This field is required.")])
    scope = Scope(fields.get("scope") or Scope.ADMIN)
    if not g.identity.scope.covers(scope):
        raise Forbidden(f"A token with the scope `{g.identity.scope}` cannot create one with the scope `{scope}`.")
    seconds = fields.get("expires_in")
    lifetime = _limit_lifetime(None if seconds is None else datetime.timedelta(seconds=seconds))
    project = project_named(fields.get("project"))
    row, secret = users.create_token(me(), fields["name"], lifetime, scope=scope, project=project)
    row.token = secret
    return row


def _limit_lifetime(lifetime: datetime.timedelta | None) -> datetime.timedelta | None:
    """Limit the lifetime to that of the token that creates the new one.

    Login tokens have no such limit, because their user could as well create the token with the password.
    """
    creator = g.identity.token
    if creator is None or creator.expires_at is None or creator.name == LOGIN_TOKEN_NAME:
        return lifetime
    remaining: datetime.timedelta = creator.expires_at - now()
    return remaining if lifetime is None else min(remaining, lifetime)
