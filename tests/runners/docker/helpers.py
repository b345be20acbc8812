"""Helpers of the tests of the Docker runner."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import docker
import pytest
import requests

from tests.runners.harness import DockerHarness

on_podman_too = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)


def refusing(status: int, words: str = "not now") -> Any:
    """Return a replacement for a client method that raises an APIError with this status."""

    def refuse(*args: Any, **options: Any) -> Any:
        response = requests.Response()
        response.status_code = status
        raise docker.errors.APIError(words, response, words)

    return refuse


def build(harness: DockerHarness, *steps: str, **fields: Any) -> tuple[str, str]:
    """Build and return the artifact and the log."""
    log = io.BytesIO()
    artifact = harness.runner.build(dataclasses.replace(harness.build_spec(*steps), **fields), log, lambda: False)
    return str(artifact), log.getvalue().decode()


def output_of(harness: DockerHarness, cmd: str, artifact: str | None = None, **fields: Any) -> str:
    """Run a job that has to succeed, and return its log."""
    spec = harness.spec(cmd, **fields)
    handle = harness.runner.start(dataclasses.replace(spec, is_pinned=True), artifact)
    end = harness.end(handle)
    log = harness.log(spec, handle).decode()
    assert end.succeeded, (end, log)
    return log
