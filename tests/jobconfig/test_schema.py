"""The job's config: supported keys, the stored form, and the errors."""

from __future__ import annotations

import contextlib
import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.errors import Invalid
from polyjob.jobconfig.checks import MAX_PROBLEMS
from polyjob.jobconfig.parsing import parse_content
from polyjob.jobconfig.python_literal import parse_python_literal
from polyjob.jobconfig.validation import load_config

RUN = {"run": {"cmd": "true"}}
HEAD = {"version": 1, "kind": "job"}


def refused(document, pointer="/config"):
    """Return the message of each problem by its pointer."""
    with pytest.raises(Invalid) as caught:
        load_config(document, pointer)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def environment(**members):
    return load_config(RUN | {"environment": members})["environment"]


def max_cpu_seconds():
    """Return the CPU time that a hostile document may take. Coverage makes everything several times slower."""
    return 2 if sys.gettrace() is None else 20


class TestConfig:
    def test_documented_config_is_not_changed(self):
        config = {
            "run": {"cmd": "python3 -u download_data.py"},
            "build": {"build_steps": ["pip3 install -U polyaxon-client"], "image": "tensorflow/tensorflow:1.4.1-py3"},
            "version": 1,
            "kind": "job",
        }
        assert load_config(config) == config

    def test_version_and_kind_are_optional(self):
        assert load_config(RUN) == HEAD | RUN
        assert load_config(RUN | {"version": 1.0}) == HEAD | RUN

    @pytest.mark.parametrize("version", [2, "1", True, 0, [1]])
    def test_another_version_is_refused(self, version):
        assert "/config/version" in refused(RUN | {"version": version})

    @pytest.mark.parametrize("kind", ["experiment", "build", 1])
    def test_another_kind_is_refused(self, kind):
        assert "/config/kind" in refused(RUN | {"kind": kind})

    @pytest.mark.parametrize("kind", ["experiment", "group", "notebook", "tensorboard"])
    @pytest.mark.parametrize("rest", [RUN, {"params": {"x": 1}, "hptuning": {"matrix": {}}}, {}])
    def test_kind_of_polyaxon_is_refused_with_one_problem(self, kind, rest):
        errors = refused({"kind": kind} | rest, "/content")
        assert list(errors) == ["/content/kind"]
        assert errors["/content/kind"].startswith("polyjob runs jobs, not ")
        assert errors["/content/kind"].endswith("Use `kind: job`.")

    @pytest.mark.parametrize("document", [None, [], "bar", 3, True])
    def test_config_must_be_an_object(self, document):
        assert list(refused(document)) == ["/config"]

    def test_null_counts_as_missing(self):
        full = {"name": None, "tags": None, "build": None, "environment": {"env_vars": None}, "termination": None}
        assert load_config(RUN | full) == HEAD | RUN
        assert "/config/run" in refused({"run": None})
        assert "/config/run/cmd" in refused({"run": {"cmd": None}})

    def test_empty_sections_are_dropped(self):
        assert load_config(RUN | {"build": {}, "environment": {"labels": {}, "tolerations": []}}) == HEAD | RUN

    def test_loading_is_idempotent(self):
        config = load_config(
            RUN | {"environment": {"env_vars": {"A": 1}, "resources": {"limits": {"memory": "1Gi"}}}, "tags": "a"}
        )
        assert load_config(config) == config
        assert load_config(json.loads(json.dumps(config))) == config

    def test_every_problem_is_reported_below_the_given_pointer(self):
        wrong = {
            "foo": 1,
            "bild": {},
            "build": {"steps": [], "build_steps": ["ok", 3]},
            "run": {"cmd": ""},
            "termination": {"timeout": "1h"},
        }
        errors = refused(wrong, "/content")
        assert errors.keys() == {
            "/content/foo", "/content/bild", "/content/build/steps", "/content/build/build_steps/1",
            "/content/run/cmd", "/content/termination/timeout",
        }  # fmt: skip
        assert errors["/content/foo"] == "Unknown key `foo`."
        assert errors["/content/bild"] == "Unknown key `bild`; did you mean `build`?"
        assert "build_steps" in errors["/content/build/steps"]

    def test_pointers_are_escaped(self):
        assert "/config/a~1b~0c" in refused(RUN | {"a/b~c": 1})

    @pytest.mark.parametrize(
        "document",
        [
            {"run": {"cmd": "a\0b"}},
            RUN | {"description": "\ud800"},
            RUN | {"environment": {"affinity": {"deep": ["\0"]}}},
            RUN | {"environment": {"affinity": {"n": float("inf")}}},
            RUN | {"environment": {"affinity": {"a\0": 1}}},
        ],
    )
    def test_values_that_cannot_be_stored_are_refused(self, document):
        assert refused(document)

    def test_deep_nesting_is_refused(self):
        deep = {}
        for _ in range(200):
            deep = {"a": deep}
        assert any("levels" in detail for detail in refused(RUN | {"environment": {"affinity": deep}}).values())

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["run", "cmd", "build", "env_vars", "environment", "resources", "x"]), inner
                )
            ),
            max_leaves=20,
        )
    )
    def test_any_document_is_loaded_or_refused(self, document):
        try:
            loaded = load_config(document)
        except Invalid as error:
            assert error.problems
        else:
            assert load_config(json.loads(json.dumps(loaded, allow_nan=False))) == loaded


