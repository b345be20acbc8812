"""The objects that every part of the engine works with."""

from __future__ import annotations

from dataclasses import dataclass

from polyjob.clock import Clock
from polyjob.engine.call_pools import Calls
from polyjob.settings import Settings
from polyjob.storage.store import Store


@dataclass(frozen=True)
class Context:
    settings: Settings
    store: Store
    calls: Calls
    clock: Clock
    installation: str
    """The id of this installation. Runners put it on everything that they label."""
    secret: str
    """The key that signs the tokens of jobs."""
