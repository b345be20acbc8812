"""Params of a config, and configs as text."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from polyjob.errors import Invalid
from polyjob.jobconfig.parsing import add_line_numbers, parse_content
from polyjob.jobconfig.validation import load_build_config, load_config
from polyjob.jobconfig.yaml_loader import line_numbers
from tests.sampling import examples


def problems(act):
    with pytest.raises(Invalid) as refused:
        act()
    return [(problem.pointer, problem.detail) for problem in refused.value.problems]


def config(**parts):
    return {"run": {"cmd": "true"}} | parts


class TestParams:
    def test_every_text_is_rendered(self):
        loaded = load_config(
            {
                "params": {"lr": 0.5, "image": "python:3", "cpus": 2, "steps": ["a", "b"], "name": "n-1"},
                "name": "{{ name }}", "tags": ["lr-{{ lr }}"],
                "build": {"image": "{{ image }}", "build_steps": "{{ steps }}"},
                "run": {"cmd": ["train --lr {{ lr }}", "echo {{ name | upper }}"]},
                "environment": {"env_vars": {"LR": "{{ lr }}"}, "resources": {"cpu": {"limits": "{{ cpus }}"}}},
            }
        )  # fmt: skip
        assert loaded["run"]["cmd"] == ["train --lr 0.5", "echo N-1"]
        assert (loaded["name"], loaded["tags"]) == ("n-1", ["lr-0.5"])
        assert loaded["build"] == {"image": "python:3", "build_steps": ["a", "b"]}
        assert loaded["environment"]["env_vars"] == [["LR", "0.5"]]
        assert loaded["environment"]["resources"]["cpu"]["limits"] == 2
        assert loaded["params"]["lr"] == 0.5

    @pytest.mark.parametrize("text", ["echo ${#list}", "docker inspect -f '{{.Id}}' x", "{{ name }}", "{% x %}"])
    def test_config_without_params_is_not_rendered(self, text):
        assert load_config(config(run={"cmd": text}))["run"]["cmd"] == text
        assert load_config(config(run={"cmd": text}, params={}))["run"]["cmd"] == text

    @pytest.mark.parametrize("text", ["{% if x %}a{% endif %}", "{# note #}", "{{ x }}{%- endif -%}"])
    @pytest.mark.parametrize("place", ["cmd", "build_steps", "env_vars"])
    def test_statements_and_comments_are_refused_with_params(self, text, place):
        parts = {
            "cmd": {"run": {"cmd": text}},
            "build_steps": {"build": {"build_steps": [text]}},
            "env_vars": {"environment": {"env_vars": {"A": text}}},
        }[place]
        ((pointer, detail),) = problems(lambda: load_config(config(params={"x": 1}) | parts))
        assert place in pointer
        assert "is supported" in detail

    @pytest.mark.parametrize(("value", "text"), [(True, "True"), (3.5, "3.5"), (None, "None"), ("a", "a")])
    def test_variable_gets_a_param_as_text(self, value, text):
        for variables in ({"A": "{{ x }}"}, [["A", "{{ x }}"]]):
            loaded = load_config(config(params={"x": value}, environment={"env_vars": variables}))
            assert loaded["environment"]["env_vars"] == [["A", text]]
        pairs = config(params={"p": [["A", "1"]]}, environment={"env_vars": "{{ p }}"})
        assert load_config(pairs)["environment"]["env_vars"] == [["A", "1"]]

    def test_braces_of_the_shell_are_kept(self):
        cmd = "echo ${#list[@]} ${x} $(({{ n }}+1)) {{ '{{' }}.Id}}"
        assert (
            load_config(config(params={"n": 1}, run={"cmd": cmd}))["run"]["cmd"]
            == "echo ${#list[@]} ${x} $((1+1)) {{.Id}}"
        )

    def test_declarations_are_an_old_name_of_params(self):
        loaded = load_config(config(declarations={"x": 1}, run={"cmd": "echo {{ x }}"}))
        assert (loaded["run"]["cmd"], loaded["params"]) == ("echo 1", {"x": 1})
        assert (
            problems(lambda: load_config(config(declarations={"x": 1}, params={"x": 1})))[0][0]
            == "/config/declarations"
        )

    def test_every_problem_has_its_pointer(self):
        document = config(
            params={"a": 1}, run={"cmd": ["{{ b }}", "{{ a }}", "{{ c"]}, environment={"env_vars": {"X": "{{ d }}"}}
        )
        faults = problems(lambda: load_config(document))
        assert [pointer for pointer, _ in faults] == [
            "/config/run/cmd/0",
            "/config/run/cmd/2",
            "/config/environment/env_vars/X",
        ]
        assert faults[0][1] == "Unknown param `b`; use one of: a."

    @pytest.mark.parametrize(
        ("params", "pointer"),
        [([1], "/config/params"), ({"a b": 1}, "/config/params/a b"),
        ({"x": "{{ jobs.3.outputs.loss }}"}, "/config/params/x"),
         ({"x": "{{ ops.a.b }}"}, "/config/params/x")],
    )  # fmt: skip
    def test_invalid_params_are_refused(self, params, pointer):
        assert [faults for faults, _ in problems(lambda: load_config(config(params=params)))] == [pointer]

    def test_declarations_may_be_empty(self):
        assert load_config(config(declarations={})) == load_config(config())

    def test_size_of_all_params_is_limited(self):
        assert problems(lambda: load_config(config(params={"x": "é" * 20_000}))) == [
            ("/config/params", "Longer than 100000 bytes as JSON, including defaults.")
        ]
        assert load_config(config(params={"x": "é" * 16_000}))

    def test_size_of_the_rendered_config_is_limited(self):
        many = {str(number): "{{ x }}" for number in range(500)}
        ((pointer, detail),) = problems(
            lambda: load_config(config(params={"x": "y" * 50_000}, environment={"affinity": many}))
        )
        assert pointer == "/config/environment/affinity/39"
        assert "2000000 characters" in detail

    def test_number_of_problems_is_limited(self):
        many = {str(number): "{{ nope }}" for number in range(500)}
        assert len(problems(lambda: load_config(config(params={"x": 1}, environment={"affinity": many})))) == 100

    def test_depth_of_the_rendered_config_is_limited(self):
        value = "x"
        for _ in range(30):
            value = [value]
        document = config(params={"x": value}, environment={"affinity": {"a": ["{{ x }}"]}})
        assert load_config(document)
        deep = "{{ x }}"
        for _ in range(30):
            deep = [deep]
        faults = problems(lambda: load_config(config(params={"x": value}, environment={"affinity": {"a": deep}})))
        assert "deeper" in faults[0][1]

    def test_config_of_a_build_is_rendered(self):
        loaded = load_build_config({"kind": "build", "params": {"v": "3.12"}, "image": "python:{{ v }}"})
        assert loaded["build"] == {"image": "python:3.12"}


class TestInputs:
    def load(self, inputs, params=None, cmd="run {{ x }}"):
        return load_config(config(inputs=inputs, params=params, run={"cmd": cmd}))["run"]["cmd"]

    @pytest.mark.parametrize(
        ("item", "value", "expected"),
        [
            ({"type": "int"}, "3", "run 3"), ({"type": "float"}, 1, "run 1.0"), ({"type": "bool"}, "yes", "run True"),
            ({"type": "str"}, 3, "run 3"), ({"type": "list"}, "[1]", "run [1]"),
            ({"type": "dict"}, {"a": 1}, "run {'a': 1}"),
            ({"type": "int", "is_list": True}, ["1", 2], "run [1, 2]"),
            ({"type": "bool", "is_flag": True}, True, "run --x"),
            ({"type": "bool", "is_flag": True}, False, "run "), ({"options": [1, 2]}, 2, "run 2"),
            ({"type": "float", "options": [1, 2]}, 2, "run 2.0"), ({"options": [[1], {"a": 1}]}, [1], "run [1]"),
            ({"type": "str", "is_list": True, "options": ["a", "b"]}, ["b", "a"], "run ['b', 'a']"),
            ({"is_optional": True, "default": 5}, None, "run 5"),
            ({}, "any", "run any"),
            ({"type": "dict_of_dicts"}, {"a": {}}, "run {'a': {}}"), ({"type": "path"}, "/x", "run /x"),
        ],
    )  # fmt: skip
    def test_value_is_converted_to_the_type(self, item, value, expected):
        assert self.load([{"name": "x"} | item], {"x": value}) == expected

    def test_optional_input_has_a_default_or_nothing(self):
        assert self.load([{"name": "x", "is_optional": True, "default": 5, "type": "int"}]) == "run 5"
        assert self.load([{"name": "x", "is_optional": True}]) == "run None"
        assert self.load([{"name": "x", "is_optional": True, "type": "bool", "is_flag": True}]) == "run "

    @pytest.mark.parametrize(
        ("item", "params", "pointer", "word"),
        [
            ({}, {}, "/config/params", "The input `x` is required; set it in `params`."),
            ({}, {"x": 1, "y": 2}, "/config/params/y", "neither an input nor an output"),
            ({}, {"x": None}, "/config/params", "The input `x` is required; set it in `params`."),
            ({"is_list": True, "options": [1]}, {"x": [1, 2]}, "/config/params/x", "`2` is not one of the options: 1"),
            ({"type": "int"}, {"x": "a"}, "/config/params/x", "The value `a` does not have the type int"),
            ({"type": "int"}, {"x": 1.5}, "/config/params/x", "not a whole number"),
            ({"type": "bool"}, {"x": "maybe"}, "/config/params/x", "neither true nor false"),
            ({"type": "str"}, {"x": [1]}, "/config/params/x", "not text"),
            ({"type": "list"}, {"x": "{}"}, "/config/params/x", "not a list"),
            ({"type": "dict_of_dicts"}, {"x": {"a": 1}}, "/config/params/x", "object of objects"),
            ({"options": ["a"]}, {"x": "b"}, "/config/params/x", "not one of the options: a"),
            ({"default": 1}, {"x": 1}, "/config/inputs/0/default", "is_optional"),
            ({"is_flag": True}, {"x": 1}, "/config/inputs/0/is_flag", "bool"),
            ({"type": "nope"}, {"x": 1}, "/config/inputs/0/type", "is not a type"),
            ({"colour": 1}, {"x": 1}, "/config/inputs/0/colour", "Unknown key"),
            ({"is_list": "x"}, {"x": 1}, "/config/inputs/0/is_list", "Neither true nor false"),
            ({"options": 3}, {"x": 1}, "/config/inputs/0/options", "Not a list"),
            ({"options": [1]}, {"x": True}, "/config/params/x", "not one of the options"),
            ({"options": [[1], {"a": 1}]}, {"x": [2]}, "/config/params/x", "not one of the options"),
            ({"type": ["int"]}, {"x": 1}, "/config/inputs/0/type", "is not a type"),
            ({"type": "float"}, {"x": "nan"}, "/config/params/x", "not a finite number"),
            ({"type": "metric"}, {"x": "1e999"}, "/config/params/x", "not a finite number"),
            ({"type": "list"}, {"x": "[" * 90_000}, "/config/params/x", "does not have the type list"),
            ({"name": "1x"}, {"x": 1}, "/config/inputs/0/name", "do not begin with a digit"),
            ({"name": "a b"}, {"x": 1}, "/config/inputs/0/name", "letters"),
        ],
    )  # fmt: skip
    def test_invalid_input_is_reported(self, item, params, pointer, word):
        faults = problems(lambda: self.load([{"name": "x"} | item], params))
        assert faults[0][0] == pointer
        assert word in faults[0][1]

    def test_inputs_are_objects_with_unique_names(self):
        assert problems(lambda: self.load({"x": 1}))[0][0] == "/config/inputs"
        assert problems(lambda: self.load([3]))[0][0] == "/config/inputs/0"
        assert problems(lambda: self.load([{"name": "x"}, {"name": "x"}], {"x": 1}))[0] == (
            "/config/inputs/1/name", "The name `x` comes twice.",
        )  # fmt: skip

    def test_outputs_are_checked_without_inputs(self):
        assert problems(lambda: load_config(config(outputs=[{"colour": 1}])))[0][0] == "/config/outputs/0/colour"
        assert load_config(config(outputs=[{"name": "loss"}]))["outputs"] == [{"name": "loss"}]

    def test_outputs_are_optional_params(self):
        document = config(
            inputs=[{"name": "x"}],
            outputs=[{"name": "loss", "type": "metric"}],
            params={"x": 1},
            run={"cmd": "{{ x }} {{ loss }}"},
        )
        assert load_config(document)["run"]["cmd"] == "1 None"
        assert load_config(document | {"params": {"x": 1, "loss": "2"}})["run"]["cmd"] == "1 2.0"


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few lines that expand to a thousand million texts."""
BASE = "a: &a {" + ", ".join(f"k{number}: 1" for number in range(9000)) + "}\n"
MERGES = BASE + "b:\n  <<: [" + ", ".join(["*a"] * 20_000) + "]\n"
"""100 kB that expand to 180 million keys."""
LONG = "a: &a '" + "x" * 100_000 + "'\nb: [" + ", ".join(["*a"] * 5_000) + "]\n"
"""A few values that expand to five hundred million characters."""
KEYS = st.sampled_from(["run", "cmd", "params", "inputs", "name", "type", "x"])


