"""The rules in `termination` by which a failed job is retried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.base import Reason

DEFAULT_MAX_DELAY_SECONDS = 3600.0
"""Longest pause that a growing `delay` reaches, unless the rule sets `max_delay` or begins with a longer one."""


@dataclass(frozen=True)
class Retry:
    """The next attempt of a job that has failed."""

    delay: float
    """Seconds from the end of the failed attempt until the next one may start."""
    resumes: bool
    """Whether it begins with the outputs of the failed attempt."""


def next_retry(
    config: Mapping[str, Any] | None, retries: int, reason: str | None, exit_code: int | None
) -> Retry | None:
    """Return the next attempt of a job that has failed after so many retries, or None if it is not retried.

    The first rule that matches the failure decides.
    """
    if retries >= max_retries(config):
        return None
    for rule in _rules(config):
        if _matches(rule.get("on"), reason, exit_code):
            return _retry(rule, retries) if retries < rule["times"] else None
    return None


def max_retries(config: Mapping[str, Any] | None) -> int:
    """Return how often a job is retried at most, whatever its failures. 0 means never."""
    return max((rule["times"] for rule in _rules(config)), default=0)


def _rules(config: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Return the rules of a config, each with `times`. `max_retries` alone is a rule for every failure."""
    termination = (config or {}).get("termination") or {}
    limit, rules = termination.get("max_retries"), termination.get("retry")
    if rules is None:
        return [{"times": limit}] if limit else []
    return [
        {**rule, "times": rule.get("times", limit) if limit is None else min(limit, rule.get("times", limit))}
        for rule in rules
    ]


def _matches(conditions: Sequence[Mapping[str, Any]] | None, reason: str | None, exit_code: int | None) -> bool:
    """Return whether a failure meets one of the conditions. Without conditions, every failure but a build's does."""
    if not conditions:
        return reason != Reason.BUILD
    return any(
        condition["exit"] == exit_code if "exit" in condition else condition["reason"] == reason
        for condition in conditions
    )


def _retry(rule: Mapping[str, Any], retries: int) -> Retry:
    first = float(rule.get("delay", 0))
    longest = float(rule.get("max_delay", max(first, DEFAULT_MAX_DELAY_SECONDS)))
    delay = min(longest, first * float(rule.get("factor", 1)) ** retries)
    return Retry(delay, bool(rule.get("resume")))
