"""Parts of the machine that some tests need: a skip that names a missing one, a failure where it must be there."""

from __future__ import annotations

import os

import pytest

VARIABLE = "POLYJOB_TEST_REQUIRE"


def required() -> set[str]:
    """The parts that must be there, such as `root` or `docker`."""
    return set(os.environ.get(VARIABLE, "").replace(",", " ").split())


def require(part: str, is_there: bool, why: str = "") -> None:
    """Skip the calling test, or fail it where POLYJOB_TEST_REQUIRE names the part, unless the part is there."""
    if is_there:
        return
    text = f"needs {part}" + (f": {why}" if why else "")
    if part in required():
        pytest.fail(f"{text}, which {VARIABLE} says must be there", pytrace=False)
    pytest.skip(text)


def require_root() -> None:
    require("root", os.geteuid() == 0, "the tests do not run as root")
