"""The rules by which a failed job is retried: their grammar, and what they decide."""

from __future__ import annotations

import pytest

from polyjob.errors import Invalid
from polyjob.jobconfig.parsing import parse_content
from polyjob.jobconfig.retry_rules import Retry, max_retries, next_retry
from polyjob.jobconfig.validation import load_config

AT_ONCE = Retry(0.0, resumes=False)


def load(**termination):
    return load_config({"version": 1, "kind": "job", "run": {"cmd": "true"}, "termination": termination})


def test_max_retries_alone_retries_every_failure_but_a_build():
    config = load(max_retries=2)
    assert max_retries(config) == 2
    assert [next_retry(config, number, "exited", 1) for number in range(3)] == [AT_ONCE, AT_ONCE, None]
    assert next_retry(config, 0, "lost", None) == AT_ONCE
    assert next_retry(config, 0, "build", None) is None


def test_job_without_rules_is_never_retried():
    assert next_retry(load(max_retries=0), 0, "exited", 1) is None
    assert next_retry(None, 0, "exited", 1) is None


def test_conditions_match_exit_code_or_reason():
    config = load(retry=[{"on": [{"exit": 75}, {"reason": "lost"}], "times": 1}])
    assert next_retry(config, 0, "exited", 75) == next_retry(config, 0, "lost", None) == AT_ONCE
    assert next_retry(config, 0, "exited", 1) is None


def test_first_matching_rule_decides():
    config = load(max_retries=5, retry=[{"on": [{"reason": "oom"}], "times": 0}, {"delay": 7}])
    assert next_retry(config, 0, "oom", 137) is None
    assert next_retry(config, 4, "exited", 1) == Retry(7.0, resumes=False)
    assert next_retry(config, 5, "exited", 1) is None


def test_failed_build_is_retried_if_a_rule_names_it():
    config = load(retry=[{"on": [{"reason": "build"}], "times": 1}])
    assert next_retry(config, 0, "build", None) == AT_ONCE


@pytest.mark.parametrize(
    ("rule", "delays"),
    [
        ({"delay": 10}, [10, 10, 10]),
        ({"delay": 10, "factor": 3}, [10, 30, 90]),
        ({"delay": 10, "factor": 3, "max_delay": 40}, [10, 30, 40]),
        ({"delay": 3000, "factor": 2}, [3000, 3600, 3600]),
        ({"delay": 9000, "factor": 2}, [9000, 9000, 9000]),
    ],
)
def test_pause_grows_by_factor_up_to_its_limit(rule, delays):
    config = load(retry=[rule | {"times": 100}])
    assert [next_retry(config, number, "exited", 1).delay for number in range(3)] == delays
    assert next_retry(config, 99, "exited", 1).delay == next_retry(config, 98, "exited", 1).delay or rule["delay"] == 10


def test_yaml_conditions_may_be_written_as_pairs():
    document = parse_content(
        "{version: 1, kind: job, run: {cmd: a},"
        " termination: {retry: [{on: [exit: 75, reason: lost], times: 3, resume: true}]}}"
    )
    assert load_config(document)["termination"]["retry"][0]["on"] == [{"exit": 75}, {"reason": "lost"}]


@pytest.mark.parametrize(
    ("termination", "pointer"),
    [
        ({"max_retries": 101}, "max_retries"),
        ({"max_retries": "3"}, "max_retries"),
        ({"retry": [{}]}, "retry/0/times"),
        ({"retry": [{"times": -1}]}, "retry/0/times"),
        ({"retry": [{"times": 1, "on": [{"reason": "sad"}]}]}, "retry/0/on/0/reason"),
        ({"retry": [{"times": 1, "on": [{"exit": 0}]}]}, "retry/0/on/0/exit"),
        ({"retry": [{"times": 1, "on": [{"exit": 1, "reason": "lost"}]}]}, "retry/0/on/0"),
        ({"retry": [{"times": 1, "on": [{}]}]}, "retry/0/on/0"),
        ({"retry": [{"times": 1, "on": {"exit": 1}}]}, "retry/0/on"),
        ({"retry": [{"times": 1, "delay": -1}]}, "retry/0/delay"),
        ({"retry": [{"times": 1, "factor": 0.5}]}, "retry/0/factor"),
        ({"retry": [{"times": 1, "factor": True}]}, "retry/0/factor"),
        ({"retry": [{"times": 1, "resume": "yes"}]}, "retry/0/resume"),
        ({"retry": [{"times": 1, "limit": 1}]}, "retry/0/limit"),
        ({"retry": [{"times": 1}] * 21}, "retry"),
        ({"retry": {"times": 1}}, "retry"),
    ],
)
def test_wrong_rule_is_refused_by_its_pointer(termination, pointer):
    with pytest.raises(Invalid) as refused:
        load(**termination)
    assert [problem.pointer for problem in refused.value.problems] == [f"/config/termination/{pointer}"]
