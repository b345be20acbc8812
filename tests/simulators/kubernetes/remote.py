"""A cluster in a process of its own, whose methods can be called from here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

if TYPE_CHECKING:
    from tests.simulators.kubernetes.cluster import Cluster

ROOT = Path(__file__).resolve().parents[3]


class Quiet(SimpleXMLRPCRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Control:
    """Serves the public methods of a cluster on a separate port, which faults of the API do not affect."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.server = SimpleXMLRPCServer(("127.0.0.1", 0), Quiet, allow_none=True, logRequests=False)
        self.server.register_function(self.call, "call")
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def call(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self.cluster, name)
        return method(*arguments, **keywords) if callable(method) else method

    def __enter__(self) -> Control:
        self.thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Remote:
    """A `Cluster` in another process, with the same methods: `remote.evict("name")`."""

    def __init__(self, kubeconfig: Path, control: str, process: subprocess.Popen[str]) -> None:
        self.kubeconfig = kubeconfig
        self.control = control
        self.process = process

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            with ServerProxy(self.control, allow_none=True, use_builtin_types=True) as proxy:
                return proxy.call(name, list(arguments), keywords)

        return call


@contextlib.contextmanager
def start(state: Path, namespace: str = "default", seconds: float = 900) -> Iterator[Remote]:
    """Start a cluster that ends with the block, after `seconds`, and with this process."""
    command = [sys.executable, "-m", "tests.simulators.kubernetes", "--until-eof", "--seconds", str(seconds)]
    command += ["--state", str(state), "--namespace", namespace]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin and process.stdout
            fields = process.stdout.readline().split()
            assert len(fields) == 2, "the cluster did not start"
            yield Remote(Path(fields[0]), fields[1], process)
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
