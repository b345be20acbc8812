"""Requests for jobs and lists of a large project, compared with those of a small one."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from bench.client import Client, check, prepare
from bench.plan import Plan
from bench.rows import BASELINE, FLOOR, POLYJOB, Row
from bench.servers import Checkout, Server, serve
from bench.turns import Figures, take_turns

FEW = 100
TIMES = ("created_at", "updated_at", "started_at", "finished_at", "attempt_at", "running_at")


def rows(plan: Plan) -> list[Row]:
    count = plan.size(100_000, 10_000)
    subjects: dict[str, Callable[[], Figures]] = {}
    with contextlib.ExitStack() as stack:
        for name, checkout in plan.checkouts.items():
            for jobs, subject in ((count, name), (FEW, f"few {name}")):
                server = stack.enter_context(_filled(plan, checkout, jobs))
                subjects[subject] = functools.partial(_measure, server.client(), _requests(server, jobs))
        found = take_turns(plan.size(50, 15), subjects)
    table = []
    for request, figures in found.items():
        few = {name: figures.pop(f"few {name}") for name in plan.checkouts}
        note = f"baseline with {FEW} jobs: {few[BASELINE]:.2f} ms" if BASELINE in few else ""
        table.append(Row.of(f"{count:,} jobs: {request}", "ms", {**figures, FLOOR: few[POLYJOB]}, f"{FEW} jobs", note))
    return table


def _requests(server: Server, jobs: int) -> dict[str, bytes]:
    client, browser = server.client(), server.sign_in()
    paths = {
        "get one": f"/{jobs // 2}",
        "first page": "",
        "page in the middle": f"?offset={jobs // 2}",
        "filtered by status, few match": "?query=status:failed",
        "filtered by status, none match": "?query=status:stopped",
        "filtered by tag, few match": "?query=tags:rare",
    }
    return {
        **{name: client.request("GET", path) for name, path in paths.items()},
        "first page, HTML": prepare("GET", "/", browser),
        "filtered by status, few match, HTML": prepare("GET", "/?query=status:failed", browser),
    }


def _measure(client: Client, requests: dict[str, bytes]) -> Figures:
    figures = {}
    for name, request in requests.items():
        check(client.connection.exchange(request))  # so that no figure depends on the request before it
        started = time.perf_counter()
        client.connection.exchange(request)
        figures[name] = (time.perf_counter() - started) * 1000
    return figures


def _filled(plan: Plan, checkout: Checkout, jobs: int) -> contextlib.AbstractContextManager[Server]:
    """Run a server with that many jobs. Enough of them have failed and have a tag to fill a page in each project."""
    data = plan.new_folder()
    with serve(checkout, data) as server:
        client = server.client()
        client.run("true")
        client.wait(client.submit("false", tags=["rare"]))
        client.close()
    fill(data / "polyjob.db", jobs, 4 if jobs == FEW else 50)
    return serve(checkout, data)


def fill(path: Path, jobs: int, failed_every: int) -> None:
    """Copy the two jobs of a database, with new ids and times, until there are `jobs`. Every nth is a failed one.

    The columns come from the database, so that this works with each version of it.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TEMP TABLE copy (id INTEGER PRIMARY KEY, original INTEGER, age INTEGER)")
        copies = ((number, 2 if number % failed_every == 0 else 1, jobs - number) for number in range(3, jobs + 1))
        connection.executemany("INSERT INTO copy VALUES (?, ?, ? * 1000000)", copies)
        values = {"id": "copy.id", "uuid": "lower(hex(randomblob(16)))"}
        values |= {name: f"original.{name} - copy.age" for name in TIMES}
        _insert(connection, "job", values, "original.id = copy.original")
        values = {"id": "NULL", "uuid": values["uuid"], "job_id": "copy.id", "created_at": values["created_at"]}
        _insert(connection, "job_status", values, "original.job_id = copy.original")


def _insert(connection: sqlite3.Connection, table: str, values: dict[str, str], condition: str) -> None:
    columns = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
    selected = ", ".join(values.get(column, f"original.{column}") for column in columns)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) "
        f"SELECT {selected} FROM copy JOIN {table} original ON {condition} ORDER BY copy.id"
    )
