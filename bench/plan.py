"""The plan of one run: the checkouts that are compared, and the size of each measurement."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from bench.servers import Checkout, Server, serve

T = TypeVar("T")
_numbers = itertools.count()


class NotMeasured(Exception):
    """A part that a group of rows needs is missing."""


@dataclasses.dataclass(frozen=True)
class Plan:
    checkouts: Mapping[str, Checkout]
    """`polyjob` and, if there is one, `baseline`."""
    folder: Path
    """The folder of all files of the run. Its disk is the one that is measured."""
    quick: bool = False

    def size(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def new_folder(self) -> Path:
        """Return a path that nothing uses yet. No path begins with another one, because processes are found by it."""
        return self.folder / f"{next(_numbers):06}"

    def serve(
        self, checkout: Checkout, runner: str = "process", **settings: str
    ) -> contextlib.AbstractContextManager[Server]:
        """Run a server of a checkout with an empty data folder."""
        return serve(checkout, self.new_folder(), runner, **settings)

    @contextlib.contextmanager
    def serve_all(self) -> Iterator[dict[str, Server]]:
        """Run a server of each checkout at the same time."""
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(self.serve(checkout)) for name, checkout in self.checkouts.items()}