class TestRun:
    @pytest.mark.parametrize("cmd", ["a && b", ["a"], ["a", "b  c\n d"]])
    def test_command_is_not_changed(self, cmd):
        assert load_config({"run": {"cmd": cmd}})["run"]["cmd"] == cmd

    @pytest.mark.parametrize("cmd", ["", " \n", [], 3, {"a": 1}, [3], ["a", 3], True])
    def test_invalid_command_is_refused(self, cmd):
        assert "/config/run/cmd" in refused({"run": {"cmd": cmd}})

    def test_blank_item_of_a_command_is_reported(self):
        assert list(refused({"run": {"cmd": ["a", " "]}})) == ["/config/run/cmd/1"]

    @pytest.mark.parametrize("run", ["text", ["a"], 3])
    def test_run_is_an_object(self, run):
        assert refused({"run": run}) == {"/config/run": "Not an object."}

    def test_run_is_required(self):
        assert "/config/run" in refused({"build": {"image": "a"}})

    def test_length_of_a_command_is_limited(self):
        assert "/config/run/cmd" in refused({"run": {"cmd": "é" * 60_001}})
        assert load_config({"run": {"cmd": "é" * 60_000}})


class TestBuild:
    def test_every_key_of_build_is_supported(self):
        build = {
            "image": f"host:5000/a/b:1@sha256:{'0a' * 32}", "build_steps": ["a", "b"],
            "env_vars": [["A", "1"]], "nocache": True,
            "commit": "c", "ref": 3, "branch": "b", "git": "g", "context": "c", "lang_env": "C.UTF-8", "backend": "x",
        }  # fmt: skip
        assert load_config(RUN | {"build": build})["build"] == build

    @pytest.mark.parametrize(
        "image",
        [
            "busybox",
            "a/b",
            "localhost/a",
            "Host:5000/a",
            "ghcr.io/a/b/c:V1.2-x",
            "a__b",
            "a--b",
            f"a@sha256:{'0' * 64}",
        ],
    )
    def test_image_name_is_accepted(self, image):
        assert load_config(RUN | {"build": {"image": image}})["build"]["image"] == image

    @pytest.mark.parametrize(
        "image",
        [
            "a b",
            "-v",
            "",
            "a\nb",
            "--privileged",
            "a;b",
            3,
            "UPPER",
            "a:b:c",
            "a@b",
            "a:",
            "a//b",
            "a/",
            ":1",
            "a_-b",
            "x" * 501,
        ],
    )
    def test_invalid_image_is_refused(self, image):
        assert "/config/build/image" in refused(RUN | {"build": {"image": image}})

    def test_image_and_dockerfile_exclude_each_other(self):
        assert list(refused(RUN | {"build": {"image": "a", "dockerfile": "D"}})) == ["/config/build/dockerfile"]

    @pytest.mark.parametrize("build", ["image", ["image"], 3])
    def test_build_is_an_object(self, build):
        assert list(refused(RUN | {"build": build})) == ["/config/build"]

    @pytest.mark.parametrize("steps", ["pip install x", [""], [["a"]], {"a": "b"}, ["x"] * 1001])
    def test_build_steps_are_a_list_of_texts(self, steps):
        assert any(
            key.startswith("/config/build/build_steps") for key in refused(RUN | {"build": {"build_steps": steps}})
        )

    @pytest.mark.parametrize(
        ("value", "step"), [("漢" * 30_000, "x" * 39_000), ("'" * 20_000, "x" * 29_000), ("x" * 99_000, "x" * 29_000)]
    )
    def test_size_of_a_build_step_includes_the_variables(self, value, step):
        build = {"env_vars": {"A": value}, "build_steps": ["true", step]}
        errors = refused(RUN | {"build": build})
        assert list(errors) == ["/config/build/build_steps/1"]
        assert "at most 128000" in errors["/config/build/build_steps/1"]
        assert load_config(RUN | {"build": build | {"build_steps": ["x" * 100_000], "env_vars": {"A": "1"}}})

    @pytest.mark.parametrize("nocache", ["yes", 2, "true"])
    def test_nocache_is_a_boolean(self, nocache):
        assert "/config/build/nocache" in refused(RUN | {"build": {"nocache": nocache}})


