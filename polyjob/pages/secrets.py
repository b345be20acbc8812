"""Secrets on pages: a form stores one, and administrators have a page for those of the server."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, make_response, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.problems import status_of
from polyjob.api.request_context import me, settings
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.secrets import SecretBody
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project
from polyjob.errors import Conflict, Invalid, Unavailable
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form
from polyjob.services import job_secrets

blp = Blueprint("secrets", __name__)


def answer_secret_form(
    project: Project | None, path: str, page: Callable[[Form, dict[str, list[str]], int], AnyResponse]
) -> AnyResponse:
    """Create a secret of the project or of the server, or replace its value, and redirect to `path`.

    Without success, return `page(form, errors, status)`. That form never has the value, not even a refused one.
    """
    form = read_form(keep_stale=True)
    shown = Form({"secret": form.word("secret")})
    if form.is_stale:
        return page(shown, {"": [STALE_FORM]}, 403)
    try:
        value = load_body(SecretBody(), {"value": form.text("value")})["value"]
        secret = job_secrets.set_secret(project, me(), form.word("secret"), value, settings().data_dir)
    except Invalid as error:
        return page(shown, group_by_field(error.problems, _field_of), 400)
    except (Conflict, Unavailable) as error:
        return page(shown, {"secret": [str(error)]}, status_of(error))
    return done(path, f"The secret {secret.name} was stored.")


def _field_of(pointer: str) -> str:
    return "secret" if pointer == "/name" else pointer.strip("/")


@blp.get("/status/secrets")
@requires(Access.ADMINISTRATOR)
def server_secrets() -> AnyResponse:
    return _page(Form())


@blp.post("/status/secrets")
@requires(Access.ADMINISTRATOR)
def set_server_secret() -> AnyResponse:
    return answer_secret_form(None, url_for("pages.secrets.server_secrets"), _page)


@blp.post("/status/secrets/<name>/remove")
@requires(Access.ADMINISTRATOR)
def remove_server_secret(name: str) -> AnyResponse:
    read_form()
    job_secrets.delete(None, name)
    return done(url_for("pages.secrets.server_secrets"), f"The secret {name} was removed.")


def _page(form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template(
        "server_secrets.html", form=form, errors=errors or {}, secrets=list(job_secrets.list_secrets(None))
    )
    return make_response(page, status)
