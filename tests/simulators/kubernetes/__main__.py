"""Run a cluster as a process: print its kubeconfig, and serve the methods of `Cluster` to the parent process."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.simulators.kubernetes.cluster import Cluster
from tests.simulators.kubernetes.remote import Control


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.kubernetes", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the API; 0: any free one")
    parser.add_argument("--state", type=Path, help="folder of everything; default: a new one, removed at the end")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--seconds", type=float, default=3600, help="at most so long")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    over = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: over.set())
    with (
        _folder(options.state) as folder,
        Cluster(folder, options.port, options.namespace) as cluster,
        Control(cluster) as control,
    ):
        print(cluster.kubeconfig, control.url, flush=True)
        if options.until_eof:
            threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        over.wait(options.seconds)


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
