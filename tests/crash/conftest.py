"""What the lives share with the runners' tests."""

from tests.runners.conftest import images

__all__ = ["images"]
