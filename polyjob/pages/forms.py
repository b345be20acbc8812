"""Read and check submitted forms: origin, CSRF token, user, and repeated submissions."""

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
from polyjob.auth import sessions
from polyjob.auth.sessions import CSRF_FIELD, WrongCsrfToken
from polyjob.db.models import Job, Project, Schedule
from polyjob.errors import Problem
from polyjob.services.idempotency import IdempotentRequest, ReplayedResponse

NOT_SIGNED_IN = "You are not signed in."
STALE_FORM = "This page was out of date, so nothing was changed. Check your entries below, and submit them again."
SUBMISSION_FIELD = "submission_id"
"""The hidden field that identifies a form. A form that is submitted twice has the same value both times."""
_SUBMISSION_ID = re.compile(r"[0-9a-f]{32}\Z")
_NOT_IN_PATHS = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass
class Form:
    """The fields of a submitted form."""

    fields: Mapping[str, str] = field(default_factory=dict)
    is_stale: bool = False
    """True if the CSRF token is missing or old. Such a form must change nothing; show it again."""

    def text(self, name: str) -> str:
        """Return a field with `\\n` line ends, which browsers send as `\\r\\n`; empty if there is no such field."""
        return self.fields.get(name, "").replace("\r\n", "\n").replace("\r", "\n")

    def word(self, name: str) -> str:
        """Return a field without surrounding whitespace."""
        return self.text(name).strip()


def require_identity() -> auth.Identity:
    """Return the identity of the signed-in user. Raises Unauthenticated, which is answered with the sign-in page."""
    identity = auth.current_identity()
    if identity is None:
        raise auth.Unauthenticated(NOT_SIGNED_IN)
    return identity


def read_form(*, keep_stale: bool = False) -> Form:
    """Return the submitted form.

    Raises ForeignOrigin if a page of another site sent it, and WrongCsrfToken if its CSRF token is missing or old. With
    `keep_stale`, returns a form with an old token, so that the page can show it again.
    """
    sessions.require_own_origin()
    return check_form(request.form, keep_stale=keep_stale)


def check_form(fields: MultiDict[str, str], *, keep_stale: bool = False) -> Form:
    """Return the form with these fields, after the same checks and errors as `read_form` except for the origin."""
    form = Form(fields.to_dict())
    try:
        sessions.require_csrf_token(form.fields.get(CSRF_FIELD, ""))
    except WrongCsrfToken:
        if not keep_stale:
            raise
        form.is_stale = True
    return form


# Repeated submissions.


def new_submission_id() -> str:
    return secrets.token_hex(16)


def create_idempotently(
    form: Form,
    project: Project,
    create: Callable[[IdempotentRequest | None], Job | Schedule],
    upload_digest: str | None = None,
) -> int:
    """Create a job or schedule, or find the one that an earlier submission of the same form created. Return its id.

    `upload_digest` identifies the files of the form.
    """
    submission_id = form.text(SUBMISSION_FIELD)
    if not _SUBMISSION_ID.match(submission_id):
        return int(create(None).id)
    fields = sorted((name, text) for name, text in form.fields.items() if name != CSRF_FIELD)
    digest = hashlib.sha256(json.dumps([request.path, fields, upload_digest]).encode()).hexdigest()
    key = f"form {submission_id} {digest[:32]}"
    idempotent = IdempotentRequest(require_identity().user, project, key, digest, lambda item: str(item.id))
    try:
        idempotent.check()
        return int(create(idempotent).id)
    except ReplayedResponse as replayed:
        return int(replayed.body)


# Responses.


def done(path: str, message: str, *, undo: str | None = None) -> AnyResponse:
    """Redirect to a page that shows the message once. With `undo`, a path, it has a button that posts there."""
    flash(message, undo or "message")
    return redirect(path, 303)


def local_path(text: str | None, default: str = "") -> str:
    """Return the text if it is a path on this server, else the default, which is the first page."""
    return text if text and _is_local(text) else default or f"{request.script_root}/"


def _is_local(path: str) -> bool:
    if not path.startswith(f"{request.script_root}/") or path.startswith("//") or _NOT_IN_PATHS.search(path):
        return False
    try:
        parts = urlsplit(path)
    except ValueError:
        return False
    return not (parts.scheme or parts.netloc)


def group_by_field(problems: list[Problem], field_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Return field name → messages. `field_of` maps a problem's pointer to a name, empty if no field fits."""
    messages: dict[str, list[str]] = {}
    for problem in problems:
        messages.setdefault(field_of(problem.pointer), []).append(problem.detail)
    return messages
