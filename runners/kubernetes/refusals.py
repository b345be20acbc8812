"""The meaning of a refusal by the Kubernetes API server: whose fault it is, and whether it can pass."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation

from runners.base import HandleNotFound, RunnerError, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes.api import ApiRefused
from runners.machine_faults import is_machine_fault

SERVER_STATUSES = (401, 404, 408, 409, 410, 429, 502, 503, 504)
"""Statuses that blame polyjob's own access or the API server, whatever the request was."""
NO_PERMISSION = re.compile(r'User "[^"]*" cannot \w+ resource')
QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>.*), used: .*, limited: (?P<limited>.*)")
_QUANTITY = re.compile(r"([0-9.]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]+))?")
_SCALES = {letter: Decimal(1000) ** -power for power, letter in enumerate(["", "m", "u", "n"])}
_SCALES |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_SCALES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def unavailable(error: ApiRefused) -> RunnerError:
    """Return RunnerUnavailable: for requests that are not about one job."""
    return RunnerUnavailable(f"The Kubernetes API server answers {error.status}: {error}")


def of_one(error: ApiRefused) -> RunnerError:
    """Return RunnerRefused for a refusal about one pod that has no other explanation, else RunnerUnavailable."""
    text = f"The Kubernetes API server answers {error.status}: {error}"
    is_machine = error.status in SERVER_STATUSES or is_machine_fault(str(error))
    return RunnerUnavailable(text) if is_machine or NO_PERMISSION.search(str(error)) else RunnerRefused(text)


def of_create(error: ApiRefused) -> RunnerError:
    """Return the contract's error for a refused request to create a pod.

    - StartFailed: the pod is invalid or too large.
    - RunnerUnavailable: a quota has no room, or a permission is missing, for now.
    - RunnerRefused: an admission check refuses the pod, or a quota can never hold it. Somebody may change that.
    """
    text = f"The Kubernetes API server refuses the pod: {error}"
    if error.status in (400, 422) or error.is_too_large:
        return StartFailed(text)
    if error.status == 403 and "exceeded quota" in str(error):
        kind = RunnerRefused if exceeds_quota(str(error)) else RunnerUnavailable
        return kind(text)
    return of_one(error)


@contextlib.contextmanager
def translate_errors(translate: Callable[[ApiRefused], RunnerError] = unavailable) -> Iterator[None]:
    """Raise the errors of the runner contract for whatever the API server or this machine's files refuse."""
    try:
        yield
    except ApiRefused as error:
        raise translate(error) from None
    except OSError as error:
        raise RunnerUnavailable(f"The runner's own files cannot be used: {error}") from None


@contextlib.contextmanager
def translate_not_found() -> Iterator[None]:
    """Raise HandleNotFound if the API server does not find the pod."""
    try:
        yield
    except ApiRefused as error:
        if error.status != 404:
            raise
        raise HandleNotFound("The job's pod no longer exists.") from None


def exceeds_quota(text: str) -> bool:
    """Return whether a quota that refuses a pod would refuse it even if the quota were unused."""
    match = QUOTA.search(text)
    if match is None:
        return False
    limits = _quantities(match["limited"])
    return any(amount > limits.get(name, amount) for name, amount in _quantities(match["requested"]).items())


def _quantities(text: str) -> dict[str, Decimal]:
    """Parse `name=quantity,…`. Invalid quantities are left out."""
    quantities = {}
    for item in text.split(","):
        name, _, quantity = item.strip().partition("=")
        match = _QUANTITY.fullmatch(quantity)
        if match is not None:
            try:
                quantities[name] = (Decimal(match[1]) * _SCALES[match[2] or ""]).scaleb(int(match[3] or 0))
            except InvalidOperation:
                continue
    return quantities
