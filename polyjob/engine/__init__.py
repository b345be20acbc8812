"""The engine: the one process that brings rows and back ends together. `run` is all that others need."""

from polyjob.engine.loop import run
from polyjob.lock import EngineRunning

__all__ = ["EngineRunning", "run"]