class TestTexts:
    def test_yaml_has_the_types_of_version_1_2(self):
        text = """
        run:
          cmd: echo $A
        environment:
          env_vars:
            ON: yes
            TIME: 1:30
            ZIP: 0123
            DAY: 2026-11-23
            N: 12
            F: 1e3
            T: true
        description: ~
        termination: {timeout: 1e3, grace: 12}
        """
        document = parse_content(text)
        assert document["environment"]["env_vars"] == {
            "ON": "yes", "TIME": "1:30", "ZIP": "0123", "DAY": "2026-11-23", "N": "12", "F": "1e3", "T": "true",
        }  # fmt: skip
        assert document["description"] is None
        assert document["termination"] == {"timeout": 1000.0, "grace": 12}
        assert load_config(document)["run"] == {"cmd": "echo $A"}

    def test_anchors_and_merge_keys_are_supported(self):
        document = parse_content("a: &x {k: 1}\nb: {<<: *x, l: 2}\nc: *x\n")
        assert document == {"a": {"k": 1}, "b": {"k": 1, "l": 2}, "c": {"k": 1}}

    def test_merge_keys_can_be_chained_and_overridden(self):
        document = parse_content("a: &a {k: 1}\nb: &b {<<: *a, k: 2}\nc: {<<: [*b, *a], k: 3}\nd: {<<: *b}\n")
        assert document == {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 3}, "d": {"k": 2}}

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("run: {cmd: a}\nrun: {cmd: b}\n", "the key `run` comes twice (line 2, column 1)"),
            ("run: [", "line 2"), ("run:\n\tcmd: a", "line 2"), ("a: !!python/object:os.system x", "line 1"),
            ("a: *b", "line 1"), ("a: !!set {x}", "the tag"), ("a: !!binary YQ==", "the tag"), ("! a: b", "the tag"),
            ('{"run": {"cmd": "a", "cmd": "b"}}', "the key `cmd` comes twice (line 1, column 22)"),
            ("{'a': None, 'a': 1}", "the key `a` comes twice"), ("a: !!bool maybe", "(line 1, column 4)"),
            ("a:\n- 1\n- " + "9" * 5000, "as int (line 3"), ("a: !!timestamp 2026-11-23", "the tag"),
            (MERGES, "too large"), (LONG, "too large"), ("&a {k: *a}", "contains itself"),
            ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)), "nested too deep"),
            ("a: &a [*a]", "too deep"), ("[" * 100_000, "nested too deep (line 1"),
            ("a:\n" + "- " * 50_000, "nested too deep"),
            (LAUGHS, "too large"), ("[" + "x," * 50_000 + "x]", "more than 20000 values"), ("x" * 530_000, "512 KiB"),
        ],
    )  # fmt: skip
    def test_invalid_text_error_names_the_position(self, text, word):
        ((pointer, detail),) = problems(lambda: parse_content(text))
        assert pointer == "/content"
        assert word in detail

    def test_problems_name_the_line(self):
        text = "run:\n  cmd: a\nbuild:\n  imag: x\n"
        wrong = problems(lambda: load_config(parse_content(text), "/content"))
        (faults,) = add_line_numbers([type("P", (), {"pointer": p, "detail": d})() for p, d in wrong], text, "/content")
        assert faults.detail.endswith("(line 4)")
        assert line_numbers(text)["/run/cmd"] == 2
        assert line_numbers("a: [") == {}

    @given(st.text(max_size=60))
    @settings(max_examples=examples(500))
    def test_any_text_is_a_document_or_invalid(self, text):
        try:
            parse_content(text)
        except Invalid:
            return

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(alphabet="ab{} |.", max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["run", "cmd", "params", "inputs", "name", "type", "x"]), inner, max_size=4
                )
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=examples(500))
    def test_any_document_is_a_config_or_invalid(self, document):
        for load in (load_config, load_build_config):
            try:
                load(document)
            except Invalid:
                continue

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text("abcxyz :#-'", max_size=8),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
            max_leaves=12,
        )
    )
    @settings(max_examples=examples(100))
    def test_dumped_yaml_is_read_back(self, document):
        assert parse_content(yaml.safe_dump(document)) == document
