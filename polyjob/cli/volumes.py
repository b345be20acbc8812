"""`polyjob volumes`: the folders of the server that jobs can use."""

from __future__ import annotations

from typing import Any

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.options import json_option
from polyjob.cli.output import print_json, print_table, say

PATH = "/cluster/volumes"


@click.command()
@json_option
def volumes(is_json: bool) -> None:
    """List the folders of the server that jobs can use by their names.

    A job names them in `environment.data_refs` of its config. PATHS shows where it finds them, on each runner. The
    server's administrator sets them in POLYJOB_VOLUMES.
    """
    with exit_on_error():
        found = list(connect().items(PATH, None))
    if is_json:
        print_json(found)
    elif found:
        print_table(["NAME", "ACCESS", "PATHS"], [_row(volume) for volume in found])
    else:
        say("There are no volumes. The server's administrator sets them in POLYJOB_VOLUMES.")


def _row(volume: dict[str, Any]) -> list[str]:
    paths = volume["paths"]
    access = "read-only" if volume["is_read_only"] else "read-write"
    shown = [f"{path} ({runner})" if len(paths) > 1 else path for runner, path in paths.items()]
    return [volume["name"], access, ", ".join(shown)]


commands = {"volumes": volumes}
