"""Read a Python literal as `repr` writes it, because some old clients send their configs in this form."""

from __future__ import annotations

import json
import re
from typing import Any

from polyjob.jobconfig.checks import MAX_DOCUMENT_VALUES, reject_duplicate_keys

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign>[][{}(),:])|(?P<number>-?[0-9][0-9.eE+-]*)|(?P<word>True|False|None)\b
    |[uU]?(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))\s*""",
    re.VERBOSE,
)
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
_JSON_SIGNS = {"(": "[", ")": "]"}
_ESCAPE = re.compile(
    r"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|(.?))""", re.DOTALL
)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


def parse_python_literal(text: str) -> Any:
    """Return the list or dictionary in the text. Raises ValueError.

    Each token is translated to JSON, and the result is read as JSON. Python's own parser is not used, because it takes
    quadratic time for some texts.
    """
    if text.lstrip()[:1] not in ("{", "["):
        raise ValueError("not a list or dictionary")
    position = 0
    tokens: list[str] = []
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > 4 * MAX_DOCUMENT_VALUES:
            raise ValueError("not a literal")
        position = match.end()
        token = _to_json(match)
        is_trailing_comma = tokens[-1:] == [","] and tokens[-2] not in ("[", "{")
        if token in ("]", "}") and is_trailing_comma:
            tokens.pop()
        tokens.append(token)
    return json.loads("".join(tokens), object_pairs_hook=reject_duplicate_keys)


def _to_json(token: re.Match[str]) -> str:
    if token["text"] is not None:
        return json.dumps(_ESCAPE.sub(_unescape, token["text"][1:-1]))
    if token["word"] is not None:
        return _JSON_WORDS[token["word"]]
    return _JSON_SIGNS.get(token["sign"], token["sign"]) or token["number"]


def _unescape(match: re.Match[str]) -> str:
    """Return the character of an escape. Raises ValueError for an escape that `repr` does not write."""
    digits = match[1] or match[2] or match[3]
    if digits:
        return chr(int(digits, 16))
    if match[4] not in _ESCAPED:
        raise ValueError("unknown escape")
    return _ESCAPED[match[4]]
