"""What every part of the engine works with."""

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
    """This polyjob's id: everything that a runner labels carries it."""
    secret: str
    """Key of the tokens that jobs get."""
