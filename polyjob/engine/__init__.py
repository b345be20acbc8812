"""The engine: the one process that brings rows and back ends together. `run` is all that others need."""

from polyjob.engine.main import run
from polyjob.engine_link import EngineRunning

__all__ = ["EngineRunning", "run"]
