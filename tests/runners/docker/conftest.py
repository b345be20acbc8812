"""Fixtures of the tests of the Docker runner."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runners.common.tarstream import build_context
from tests.runners.harness import IMAGE, DockerHarness


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> DockerHarness:
    harness: DockerHarness = request.getfixturevalue(getattr(request, "param", "docker"))
    return harness


@pytest.fixture
def other(harness: DockerHarness, tmp_path: Path) -> Iterator[DockerHarness]:
    """Another installation on the same Engine."""
    other = DockerHarness(tmp_path / "other")
    yield other
    other.close()


@pytest.fixture
def image(harness: DockerHarness) -> Iterator[Any]:
    """Return a function that builds an image from the test image and more lines of a Dockerfile."""
    name = f"polyjob-test-{harness.installation[:12]}:1"

    def make(*lines: str) -> str:
        context = build_context("\n".join([f"FROM {IMAGE}", *lines]), [])
        messages = list(
            harness.engine.build(fileobj=io.BytesIO(context), custom_context=True, tag=name, rm=True, decode=True)
        )
        assert "error" not in messages[-1], messages
        return name

    yield make
    for item in harness.runner.inventory().values():
        harness.runner.clean(item)
    harness.engine.remove_image(name, force=True)