class TestVariables:
    @pytest.mark.parametrize("variables", [[["A", "1"], ["B", ""]], {"A": "1", "B": ""}, {"A": 1, "B": ""}])
    def test_pairs_and_mappings_become_pairs_of_text(self, variables):
        assert environment(env_vars=variables)["env_vars"] == [["A", "1"], ["B", ""]]

    def test_values_become_text(self):
        pairs = [["A", True], ["B", 1.5], ["C", -3]]
        assert environment(env_vars=pairs)["env_vars"] == [["A", "true"], ["B", "1.5"], ["C", "-3"]]

    @pytest.mark.parametrize(
        "pair",
        [
            ["A"],
            ["A", "b", "c"],
            "A=b",
            ["1A", "b"],
            ["A=", "b"],
            ["", "b"],
            [1, "b"],
            ["app.config", "b"],
            ["my-var", "b"],
            ["a b", "c"],
            ["é", "b"],
        ],
    )
    def test_invalid_pair_is_reported(self, pair):
        for section in ("environment", "build"):
            errors = refused(RUN | {section: {"env_vars": [["OK", "1"], pair]}})
            assert list(errors) == [f"/config/{section}/env_vars/1"]
            assert str(pair[0]) in errors[f"/config/{section}/env_vars/1"] or len(pair) != 2

    @pytest.mark.parametrize("value", [None, [], {}, "x" * 100_001])
    def test_invalid_value_is_reported_by_its_variable(self, value):
        assert list(refused(RUN | {"environment": {"env_vars": {"A": value}}})) == ["/config/environment/env_vars/A"]


