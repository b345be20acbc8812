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
from polyjob.auth import permissions, sessions
from polyjob.auth.sessions import CSRF_FIELD, WrongCsrfToken
from polyjob.db.models import Job, Project
from polyjob.errors import Problem
from polyjob.services.idempotency import IdempotentRequest, ReplayedResponse

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
    """Whether the CSRF token is missing or old. Such a form must be shown again and change nothing."""

    def text(self, name: str) -> str:
        """Return a field with `\\n` line ends, which browsers send as `\\r\\n`; empty if there is no such field."""
        return self.fields.get(name, "").replace("\r\n", "\n").replace("\r", "\n")

    def word(self, name: str) -> str:
        """Return a field without surrounding whitespace."""
        return self.text(name).strip()


def require_identity() -> auth.Identity:
    """Return the identity of the signed-in user. Raises Unauthenticated, which becomes the sign-in page."""
    identity = auth.current_identity()
    if identity is None:
        raise auth.Unauthenticated("Not signed in.")
    return identity


def read_form(*, keep_stale: bool = False) -> Form:
    """Return the submitted form.

    Raises Foreign if another site's page sent it, and Stale if its CSRF token is wrong. With `keep_stale`, a stale
    form is returned instead, so that it can be shown again.
    """
    sessions.require_own_origin()
    return check_form(request.form, keep_stale=keep_stale)


def check_form(fields: MultiDict[str, str], *, keep_stale: bool = False) -> Form:
    """Check the CSRF token of fields that were read already; see `read_form`."""
    form = Form(fields.to_dict())
    try:
        sessions.require_csrf_token(form.fields.get(CSRF_FIELD, ""))
    except WrongCsrfToken:
        if not keep_stale:
            raise
        form.is_stale = True
    return form


def project_for(operation: str, username: str, project_name: str, *, archived: bool = False) -> Project:
    """Return the project if the user may do this API operation in it. Raises the same errors as the API."""
    identity = require_identity()
    permissions.check(operation, request.view_args or {}, identity)
    to_write = permissions.needs_writer(operation)
    return auth.find_project(identity.user, username, project_name, to_write=to_write, archived=archived)


# Repeated submissions.


def new_submission_id() -> str:
    return secrets.token_hex(16)


def create_idempotently(
    form: Form,
    project: Project,
    make: Callable[[IdempotentRequest | None], Job],
    upload_digest: str | None = None,
) -> int:
    """Make a job, or find the job that an earlier submission of the same form made. Return its id.

    `upload_digest` identifies the files of the form.
    """
    submission_id = form.text(SUBMISSION_FIELD)
    if not _SUBMISSION_ID.match(submission_id):
        return int(make(None).id)
    fields = sorted((name, text) for name, text in form.fields.items() if name != CSRF_FIELD)
    digest = hashlib.sha256(json.dumps([request.path, fields, upload_digest]).encode()).hexdigest()
    key = f"form {submission_id} {digest[:32]}"
    idempotent = IdempotentRequest(require_identity().user, project, key, digest, lambda job: str(job.id))
    try:
        idempotent.check()
        return int(make(idempotent).id)
    except ReplayedResponse as replayed:
        return int(replayed.body)


# Responses.


def done(path: str, message: str, *, undo: str | None = None) -> AnyResponse:
    """Redirect to a page that shows the message once. With `undo`, a path, it has a button that posts there."""
    flash(message, undo or "message")
    return redirect(path, 303)


def local_path(text: str | None, default: str = "/") -> str:
    """Return the text if it is a path on this server, else the default."""
    if not text or not text.startswith("/") or text.startswith("//") or _NOT_IN_PATHS.search(text):
        return default
    try:
        parts = urlsplit(text)
    except ValueError:
        return default
    return default if parts.scheme or parts.netloc else text


def group_by_field(problems: list[Problem], field_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Return field name → messages. `field_of` maps a problem's pointer to a name, empty if no field fits."""
    messages: dict[str, list[str]] = {}
    for problem in problems:
        messages.setdefault(field_of(problem.pointer), []).append(problem.detail)
    return messages
