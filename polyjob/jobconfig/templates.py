"""Templates: `{{ expression }}` in the texts of a config. Pure; `polyjob.jobconfig.expressions` has the grammar.

    {{ lr }}   {{ model.layers[0] }}   {{ n + 1 }}   {{ "on" if flag else "off" }}   {{ path | default("d") | quote }}

A text that consists of one expression gets the value with its type. In any other text, the value becomes text as by
Python's `str`. `{% … %}` and `{# … #}` are errors, because users of Jinja would not expect them to be plain text.

Jinja itself is not used: it would run code of users inside the server, and limits neither time nor memory. Here an
expression runs no code, and all work on a config is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from polyjob.jobconfig.expressions import evaluate
from polyjob.jobconfig.template_filters import MAX_RENDERED_LENGTH, RenderBudget, TemplateError, as_text, shorten

_OPENING = re.compile(r"\{\{|\{%|(?<!\$)\{#")
"""The shell has `${#list}`, so that is not the beginning of a comment."""
_CLOSING = {"{%": "%}", "{#": "#}"}


def has_template(text: str) -> bool:
    """Return whether the text may contain an expression, or something that `render` refuses."""
    return _OPENING.search(text) is not None


def render(text: str, values: Mapping[str, Any], budget: RenderBudget | None = None) -> Any:
    """Return the text with its expressions replaced by their values.

    Raises TemplateError, and RenderBudgetExceeded when `budget` is used up.
    """
    budget = budget or RenderBudget()
    parts: list[Any] = []
    length = 0
    for part in _parts(text, values, budget):
        parts.append(part)
        length += len(as_text(part))
        if length > MAX_RENDERED_LENGTH:
            raise TemplateError(f"The rendered text has more than {MAX_RENDERED_LENGTH} characters.")
    return parts[0] if len(parts) == 1 else "".join(map(as_text, parts))


def _parts(text: str, values: Mapping[str, Any], budget: RenderBudget) -> Iterator[Any]:
    """Yield the plain parts of the text and the values between them; an empty text yields itself."""
    position = plain_start = 0
    closings = {opening: text.rfind(closing) for opening, closing in _CLOSING.items()}
    while (opening := _OPENING.search(text, position)) is not None:
        if opening[0] != "{{":
            if closings[opening[0]] >= opening.end():  # `printf "{%d}"` is not a statement
                raise TemplateError(_statement_message(text, opening))
            position = opening.end()
            continue
        if opening.start() > plain_start:
            yield text[plain_start : opening.start()]
        value, position = evaluate(text, opening.start(), values, budget)
        plain_start = position
        yield value
    if plain_start < len(text) or not text:
        yield text[plain_start:]


def _statement_message(text: str, opening: re.Match[str]) -> str:
    return (
        f"`{shorten(text[opening.start() :])}`: only {{{{ … }}}} is supported, not {{% … %}} or {{# … #}}."
        f" Write a plain `{opening[0]}` as {{{{ '{opening[0]}' }}}}."
    )
