"""`polyjob slots` and `polyjob gpus`: limits of what runs at once, changed while the server runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import UsageError, exit_on_error
from polyjob.cli.options import json_option
from polyjob.cli.output import print_facts, print_json, print_table, say
from polyjob.formatting import unknown_gpus_text

PATH = "/cluster/capacity"
DEFAULT = "default"


@click.command()
@click.argument("changes", nargs=-1, metavar="[NUMBER | RUNNER=NUMBER...]")
@json_option
def slots(changes: tuple[str, ...], is_json: bool) -> None:
    """Show how many jobs run at once on each runner, or change it; for administrators.

    A NUMBER alone is for each runner. With 0, no new job starts. `default` in place of a number restores the server's
    setting POLYJOB_SLOTS. Running jobs are never stopped. A change stays after a restart of the server.
    """
    with exit_on_error():
        client = connect()
        view = client.get(PATH)
        if changes:
            view = _change(client, "slots", _parse_slots(changes, list(view["slots"])))
    if is_json:
        print_json(view["slots"])
        return
    rows = [
        [name, str(row["value"]), str(row["used"]), str(row["default"])] for name, row in sorted(view["slots"].items())
    ]
    print_table(["RUNNER", "SLOTS", "USED", "DEFAULT"], rows)


@click.command()
@click.argument("indices", required=False, metavar="[INDICES]")
@json_option
def gpus(indices: str | None, is_json: bool) -> None:
    """Show the GPUs that jobs may use, or change them; for administrators.

    INDICES are those of nvidia-smi, such as `0,1`, or `none`. `default` restores the server's setting POLYJOB_GPUS.
    Running jobs keep their GPUs. A change stays after a restart of the server.
    """
    with exit_on_error():
        client = connect()
        view = client.get(PATH) if indices is None else _change(client, "gpus", _parse_indices(indices))
    if unknown := sorted({*view["gpus"]["value"]} - {*view["gpus"]["default"]}):
        say(f"Warning: {unknown_gpus_text(unknown)}")
    if is_json:
        print_json(view["gpus"])
        return
    print_facts(
        [(name, _join(view["gpus"][key])) for name, key in (("GPUs", "value"), ("used", "used"), (DEFAULT,) * 2)]
    )


def _change(client: Client, field: str, value: Any) -> Any:
    return client.send("PATCH", PATH, json={field: value}).json()


def _parse_slots(changes: Sequence[str], runners: Sequence[str]) -> dict[str, int | None]:
    """Return the new number of each runner; None restores the default. Raises UsageError."""
    slots: dict[str, int | None] = {}
    for text in changes:
        name, equals, number = text.rpartition("=")
        is_number = number.isascii() and number.isdecimal()
        if not (is_number or number == DEFAULT) or bool(equals) != bool(name):
            raise UsageError(f"`{text}` is not valid; use `4`, `process=4` or `process={DEFAULT}`.")
        slots |= dict.fromkeys([name] if name else runners, int(number) if is_number else None)
    return slots


def _parse_indices(text: str) -> list[int] | None:
    """Return the indices; None restores the default. Raises UsageError."""
    if text == DEFAULT:
        return None
    words = [] if text == "none" else text.replace(",", " ").split()
    if not all(word.isascii() and word.isdecimal() for word in words) or not (words or text == "none"):
        raise UsageError(f"`{text}` is not valid; use indices such as `0,1`, or `none`, or `{DEFAULT}`.")
    return [int(word) for word in words]


def _join(indices: Sequence[int]) -> str:
    return ",".join(map(str, indices)) or "none"


commands = {"slots": slots, "gpus": gpus}
