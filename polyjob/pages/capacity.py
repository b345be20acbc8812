"""The form with which administrators change the slots and GPUs that jobs may use."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, make_response, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.request_context import settings
from polyjob.api.schemas.cluster import CapacityBody
from polyjob.api.schemas.common import load_body
from polyjob.auth.permissions import Access, requires
from polyjob.errors import Invalid
from polyjob.formatting import unknown_gpus_text
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form
from polyjob.services import capacity
from polyjob.services.capacity import Capacity

blp = Blueprint("capacity", __name__)


@blp.get("/status/capacity")
@requires(Access.ADMINISTRATOR)
def capacity_form() -> AnyResponse:
    return _page(Form(_fields(capacity.read(settings()))))


@blp.post("/status/capacity")
@requires(Access.ADMINISTRATOR)
def change_capacity() -> AnyResponse:
    """Change the capacity. An empty field restores its default."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _page(form, {"": [STALE_FORM]}, 403)
    slots = {name: _number(form.word(f"slots-{name}")) for name in settings().runner_names}
    gpus = form.word("gpus")
    words = [] if gpus == "none" else gpus.replace(",", " ").split()
    try:
        body = {"slots": slots, "gpus": list(map(_number, words)) if gpus else None}
        current = capacity.change(settings(), load_body(CapacityBody(), body))
    except Invalid as error:
        return _page(form, group_by_field(error.problems, _field_of), 400)
    unknown = sorted({*current.gpus} - {*settings().gpus})
    warning = f" {unknown_gpus_text(unknown)}" if unknown else ""
    return done(url_for("pages.server_status"), f"The slots and GPUs of jobs were changed.{warning}")


def _number(text: str) -> Any:
    """Return the number, None for an empty text, or any other text as it is, for the schema to refuse."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text or None


def _field_of(pointer: str) -> str:
    parts = pointer.strip("/").split("/")
    return "-".join(parts[:2]) if parts[0] == "slots" else parts[0]


def _fields(current: Capacity) -> dict[str, str]:
    """Return the entries of the form: only what differs from the defaults."""
    fields = {f"slots-{name}": str(number) for name, number in current.changes.slots.items()}
    if current.changes.gpus is not None:
        fields["gpus"] = ", ".join(map(str, current.changes.gpus)) or "none"
    return fields


def _page(form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template(
        "capacity.html",
        form=form,
        errors=errors or {},
        runners=[(name, settings().slots_of(name)) for name in settings().runner_names],
        default_gpus=", ".join(map(str, settings().gpus)) or "none",
    )
    return make_response(page, status)
