"""Where a process may die: at the crash points of the code, and at each call to the Docker Engine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import docker


def die_at_points(die_at: str | None, passed: str | None) -> None:
    """Have this process die when it first comes by the crash point `die_at`; the names of the points that it comes by
    are written to the file `passed`."""

    def come_by(name: str) -> None:
        if passed is not None:
            with open(passed, "a") as file:
                file.write(f"{name}\n")
        if name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    for module in _modules_with("crash_point"):
        module.crash_point = come_by
    _come_by_calls(come_by)


def _come_by_calls(come_by: Callable[[str], None]) -> None:
    """Each call to the Docker Engine is a crash point, too: after it, and before it where it changes something."""
    send = docker.APIClient.send

    def counted(client: Any, request: Any, **options: Any) -> Any:
        name = f"engine-{request.method}-{_called(request.path_url)}"
        if request.method not in ("GET", "HEAD"):
            come_by(f"{name}:before")
        answer = send(client, request, **options)
        come_by(f"{name}:after")
        return answer

    docker.APIClient.send = counted


def _called(path: str) -> str:
    """What is called: of `/v1.41/containers/1f0c/start?t=1`, `container-start`."""
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
