"""Templates: `{{ expression }}` in texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyjob.jobconfig.expressions import MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_OPERATIONS
from polyjob.jobconfig.template_filters import FILTERS, VALUE_COST, RenderBudget, RenderBudgetExceeded, TemplateError
from polyjob.jobconfig.templates import render
from tests.sampling import examples

VALUES = {
    "lr": 0.1, "n": 3, "name": "a b", "flag": True, "nothing": None, "layers": [1, {"size": 2}], "model": {"id": "m-1"},
    "dash-ed": "d", "s": "txt", "off": False, "ls": ["a", "b"], "e": [],
    "pair": [2, 1],
}  # fmt: skip


RENDERED = [
    ("plain", "plain"), ("", ""), ("{{ n }}", 3), ("{{n}}", 3), ("x {{ n }}", "x 3"), ("{{ lr }}{{ n }}", "0.13"),
    ("{{ flag }} {{ nothing }}.", "True None."), ("{{ nothing }}", None), ("{{ layers }}", [1, {"size": 2}]),
    ("-l {{ layers }}", "-l [1, {'size': 2}]"), ("{{ layers[1].size }}", 2), ("{{ layers.0 }}", 1),
    ("{{ model['id'] }}/{{ model.id }}", "m-1/m-1"), ("{{ layers[-1]['size'] }}", 2), ("{{ dash-ed }}", "d"),
    ("{{ name | upper }}", "A B"), ("{{ name | quote }}", "'a b'"), ("{{ nope | default('x') }}", "x"),
    ("{{ model.nope | default(7) | int }}", 7), ("{{ nothing | default('y') }}", "y"), ("{{ n | default(1) }}", 3),
    ("{{ layers | length }}", 2), ("{{ layers | tojson }}", '[1, {"size": 2}]'), ("{{ lr | round(0) }}", 0.0),
    ("{{ '7' | int }}", 7), ("{{ '7.9' | int }}", 7), ("{{ n | float }}", 3.0),
    ("{{ name | replace(' ', '-') }}", "a-b"),
    ("{{ n | string }}", "3"), ("{{ layers | string }}", "[1, {'size': 2}]"),
    ("{{ layers | join(',') }}", "1,{'size': 2}"), ("{{ ' x ' | trim }}", "x"), ("{{ '{{' }}", "{{"),
    ("{{ '}}' }} {{ \"it's\" }}", "}} it's"), (r"{{ 'a\'b' }}", "a'b"),
    (r"{{ ls | join('\n') }}", "a\nb"), (r"{{ 'a\tb\\n' }}", "a\tb\\n"), (r"{{ '\d' }}", r"\d"),
    ("}} ${#list} ${#a[@]} #} {%d {%s}{ # } {#", "}} ${#list} ${#a[@]} #} {%d {%s}{ # } {#"),
    ("{{ '{% if x %}' }} {{ '{# c #}' }}", "{% if x %} {# c #}"),
    ("--flag={{ flag }} --off={{ off }}", "--flag=True --off=False"), ('--x="{{ ls }}"', "--x=\"['a', 'b']\""),
    ("{{ n + 1 }}", 4), ("a{{ n + 1 }}", "a4"), ("{{ n - 1 }}", 2), ("{{ n-1 }}", 2), ("{{ 2*n }}", 6),
    ("{{ n / 2 }}", 1.5), ("{{ n // 2 }}", 1), ("{{ n % 2 }}", 1), ("{{ -n }}", -3), ("{{ 1 + 2 * n }}", 7),
    ("{{ (1 + 2) * n }}", 9), ("{{ s ~ n }}", "txt3"), ("{{ s ~ '-' ~ flag }}", "txt-True"),
    ("{{ s + '!' }}", "txt!"), ("{{ ls + ls }}", ["a", "b"] * 2),
    ("{{ ls | first }}", "a"), ("{{ ls | last }}", "b"), ("{{ s | first }}", "t"), ("{{ ls|first|upper }}", "A"),
    ('{{ "a" if flag else "b" }}', "a"), ('{{ "a" if off else "b" }}', "b"), ("{{ 1 if e else 2 }}", 2),
    ("{{ 1 if off else 2 if off else 3 }}", 3), ("{{ n / 0 if off else 1 }}", 1), ("{{ nope if off else 1 }}", 1),
    ("{{ 'x' if n == 3 else 'y' }}", "x"), ("{{ n > 2 and n <= 3 }}", True), ("{{ not flag }}", False),
    ("{{ off or s }}", "txt"), ("{{ 'a' in ls }}", True), ("{{ 'x' in s }}", True), ("{{ n != 3 }}", False),
    ("{{ ls[n - 2] }}", "b"), ("{{ ls | join }}", "ab"), ("{{ lr | round }}", 0.0),
    ("{{ '' | default(1, true) }}", 1),
    ("{{ -n | abs }}", -3), ("{{ (-n) | abs }}", 3), ("{{ s | capitalize }}", "Txt"), ("{{ name | title }}", "A B"),
    ("{{ ls | max }}", "b"), ("{{ ls | min }}", "a"), ("{{ none }}", None), ("{{ True }}", True),
    ("{{ 'A' | lower }}", "a"), ("{{ pair | sort }}", [1, 2]), ("{{ pair | sum }}", 3),
]  # fmt: skip
"""Texts, and what they render to with `VALUES`."""


@pytest.mark.parametrize(("text", "expected"), RENDERED)
def test_text_renders_to_the_value(text, expected):
    value = render(text, VALUES)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nope }}", "Unknown param `nope`; use one of: dash-ed, e, flag"),
        ("{{ model.nope }}", "no `nope` in"),
        ("{{ layers[9] }}", "no `9` in"),
        ("{{ n", "closing"),
        ("{{ }}", "not a valid expression"),
        ("{{ n n }}", "`n`"),
        ("{{ .Id }}", "{{ '{{' }}"),
        ("{{ n | nope }}", "Unknown filter `nope`; use one of: default, abs"),
        ("{{ n | upper(1) }}", "no argument"),
        ("{{ n | default }}", "takes a value"),
        ("{{ n + s }}", "`+` cannot be applied to '3' and 'txt'"),
        ("{{ s * 9 }}", "`*` cannot be applied"),
        ("{{ 9 * ls }}", "cannot"),
        ("{{ '%99999999d' % n }}", "`%` cannot be applied"),
        ("{{ n / 0 }}", "Division by zero"),
        ("{{ n % 0 }}", "by zero"),
        ("{{ nope + 1 }}", "Unknown param `nope`"),
        ("{{ 1 if nope else 2 }}", "Unknown param `nope`"),
        ("{{ 1 if n }}", "`else`"),
        ("{{ e | first }}", "cannot be applied"),
        ("{{ n | first }}", "cannot be applied"),
        ("{{ n ** 2 }}", "not a valid expression"),
        ("{{ n < s }}", "`<` cannot be applied"),
        ("{{ ls | sort | sum }}", "cannot be applied"),
        ("{{ (n }}", "`)`"),
        ("{{ n ~ }}", "a name"),
        ("{{ range(9) }}", "not a valid expression"),
        ("{{ s.upper() }}", "not a valid expression"),
        ("{{ ''.__class__ }}", "no `__class__`"),
        ("{% if flag %}yes{% endif %}", "only {{ … }}"),
        ("{# c #}", "only {{ … }}"),
        ("a {{- n }}", "{{ -n }}"),
        ("{{-n}}", "{{ -n }}"),
        ("{{- s -}}", "not supported"),
        ("{{ n }}{% x %}", "only {{ … }}"),
        ("{%- for x in y -%}", "only {{ … }}"),
        ("a {#c#} {{ n }}", "{{ '{#' }}"),
        ("{{ name | round(1) }}", "cannot be applied"),
        ("{{ n() }}", "`(`"),
        ("{{ model.__class__ }}", "no `__class__`"),
        ("{{ nope | upper }}", "Unknown param `nope`"),
        ("{{ n | length }}", "cannot be applied"),
        ("{{ n[ }}", "a name"),
        ("{{ 'nan' | float }}", "cannot be applied"),
        ("{{ '1e999' | float }}", "cannot be applied"),
        ("{{ '1e999' | int }}", "cannot be applied"),
        ("{{ name | replace('', 'x') }}", "cannot be applied"),
        ("{{ layers[" + "9" * 5000 + "] }}", "not a valid expression"),
    ],
)
def test_invalid_expression_error_names_the_fault(text, message):
    with pytest.raises(TemplateError) as refused:
        render(text, VALUES)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }} {{ x }}", "{{ x }}" * 1000, "{{ 'xxxxxxxxxx'" + " | replace('x', 'xxxxxxxxxx')" * 12 + " }}",
        "{{ '" + '"' + "'" + " | tojson" * 60 + " }}", '{{ "\'"' + " | quote" * 60 + " }}",
        "{{ many | join(' and ') }}",
        "{{ x | replace('y', '" + "z" * 100_000 + "') }}",
        "{{ x ~ x }}", "{{ x + x }}", "{{ many + many }}", "{{ many ~ many }}",
    ],
)  # fmt: skip
def test_length_of_a_rendered_text_is_limited(text):
    """The limit must apply before the text is created: the largest would have 10^13 characters."""
    with pytest.raises(TemplateError, match="200000 characters"):
        render(text, {"x": "y" * 150_000, "many": ["a"] * 100_000})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{{ " + "(" * (MAX_EXPRESSION_DEPTH + 1) + "n" + ")" * (MAX_EXPRESSION_DEPTH + 1) + " }}", "levels deep"),
        ("{{ " + "-" * 100_000 + "n }}", "levels deep"),
        ("{{ " + "x[" * 5000 + " }}", "levels deep"),
        ("{{ " + "n if " * 50_000 + " }}", "not a valid expression"),
        ("{{ " + "n if n else " * 5000 + "n }}", "levels deep"),
        ("{{ " + "n + " * (MAX_EXPRESSION_OPERATIONS + 1) + "n }}", "at most 100"),
        ("{{ " + "n ~ " * 50_000 + "n }}", "at most 100"),
        ("{{ n" + ".a" * 50_000 + " }}", "at most 100"),
        ("{{ " + "n and " * 50_000 + "n }}", "at most 100"),
        ("{{ b" + " * b" * 99 + " }}", "more than 300 digits"),
        ("{{ 1e9 }}", "not a valid expression"),
        ("{{ f * f }}", "not produce a finite number"),
    ],
)
def test_size_of_an_expression_is_limited(text, match):
    with pytest.raises(TemplateError, match=match):
        render(text, {"n": 1, "x": [1], "b": 10**15, "f": 1e300})


def test_operations_use_the_budget():
    budget = RenderBudget(10_000)
    with pytest.raises(RenderBudgetExceeded):
        for _ in range(100):
            render("{{ (x ~ 'a') == x }}", {"x": "y" * 99}, budget)


@pytest.mark.parametrize("digits", ["-999999999", "999999999", "1.5", "'1'"])
def test_digits_of_round_are_limited(digits):
    with pytest.raises(TemplateError, match="cannot be applied"):
        render(f"{{{{ n | round({digits}) }}}}", VALUES)
    assert render("{{ x | round(-2) }}", {"x": 1234}) == 1200


def test_budget_of_a_document_is_limited():
    budget = RenderBudget(1000 + 10 * VALUE_COST)
    for _ in range(10):
        assert render("{{ x }}", {"x": "y" * 99}, budget) == "y" * 99
    with pytest.raises(RenderBudgetExceeded):
        render("{{ x | lower | upper }}", {"x": "y" * 99}, budget)


def test_number_of_listed_names_is_limited():
    with pytest.raises(TemplateError) as refused:
        render("{{ x }}", {f"name{number}": 1 for number in range(1000)})
    assert str(refused.value).endswith("and 980 more.")
    assert len(str(refused.value)) < 500


@given(st.text(alphabet=" {}%#|.'\"()[]ab_0-1,\\$+~*/=<>", max_size=40))
@settings(max_examples=examples(1000))
def test_any_text_is_a_value_or_a_template_error(text):
    try:
        render(text, {"a": "{{ b }}", "b": [1]})
    except TemplateError:
        return


@given(st.text(max_size=50))
def test_inserted_values_are_not_rendered(text):
    assert render("<{{ x }}>", {"x": text}) == f"<{text}>"


def test_every_filter_is_tested():
    tested = {name for text, _ in RENDERED for name in re.findall(r"\|\s*(\w+)", text)}
    assert tested == {"default", *FILTERS}
