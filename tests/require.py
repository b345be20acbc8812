"""The environment of a test run: parts of the machine that some tests need, and how long the tests may take.

A test that needs a missing part is skipped. If POLYJOB_TEST_REQUIRE names the part, the test fails instead.
"""

from __future__ import annotations

import os

import pytest

REQUIRE_VARIABLE = "POLYJOB_TEST_REQUIRE"
LONG_VARIABLE = "POLYJOB_TEST_LONG"


def is_long_run() -> bool:
    """Return whether the long versions of tests run, such as a death at every crash point."""
    return os.environ.get(LONG_VARIABLE) == "1"


def require_long_run(reason: str) -> None:
    """Skip the calling test in a short run, because it takes too long."""
    if not is_long_run():
        pytest.skip(f"needs {LONG_VARIABLE}=1: {reason}")


def required() -> set[str]:
    """Return the parts that must not be missing, such as `root` or `docker`."""
    return set(os.environ.get(REQUIRE_VARIABLE, "").replace(",", " ").split())


def require(part: str, is_available: bool, reason: str = "") -> None:
    """Skip the calling test if a part of the machine is missing, or fail it if POLYJOB_TEST_REQUIRE names the part."""
    if is_available:
        return
    text = f"needs {part}" + (f": {reason}" if reason else "")
    if part in required():
        pytest.fail(f"{text}, which {REQUIRE_VARIABLE} requires", pytrace=False)
    pytest.skip(text)


def require_root() -> None:
    require("root", os.geteuid() == 0, "the tests do not run as root")