class TestResources:
    @pytest.mark.parametrize(
        ("resources", "canonical"),
        [
            ({"cpu": {"limits": 2}}, {"cpu": {"limits": 2, "requests": None}}),
            ({"cpu": {"limits": "500m", "requests": 0.25}}, {"cpu": {"limits": 0.5, "requests": 0.25}}),
            ({"memory": {"limits": 512}}, {"memory": {"limits": 512, "requests": None}}),
            ({"memory": {"limits": "1Gi"}}, {"memory": {"limits": 1024, "requests": None}}),
            ({"memory": {"limits": "1G"}}, {"memory": {"limits": 953.674316, "requests": None}}),
            ({"gpu": {"limits": 1}, "tpu": None}, {"gpu": {"limits": 1, "requests": None}}),
            ({"gpu": {}}, {}),
            ({"pids": {"limits": 64}}, {"pids": {"limits": 64, "requests": None}}),
            (
                {"limits": {"cpu": "2", "memory": 1 << 30, "nvidia.com/gpu": 1}, "requests": {"memory": "256Mi"}},
                {
                    "cpu": {"limits": 2, "requests": None},
                    "memory": {"limits": 1024, "requests": 256},
                    "gpu": {"limits": 1, "requests": None},
                },
            ),
        ],
    )
    def test_every_spelling_has_one_canonical_form(self, resources, canonical):
        loaded = load_config(RUN | {"environment": {"resources": resources, "index": 1}})
        assert loaded["environment"].get("resources", {}) == canonical

    @pytest.mark.parametrize(
        ("resources", "pointer"),
        [
            ({"cpu": 2}, "/cpu"),
            ({"cpu": {"limits": -1}}, "/cpu/limits"),
            ({"cpu": {"limits": True}}, "/cpu/limits"),
            ({"cpu": {"limits": "1Gi"}}, "/cpu/limits"),
            ({"cpu": {"limit": 1}}, "/cpu/limit"),
            ({"memory": {"limits": "512"}}, "/memory/limits"),
            ({"memory": {"limits": "5x"}}, "/memory/limits"),
            ({"gpu": {"limits": 0.5}}, "/gpu/limits"),
            ({"pids": {"limits": 0}}, "/pids/limits"),
            ({"pids": {"limits": 1.5}}, "/pids/limits"),
            ({"pids": {"requests": 1}}, "/pids/requests"),
            ({"limits": {"pids": 5}, "requests": {"pids": 1}}, "/requests/pids"),
            ({"disk": {"limits": 1}}, "/disk"),
            ({"limits": {"disk": 1}}, "/limits/disk"),
            ({"limits": {"cpu": 1}, "cpu": {}}, "/cpu"),
            ({"cpu": {"limits": 1, "requests": 2}}, "/cpu/requests"),
            ("500m", ""),
        ],
    )
    def test_invalid_resource_is_reported(self, resources, pointer):
        errors = refused(RUN | {"environment": {"resources": resources}})
        assert list(errors) == [f"/config/environment/resources{pointer}"]


class TestOtherSections:
    def test_every_key_of_environment_is_supported(self):
        members = {
            "node_selector": {"a": "b"}, "affinity": {"x": {"y": [1]}}, "tolerations": [{"key": "k"}],
            "persistence": {"outputs": "o"}, "outputs": {"jobs": [1, "a.b"], "experiments": [2]},
            "secret_refs": ["s"], "configmap_refs": ["c"], "config_map_refs": ["c"], "data_refs": ["d"],
            "artifact_refs": ["a"], "max_restarts": 1, "service_account": "s", "image_pull_secrets": ["p"],
            "labels": {"l": "1"}, "annotations": {"a": "1"}, "index": 0,
            "workdir": "/home/ana/ü b",
        }  # fmt: skip
        assert environment(**members) == members

    @pytest.mark.parametrize(
        "folder", ["", "a", "~/a", "./a", "/a\nb", "/a\x7f", "/a\x9b", 5, ["/a"], f"/{'ü' * 2048}"]
    )
    def test_invalid_working_folder_is_refused(self, folder):
        assert list(refused(RUN | {"environment": {"workdir": folder}})) == ["/config/environment/workdir"]

    def test_termination_takes_seconds(self):
        termination = {"timeout": 1.5, "grace": 3, "ttl": 10, "max_retries": 0, "restart_policy": "never"}
        assert load_config(RUN | {"termination": termination})["termination"] == termination

    @pytest.mark.parametrize("key", ["timeout", "grace", "ttl", "max_retries"])
    @pytest.mark.parametrize("value", [-1, "10", True, 1e30])
    def test_invalid_time_is_refused(self, key, value):
        assert list(refused(RUN | {"termination": {key: value}})) == [f"/config/termination/{key}"]

    def test_tags_lose_repetitions_and_keep_their_order(self):
        assert load_config(RUN | {"tags": ["b", "a", "b"]})["tags"] == ["b", "a"]
        assert load_config(RUN | {"tags": "one"})["tags"] == ["one"]

    @pytest.mark.parametrize("tags", [[1], ["x" * 65], [""], {"a": 1}, 3])
    def test_invalid_tags_are_refused(self, tags):
        assert any(pointer.startswith("/config/tags") for pointer in refused(RUN | {"tags": tags}))

    @pytest.mark.parametrize("name", ["a b", "a.b", "", "é", "x" * 129, "a\n"])
    def test_invalid_name_is_refused(self, name):
        assert list(refused(RUN | {"name": name})) == ["/config/name"]

    @pytest.mark.parametrize("level", ["LOUD", "info", 3])
    def test_another_level_is_refused(self, level):
        assert list(refused(RUN | {"logging": {"level": level}})) == ["/config/logging/level"]


