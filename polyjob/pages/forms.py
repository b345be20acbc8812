"""What a browser sends by a form: who sends it, what they typed, and that it comes from a page of this server."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flask import flash, redirect, request
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from polyjob.auth import identity as auth
from polyjob.auth import permissions, sessions
from polyjob.auth.sessions import CSRF_FIELD, Stale
from polyjob.db.models import Job, Project
from polyjob.errors import Problem
from polyjob.services.idempotency import IdempotentRequest, ReplayedResponse

STALE = (
    "This page was not up to date, so nothing was done. What you typed is still here: look at it, and send it again."
)
ONCE_FIELD = "once"
"""The name under which a form sends a text of its own, the same each time that it is sent."""
_ONCE = re.compile(r"[0-9a-f]{32}\Z")
_UNFIT_FOR_PATHS = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass
class Form:
    """The fields of a form, as they were typed."""

    fields: Mapping[str, str] = field(default_factory=dict)
    is_stale: bool = False
    """Whether it came without this session's token: then nothing may be done, and the form is shown again."""

    def text(self, name: str) -> str:
        """What was typed, its lines ended as everywhere but in forms; empty where there is no such field."""
        return self.fields.get(name, "").replace("\r\n", "\n").replace("\r", "\n")

    def word(self, name: str) -> str:
        """As `text`, without blanks around."""
        return self.text(name).strip()


def who_asks() -> auth.Identity:
    """Raises Unauthenticated, to which a page answers with the form to sign in."""
    identity = auth.current_identity()
    if identity is None:
        raise auth.Unauthenticated("Nobody is signed in.")
    return identity


def read_form(*, keep_stale: bool = False) -> Form:
    """The form that is sent. Raises Forbidden for one of another server's page, and Stale for one that only lacks the
    session's token; `keep_stale` has that one returned, to be shown again."""
    sessions.refuse_foreign()
    return checked(request.form, keep_stale=keep_stale)


def checked(fields: MultiDict[str, str], *, keep_stale: bool = False) -> Form:
    """As `read_form`, of fields that have been read."""
    form = Form(fields.to_dict())
    try:
        sessions.refuse_forgery(form.fields.get(CSRF_FIELD, ""))
    except Stale:
        if not keep_stale:
            raise
        form.is_stale = True
    return form


def project_for(operation: str, username: str, project_name: str, *, archived: bool = False) -> Project:
    """The project, for an operation of the API on what belongs to it. Raises as the API would refuse that."""
    identity = who_asks()
    permissions.check(operation, request.view_args or {}, identity)
    to_write = permissions.needs_writer(operation)
    return auth.find_project(identity.user, username, project_name, to_write=to_write, archived=archived)


# Once.


def new_once() -> str:
    return secrets.token_hex(16)


def create_idempotently(
    form: Form, project: Project, make: Callable[[IdempotentRequest | None], Job], code: str | None = None
) -> int:
    """The number of the job that `make` makes, or made when this very form was sent before. `code` stands for what was
    uploaded with it."""
    key = form.text(ONCE_FIELD)
    if not _ONCE.match(key):
        return int(make(None).id)
    typed = sorted((name, text) for name, text in form.fields.items() if name != CSRF_FIELD)
    digest = hashlib.sha256(json.dumps([request.path, typed, code]).encode()).hexdigest()
    once = IdempotentRequest(who_asks().user, project, f"form {key} {digest[:32]}", digest, lambda job: str(job.id))
    try:
        once.check()
        return int(make(once).id)
    except ReplayedResponse as before:
        return int(before.body)


# Answers.


def done(path: str, message: str, *, undo: str | None = None) -> AnyResponse:
    """Go to the page, which says the message once; with a button that posts to `undo`."""
    flash(message, undo or "message")
    return redirect(path, 303)


def local_path(text: str | None, default: str = "/") -> str:
    """The text where it is the path of a page of this server, else the default."""
    if not text or not text.startswith("/") or text.startswith("//") or _UNFIT_FOR_PATHS.search(text):
        return default
    try:
        parts = urlsplit(text)
    except ValueError:
        return default
    return default if parts.scheme or parts.netloc else text


def by_field(problems: list[Problem], field_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Name of the field → what is wrong with it; the name is empty for what is no one field's."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(field_of(problem.pointer), []).append(problem.detail)
    return found
