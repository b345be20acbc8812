"""`{{ expression }}` in the texts of a config. Pure; `polyjob.jobconfig.expressions` has the grammar.

    {{ lr }}   {{ model.layers[0] }}   {{ n + 1 }}   {{ "on" if flag else "off" }}   {{ path | default("d") | quote }}

A text that is one expression and nothing else keeps the type of its value; in any other the value becomes text, as
Python's `str` has it. `{% … %}` and `{# … #}` are errors: they would pass as plain text otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from polyjob.jobconfig.expressions import evaluate
from polyjob.jobconfig.template_filters import MAX_RENDERED_LENGTH, RenderBudget, TemplateError, as_text, shorten

_OPENING = re.compile(r"\{\{|\{%|(?<!\$)\{#")
"""`${#list}` is the shell's."""
_CLOSING = {"{%": "%}", "{#": "#}"}


def has_template(text: str) -> bool:
    """Whether `render` may make something else of the text, or refuse it."""
    return _OPENING.search(text) is not None


def render(text: str, values: Mapping[str, Any], work: RenderBudget | None = None) -> Any:
    """Return the text with its expressions replaced. Raises TemplateError; TooMuch where `work` is used up."""
    work = work or RenderBudget()
    parts: list[Any] = []
    length = 0
    for part in _parts(text, values, work):
        parts.append(part)
        length += len(as_text(part))
        if length > MAX_RENDERED_LENGTH:
            raise TemplateError(f"The text has more than {MAX_RENDERED_LENGTH} characters once it is rendered.")
    return parts[0] if len(parts) == 1 else "".join(map(as_text, parts))


def _parts(text: str, values: Mapping[str, Any], work: RenderBudget) -> Iterator[Any]:
    """Plain texts, and the values of the expressions between them; no empty texts, but one where there is nothing."""
    at = plain = 0
    closings = {opening: text.rfind(closing) for opening, closing in _CLOSING.items()}
    while (opening := _OPENING.search(text, at)) is not None:
        if opening[0] != "{{":
            if closings[opening[0]] >= opening.end():  # `printf "{%d}"` is not a statement
                raise TemplateError(_no_statements(text, opening))
            at = opening.end()
            continue
        if opening.start() > plain:
            yield text[plain : opening.start()]
        value, at = evaluate(text, opening.start(), values, work)
        plain = at
        yield value
    if plain < len(text) or not text:
        yield text[plain:]


def _no_statements(text: str, opening: re.Match[str]) -> str:
    return (
        f"`{shorten(text[opening.start() :])}`: only {{{{ … }}}} is supported, not {{% … %}} and {{# … #}}."
        f" A plain `{opening[0]}` is written as {{{{ '{opening[0]}' }}}}."
    )
