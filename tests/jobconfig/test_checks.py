"""Most documents are checked and loaded on a short path, which agrees with the complete one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError

from polyjob.jobconfig import checks
from polyjob.jobconfig.checks import MAX_DOCUMENT_DEPTH, MAX_INTEGER_DIGITS, MAX_KEY_LENGTH
from polyjob.jobconfig.schema import CONFIG_SCHEMA

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\0") | st.just("\ud800")
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner))
WORDS = st.sampled_from(["run", "cmd", "true", "environment", "env_vars", "A", "termination", "timeout", "retry", "on",
                         "tags", "build", "image", "logging", "level", "INFO", "resources", "persistence", "data",
                         "name", "version", "times", "exit", "unknown"])  # fmt: skip
DOCUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-1, 300) | WORDS | st.just(""),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)


def nested(depth):
    return [nested(depth - 1)] if depth else []


@given(VALUES)
def test_short_check_accepts_only_valid_values(document):
    if checks._is_surely_valid(document):
        checker = checks._ValueChecker()
        checker.check(document, "", 0)
        assert checker.problems == []


@pytest.mark.parametrize(
    "document",
    [
        nested(MAX_DOCUMENT_DEPTH), {1: "a"}, {None: "a"}, ["a\0"], ["\ud800"], {"a" * (MAX_KEY_LENGTH + 1): 1},
        [10**MAX_INTEGER_DIGITS], [-(10**MAX_INTEGER_DIGITS)], [float("nan")], [float("inf")],
    ],
)  # fmt: skip
def test_short_check_leaves_limits_to_the_complete_one(document):
    assert not checks._is_surely_valid(document)


def test_short_check_accepts_an_ordinary_document():
    assert checks._is_surely_valid({"run": {"cmd": "true"}, "tags": ["a"], "ttl": 10, "is_managed": None})


def load(schema, document):
    """Return the loaded document with its order, or the messages of its errors."""
    try:
        return repr(schema.load(document))
    except ValidationError as error:
        return error.messages


@given(DOCUMENTS | DOCUMENTS.map(lambda document: document | {"run": {"cmd": "true"}}))
def test_short_load_equals_that_of_marshmallow(document):
    short = load(CONFIG_SCHEMA, document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyjob.jobconfig.fields.Section.load", Schema.load)
        assert load(CONFIG_SCHEMA, document) == short


def test_short_load_takes_an_ordinary_config(monkeypatch):
    monkeypatch.setattr(Schema, "_do_load", None)
    assert CONFIG_SCHEMA.load({"run": {"cmd": "true"}, "tags": [], "name": None}) == {"run": {"cmd": "true"}}
