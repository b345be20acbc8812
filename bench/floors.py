"""The floors: figures of the machine itself, without a job server."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.turns import per_second

PIECE = 1 << 20


def commits_per_second(folder: Path, seconds: float) -> float:
    """Return the commits of one row each that SQLite syncs to this disk in a second."""
    path = folder / "commits.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, config TEXT)")
        rate = per_second(lambda: connection.execute("INSERT INTO job (config) VALUES (?)", ("x" * 100,)), seconds)
    path.unlink()
    return rate


def spawns_per_second(seconds: float) -> float:
    """Return how many processes this machine starts and waits for in a second, one after the other."""
    return per_second(lambda: subprocess.run(["sh", "-c", "true"], check=True), seconds)


class Fifo:
    """A named pipe through which a job reports that it has reached a point, without delay on both sides."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    @property
    def command(self) -> str:
        """The shell command that writes one line. It starts no process."""
        return f"echo > {self.path}"

    def wait(self, seconds: float = 60.0) -> float:
        """Return the time at which the next line has come."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            raise TimeoutError(f"nothing was written to {self.path}")
        now = time.perf_counter()
        os.read(self.descriptor, 1024)
        return now

    def close(self) -> None:
        os.close(self.descriptor)
        self.path.unlink()


@contextlib.contextmanager
def fifo(path: Path) -> Iterator[Fifo]:
    opened = Fifo(path)
    try:
        yield opened
    finally:
        opened.close()


def pipe_ms(count: int) -> float:
    """Return the median milliseconds that a line takes through `cat`, from one pipe to another."""
    times = []
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(count):
            started = time.perf_counter()
            process.stdin.write(b"%d\n" % number)
            process.stdout.read(1024)
            times.append(time.perf_counter() - started)
            time.sleep(0.01)
        process.stdin.close()
    return statistics.median(times) * 1000


def read_speed(path: Path) -> float:
    """Return the MB per second at which a cached file is read."""
    buffer, size, started = bytearray(PIECE), 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        for count in iter(lambda: file.readinto(buffer) or 0, 0):
            size += count
    return size / (time.perf_counter() - started) / 1e6


def copy_speed(path: Path) -> float:
    """Return the MB per second at which a file is copied and synced."""
    target = path.with_name(f"{path.name}.copy")
    started = time.perf_counter()
    shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file)
    took = time.perf_counter() - started
    target.unlink()
    return path.stat().st_size / took / 1e6
