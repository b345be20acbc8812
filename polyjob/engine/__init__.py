"""The engine: the one process that reconciles rows with backends. `run` is its only entry point."""

from polyjob.engine.main import run
from polyjob.engine_link import EngineRunning

__all__ = ["EngineRunning", "run"]
