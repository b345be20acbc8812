"""Bytes from jobs to clients: one line to a follower, a large log, and large outputs."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.client import Client, Connection, prepare
from bench.floors import Fifo, copy_speed, fifo, pipe_ms, read_speed
from bench.peers import NGINX, is_installed, nginx
from bench.plan import Plan
from bench.rows import FLOOR, Row
from bench.servers import Server
from bench.turns import Figures, take_turns

LINE = "line printed → follower"
LOG = "download of a log"
OUTPUTS = "download of outputs"
PACKED = "packing of outputs, exit to terminal status"
READ = "read of the file"
COPY = "synced copy"
DOWNLOADS = 5


def rows(plan: Plan) -> list[Row]:
    files = plan.new_folder()
    files.mkdir()
    log_size, outputs_size = plan.size((200_000_000, 1_000_000_000), (50_000_000, 100_000_000))
    _write_lines(files / "log", log_size)
    _write_noise(files / "outputs", outputs_size)
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(plan.serve_all())
        line = _follower_row(plan, servers)
        signal = stack.enter_context(fifo(plan.new_folder()))
        subjects: dict[str, Callable[[], Figures]] = {
            name: functools.partial(_server, server, files, signal) for name, server in servers.items()
        }
        subjects[FLOOR] = functools.partial(_floors, files)
        if is_installed(NGINX):
            port = stack.enter_context(nginx(plan.new_folder(), files))
            subjects[NGINX] = functools.partial(_nginx, port)
        found = take_turns(plan.size(3, 1), subjects)
    table = [line]
    for name, size, floor in ((LOG, log_size, READ), (OUTPUTS, outputs_size, READ), (PACKED, outputs_size, COPY)):
        speed = found[name].get(NGINX)
        note = f"nginx: {speed:,.0f} MB/s" if speed else ""
        table.append(Row.of(f"{name} of {size // 1_000_000:,} MB", "MB/s", found[name], floor, note))
    return table


def _follower_row(plan: Plan, servers: dict[str, Server]) -> Row:
    count = plan.size(50, 20)
    with contextlib.ExitStack() as stack:
        subjects: dict[str, Callable[[], Figures]] = {FLOOR: lambda: {LINE: pipe_ms(count)}}
        for name, server in servers.items():
            source = stack.enter_context(fifo(plan.new_folder()))
            client = server.client()
            number = client.submit(f"exec cat {source.path}")
            client.await_status(number, "running")
            subjects[name] = functools.partial(_follow, server, client, number, source, count)
        found = take_turns(plan.size(3, 1), subjects)
    return Row.of(LINE, "ms", found[LINE], "through `cat`", "p50")


def _follow(server: Server, client: Client, number: int, source: Fifo, count: int) -> Figures:
    follower = Connection(server.port)
    follower.send(client.request("GET", f"/{number}/logs?follow=true&offset=0"))
    times = []
    for _ in range(count + 1):
        line = b"%d\n" % time.monotonic_ns()
        started = time.perf_counter()
        os.write(source.descriptor, line)
        received = b""
        while line not in received:
            received += follower.socket.recv(1 << 16)
        times.append(time.perf_counter() - started)
        time.sleep(0.02)
    follower.close()
    return {LINE: statistics.median(times[1:]) * 1000}


def _server(server: Server, files: Path, signal: Fifo) -> Figures:
    client = server.client()
    logged = client.run(f"cat {files / 'log'}")
    number = client.submit(f'cp {files / "outputs"} "$POLYAXON_RUN_OUTPUTS_PATH"; {signal.command}')
    ended = signal.wait()
    client.wait(number)
    packed = time.perf_counter() - ended
    size = (files / "outputs").stat().st_size
    figures = {
        LOG: _speed(client.connection, client.request("GET", f"/{logged}/logs")),
        OUTPUTS: _speed(client.connection, client.request("GET", f"/{number}/outputs")),
        PACKED: size / packed / 1e6,
    }
    client.call("DELETE", f"/{number}")
    client.close()
    return figures


def _floors(files: Path) -> Figures:
    return {
        LOG: read_speed(files / "log"),
        OUTPUTS: read_speed(files / "outputs"),
        PACKED: copy_speed(files / "outputs"),
    }


def _nginx(port: int) -> Figures:
    connection = Connection(port)
    found = {name: _speed(connection, prepare("GET", path)) for name, path in ((LOG, "/log"), (OUTPUTS, "/outputs"))}
    connection.close()
    return found


def _speed(connection: Connection, request: bytes) -> float:
    """Return the MB per second of a download, the median of several."""
    speeds = []
    for _ in range(DOWNLOADS):
        started = time.perf_counter()
        size = connection.download(request)
        speeds.append(size / (time.perf_counter() - started) / 1e6)
    return statistics.median(speeds)


def _write_lines(path: Path, size: int) -> None:
    line = b"0123456789" * 9 + b"012345678\n"
    with path.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(line * 10_000)


def _write_noise(path: Path, size: int) -> None:
    """Write what gzip cannot compress."""
    with path.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
