"""Let a process die at a crash point of the code, or at a call to the Docker Engine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import docker


def install_crash_points(die_at: str | None, passed: str | None) -> None:
    """Let this process die when it first passes the crash point `die_at`.

    The names of all passed points are written to the file `passed`.
    """

    def pass_point(name: str) -> None:
        if passed is not None:
            with open(passed, "a") as file:
                file.write(f"{name}\n")
        if name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    for module in _modules_with("crash_point"):
        module.crash_point = pass_point
    _instrument_docker_calls(pass_point)


def _instrument_docker_calls(pass_point: Callable[[str], None]) -> None:
    """Make each call to the Docker Engine a crash point: after it, and before it if it changes something."""
    send = docker.APIClient.send

    def counted(client: Any, request: Any, **options: Any) -> Any:
        name = f"engine-{request.method}-{_call_name(request.path_url)}"
        if request.method not in ("GET", "HEAD"):
            pass_point(f"{name}:before")
        answer = send(client, request, **options)
        pass_point(f"{name}:after")
        return answer

    docker.APIClient.send = counted


def _call_name(path: str) -> str:
    """Return the name of a call: `container-start` for `/v1.41/containers/1f0c/start?t=1`."""
    _, *parts = path.partition("?")[0].removeprefix("/v1.").split("/")
    if (
        parts[0] not in ("containers", "images", "networks")
        or parts[-1] in ("create", "prune")
        or parts[1:] == ["json"]
    ):
        return "-".join(parts)
    return "-".join([parts[0].removesuffix("s"), *parts[2:][-1:]])


def _modules_with(name: str) -> list[Any]:
    return [
        module
        for module in sys.modules.values()
        if getattr(module, "__name__", "").startswith("polyjob") and hasattr(module, name)
    ]
