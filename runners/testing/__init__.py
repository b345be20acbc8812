"""The contract suite for runners, which needs only pytest. See docs/writing-a-runner.md.

A test module imports every test from `runners.testing.contract`, and defines the fixture `harness`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("runners.testing.contract", "runners.testing.harness")

from runners.testing.harness import CommandHarness, Harness, wait_for  # noqa: E402 - after the registration

__all__ = ["CommandHarness", "Harness", "wait_for"]
