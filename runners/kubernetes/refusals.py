"""What a refusal of the Kubernetes API server means for one job or build: whose fault it is, and if it can pass."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from runners.base import RunnerError, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes.api import Refused
from runners.machine_faults import is_machine_fault

OF_THE_SERVER = (401, 404, 408, 409, 410, 429, 502, 503, 504)
"""Statuses that blame polyjob's own access, or the API server: what is asked for does not matter."""
NO_RIGHT = re.compile(r'User "[^"]*" cannot \w+ resource')
QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>.*), used: .*, limited: (?P<limited>.*)")
_AMOUNT = re.compile(r"([0-9.]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]+))?")
_SCALES = {letter: Decimal(1000) ** -power for power, letter in enumerate(["", "m", "u", "n"])}
_SCALES |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_SCALES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def of_create(error: Refused) -> RunnerError:
    """Return the contract's error for a refused create of a pod.

    StartFailed for a pod that is wrong or too large, RunnerUnavailable where there is no room or no right for now, and
    RunnerRefused for what an admission or a quota that can never hold it says: that can be changed, but need not be."""
    text = f"The Kubernetes API server refuses the pod: {error}"
    if error.status in (400, 422) or error.is_too_large:
        return StartFailed(text)
    if error.status == 403 and "exceeded quota" in str(error):
        kind = RunnerRefused if exceeds_quota(str(error)) else RunnerUnavailable
        return kind(text)
    return of_one(error)


def of_one(error: Refused) -> RunnerError:
    """Return RunnerRefused for an answer about one pod that nothing else explains, else RunnerUnavailable."""
    text = f"The Kubernetes API server answers {error.status}: {error}"
    is_machine = error.status in OF_THE_SERVER or is_machine_fault(str(error))
    return RunnerUnavailable(text) if is_machine or NO_RIGHT.search(str(error)) else RunnerRefused(text)


def exceeds_quota(text: str) -> bool:
    """Whether a quota that refuses a pod would refuse it if it were empty, too."""
    match = QUOTA.search(text)
    if match is None:
        return False
    limited = _amounts(match["limited"])
    return any(amount > limited.get(name, amount) for name, amount in _amounts(match["requested"]).items())


def _amounts(text: str) -> dict[str, Decimal]:
    """The amounts of `name=quantity,…`; those that cannot be read are left out."""
    found = {}
    for item in text.split(","):
        name, _, quantity = item.strip().partition("=")
        match = _AMOUNT.fullmatch(quantity)
        if match is not None:
            try:
                found[name] = (Decimal(match[1]) * _SCALES[match[2] or ""]).scaleb(int(match[3] or 0))
            except InvalidOperation:
                continue
    return found