class TestContent:
    def test_json_is_parsed(self):
        assert parse_content('{"run": {"cmd": "a"}}') == {"run": {"cmd": "a"}}

    def test_python_literal_is_parsed(self):
        assert parse_content("{'run': {'cmd': ('a', None, True)}}") == {"run": {"cmd": ["a", None, True]}}

    @pytest.mark.parametrize(
        "text",
        ["bar", "", "{", "run: {cmd: a", "!!set {1, 2}", "b'x'", "__import__('os')", "1j", "[" * 5000, "(" * 5000],
    )
    def test_invalid_content_is_refused_at_its_pointer(self, text):
        with pytest.raises(Invalid) as caught:
            load_config(parse_content(text), "/content")
        assert [problem.pointer for problem in caught.value.problems] == ["/content"]

    @pytest.mark.parametrize(
        ("text", "document"),
        [
            ("{'a': 'it\\'s', u'b': \"\\u20ac\\x41\\n\"}", {"a": "it's", "b": "\u20acA\n"}),
            ("{'a': [1, -2.5, 1e-05,], 'b': (True,), }", {"a": [1, -2.5, 1e-05], "b": [True]}),
            ("[{}, [], (), None]", [{}, [], [], None]),
        ],
    )
    def test_python_literals_are_read_as_repr_writes_them(self, text, document):
        assert parse_content(text) == document

    @pytest.mark.parametrize(
        "text",
        ["[f'{1}']", "['a' 'b']", "[__import__('os')]", "[1 + 1]", "[b'x']", "[0xfff]", "[1, 1)]", "['\\d']", "[...]"],
    )
    def test_other_python_expressions_are_refused(self, text):
        with pytest.raises(ValueError):
            parse_python_literal(text)

    @pytest.mark.parametrize(
        "text",
        [
            '[f"' + "{1}" * 120_000 + '"]',
            "[" + "(1,)," * 100_000 + "]",
            "[" + "'x'," * 120_000 + "]",
            "{" + "'x': {" * 80_000,
            "a: !!int " + ":".join(["1"] * 100_000),
            "a: !!int 0x" + "f" * 100_000,
            "a: " + "1" * 400_000,
            "a: [" + "*a," * 100_000 + "]",
            "? " * 100_000,
            json.dumps({f"k{number}": 1 for number in range(40_000)}),
            json.dumps({"run": {f"k{number}": 1 for number in range(40_000)}}),
            json.dumps({"params": {f"k{number}": "{{" for number in range(40_000)}}),
            json.dumps({"tags": ["\0"] * 50_000}),
        ],
    )
    def test_hostile_texts_take_little_time(self, text):
        """Without an early limit, each of these texts took ten seconds and more."""
        begin = time.process_time()
        with pytest.raises(Invalid) as refused:
            read_job_create({"content": text})
        assert len(refused.value.problems) <= MAX_PROBLEMS
        assert time.process_time() - begin < max_cpu_seconds()

    @pytest.mark.parametrize(
        "config",
        [
            {f"k{number}": 1 for number in range(60_000)},
            {f"key{number}": 1 for number in range(900)},
            {"k" * 500_000: 1},
            {"x" * 600_000: 1},
            {"run": {"cmd": "x" * 600_000}},
            {"environment": {"affinity": {"a": [0] * 100_000}}},
            {"params": {f"k{number}": "{{ jobs.1.x }}" for number in range(60_000)}},
        ],
    )
    def test_hostile_objects_take_little_time(self, config):
        begin = time.process_time()
        with pytest.raises(Invalid) as refused:
            read_job_create({"config": config, "params": {f"p{number}": 1 for number in range(60_000)}})
        assert len(refused.value.problems) <= MAX_PROBLEMS
        assert all(len(problem.detail) < 1000 for problem in refused.value.problems)
        assert time.process_time() - begin < max_cpu_seconds()

    @pytest.mark.parametrize(
        "config",
        [
            {"run": {"cmd": "\r" * 400_000 + "x"}},
            {"build": {"build_steps": ["\r" * 100_000 + "x"]}},
            {"description": "{%" * 200_000, "params": {"a": 1}},
            {"description": "{#" * 200_000, "params": {"a": 1}},
            {"description": "{{ a[99999]|default(1) }}" * 20_000, "params": {"a": list(range(10_000))}},
            {"description": "{{a}}" * 100_000, "params": {"a": 1}},
            {"tags": ["{{ " + "a-" * 90 + "a }}"] * 1000, "params": {"a": 1}},
            {
                "inputs": [{"name": "a", "is_list": True, "options": [*range(1, 5000), 0]}],
                "params": {"a": "[" + "0," * 20_000 + "0]"},
            },
        ],
    )
    def test_hostile_commands_and_params_take_little_time(self, config):
        begin = time.process_time()
        with contextlib.suppress(Invalid):
            read_job_create({"config": RUN | config})
        assert time.process_time() - begin < max_cpu_seconds()

    @pytest.mark.parametrize(
        "affinity",
        [
            {"k" * 400_000: ["\0"] * 1000},
            {"k" * 400_000: {f"{number}\0": 1 for number in range(500)}},
            {"k" * 500: {"k" * 500: [float("inf")] * 1000}},
        ],
    )
    def test_errors_about_hostile_keys_are_short(self, affinity):
        with pytest.raises(Invalid) as refused:
            read_job_create({"run": {"cmd": "x"}, "environment": {"affinity": affinity}})
        assert sum(len(problem.pointer + problem.detail) for problem in refused.value.problems) < 200_000

    def test_unknown_keys_of_the_body_itself_take_little_time(self):
        begin = time.process_time()
        with pytest.raises(Invalid):
            read_job_create({"run": {"cmd": "x"}} | {f"k{number}": 1 for number in range(60_000)})
        assert time.process_time() - begin < max_cpu_seconds()

    @pytest.mark.parametrize("number", [10**300, -(10**4000), 16**5000], ids=["first", "negative", "unprintable"])
    @pytest.mark.parametrize(
        "place",
        [
            lambda number: {"params": {"x": number}},
            lambda number: {"environment": {"affinity": {"x": [number]}}},
            lambda number: {"environment": {"resources": {"cpu": {"limits": number}}}},
            lambda number: {"termination": {"timeout": number}},
            lambda number: {"environment": {"env_vars": {"A": number}}},
            lambda number: {"inputs": [{"name": "x", "type": "int", "is_optional": True, "default": number}]},
        ],
    )
    def test_number_of_digits_is_limited(self, number, place):
        assert "An integer has at most 300 digits." in refused(RUN | place(number)).values()

    @pytest.mark.parametrize("tag", ["!!int 0x" + "f" * 5000, "!!str 1", "!!float 1", "!x 1", "! 1"])
    def test_explicit_tags_are_refused(self, tag):
        for text in (f"params: {{x: {tag}}}", f"environment: {{resources: {{cpu: {{limits: {tag}}}}}}}"):
            with pytest.raises(Invalid, match="the tag"):
                parse_content(text)

    @pytest.mark.parametrize(
        "scalar", ["3.10", ".5", "5.", "0.1000000000000000055", "True", "1e3", "-0", "0x1F", "yes"]
    )
    @pytest.mark.parametrize(
        "layout",
        [
            "environment: {{env_vars: {{V: {}}}}}",
            "environment:\n  env_vars:\n  - [V, {}]\n",
            "x: &x {{env_vars: {{V: {}}}}}\nenvironment: {{<<: *x}}",
            "x: &x {{V: {}}}\nenvironment: {{env_vars: {{<<: *x}}}}",
        ],
    )
    def test_variables_keep_the_text_of_their_values(self, scalar, layout):
        variables = parse_content(layout.format(scalar))["environment"]["env_vars"]
        assert dict(variables.items() if isinstance(variables, dict) else variables) == {"V": scalar}

    def test_value_shared_with_a_variable_stays_a_number(self):
        document = parse_content("a: &n 1.50\nbuild: {env_vars: {V: *n}}\nb: *n")
        assert document == {"a": 1.5, "build": {"env_vars": {"V": "1.50"}}, "b": 1.5}
