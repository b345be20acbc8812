"""`{{ name }}` in texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyjob.schemas.templates import FILTERS, TemplateError, TooMuch, Work, render

VALUES = {
    "lr": 0.1, "n": 3, "name": "a b", "flag": True, "nothing": None, "layers": [1, {"size": 2}], "model": {"id": "m-1"},
    "dash-ed": "d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"), ("", ""), ("{{ n }}", 3), ("{{n}}", 3), ("x {{ n }}", "x 3"), ("{{ lr }}{{ n }}", "0.13"),
        ("{{ flag }} {{ nothing }}.", "true ."), ("{{ nothing }}", None), ("{{ layers }}", [1, {"size": 2}]),
        ("-l {{ layers }}", '-l [1, {"size": 2}]'), ("{{ layers[1].size }}", 2), ("{{ layers.0 }}", 1),
        ("{{ model['id'] }}/{{ model.id }}", "m-1/m-1"), ("{{ layers[-1]['size'] }}", 2), ("{{ dash-ed }}", "d"),
        ("{{ name | upper }}", "A B"), ("{{ name | quote }}", "'a b'"), ("{{ nope | default('x') }}", "x"),
        ("{{ model.nope | default(7) | int }}", 7), ("{{ nothing | default('y') }}", "y"), ("{{ n | default(1) }}", 3),
        ("{{ layers | length }}", 2), ("{{ layers | tojson }}", '[1, {"size": 2}]'), ("{{ lr | round(0) }}", 0.0),
        ("{{ '7' | int }}", 7), ("{{ '7.9' | int }}", 7), ("{{ n | float }}", 3.0),
        ("{{ name | replace(' ', '-') }}", "a-b"),
        ("{{ n | string }}", "3"), ("{{ layers | string }}", '[1, {"size": 2}]'),
        ("{{ layers | join(',') }}", '1,{"size": 2}'), ("{{ ' x ' | trim }}", "x"), ("{{ '{{' }}", "{{"),
        ("{{ '}}' }} {{ \"it's\" }}", "}} it's"), (r"{{ 'a\'b' }}", "a'b"),
        ("{% if x %} {# c #} }} ${#list}", "{% if x %} {# c #} }} ${#list}"),
    ],
)  # fmt: skip
def test_what_it_becomes(text, expected):
    found = render(text, VALUES)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{{ nope }}", "no parameter `nope`; there are: dash-ed, flag"), ("{{ model.nope }}", "no `model.nope`"),
        ("{{ layers[9] }}", "no `layers.9`"), ("{{ n", "closing"), ("{{ }}", "no expression"), ("{{ n n }}", "`n`"),
        ("{{ .Id }}", "{{ '{{' }}"), ("{{ n | nope }}", "no filter `nope`; there are: default, float"),
        ("{{ n | upper(1) }}", "no argument"), ("{{ n | default }}", "one argument"),
        ("{{ name | round(1) }}", "cannot work"),
        ("{{ n + 1 }}", "+"), ("{{ n() }}", "`(`"), ("{{ model.__class__ }}", "no `model.__class__`"),
        ("{{ nope | upper }}", "no parameter `nope`"), ("{{ n | length }}", "cannot work"), ("{{ n[ }}", "astray"),
        ("{{ 'nan' | float }}", "cannot work"), ("{{ '1e999' | float }}", "cannot work"),
        ("{{ '1e999' | int }}", "cannot work"), ("{{ name | replace('', 'x') }}", "cannot work"),
        ("{{ layers[" + "9" * 5000 + "] }}", "no expression"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text, word):
    with pytest.raises(TemplateError) as wrong:
        render(text, VALUES)
    assert word in str(wrong.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }} {{ x }}", "{{ x }}" * 1000, "{{ 'xxxxxxxxxx'" + " | replace('x', 'xxxxxxxxxx')" * 12 + " }}",
        "{{ '" + '"' + "'" + " | tojson" * 60 + " }}", '{{ "\'"' + " | quote" * 60 + " }}",
        "{{ many | join(' and ') }}",
        "{{ x | replace('y', '" + "z" * 100_000 + "') }}",
    ],
)  # fmt: skip
def test_a_text_has_an_end(text):
    """What none of these may do is make the text first and measure it then: the largest has 10^13 characters."""
    with pytest.raises(TemplateError, match="200000 characters"):
        render(text, {"x": "y" * 150_000, "many": ["a"] * 100_000})


@pytest.mark.parametrize("digits", ["-999999999", "999999999", "1.5", "'1'"])
def test_rounding_takes_no_time(digits):
    with pytest.raises(TemplateError, match="cannot work"):
        render(f"{{{{ n | round({digits}) }}}}", VALUES)
    assert render("{{ x | round(-2) }}", {"x": 1234}) == 1200


def test_a_document_has_an_end():
    work = Work(1000)
    for _ in range(9):
        assert render("{{ x }}", {"x": "y" * 99}, work) == "y" * 99
    with pytest.raises(TooMuch):
        render("{{ x | lower | upper }}", {"x": "y" * 99}, work)


def test_of_very_many_names_some_are_listed():
    with pytest.raises(TemplateError) as wrong:
        render("{{ x }}", {f"name{number}": 1 for number in range(1000)})
    assert str(wrong.value).endswith("and 980 more.")
    assert len(str(wrong.value)) < 500


@given(st.text(alphabet=" {}%#|.'\"()[]ab_0-1,\\$", max_size=40))
@settings(max_examples=1000)
def test_any_text_is_a_value_or_a_template_error(text):
    try:
        render(text, {"a": "{{ b }}", "b": [1]})
    except TemplateError:
        return


@given(st.text(max_size=50))
def test_what_is_put_in_is_never_read_again(text):
    assert render("<{{ x }}>", {"x": text}) == f"<{text}>"


def test_every_filter_is_tried_above():
    assert FILTERS.keys() == {
        "float", "int", "join", "length", "lower", "quote", "replace", "round", "string", "tojson", "trim", "upper",
    }  # fmt: skip
    assert render("{{ x | lower }}", {"x": "A"}) == "a"
