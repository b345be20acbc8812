"""Fixtures of the runners' tests that the crash tests use."""

from tests.runners.conftest import images

__all__ = ["images"]
