"""The runners: one for each backend that can run jobs. Nothing here imports polyjob's database, API or engine."""

from __future__ import annotations

from runners.registry import RUNNERS, load

__all__ = ["RUNNERS", "load"]
