"""The rows of the table, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POLYJOB = "polyjob"
BASELINE = "baseline"
FLOOR = "floor"
OF_BASELINE = f"{POLYJOB} ÷ baseline"


@dataclasses.dataclass(frozen=True)
class Floor:
    """The figure that the machine reaches without a job server, in the unit of its row."""

    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured figure."""

    name: str
    value: float
    unit: str
    floor: Floor | None = None
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same figure of the baseline and of peers, by their name."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value divided by the floor. Rates should be near 1 from below, times near 1 from above."""
        return self.value / self.floor.value if self.floor and self.floor.value else None

    @classmethod
    def of(cls, name: str, unit: str, values: Mapping[str, float], floor: str = "", note: str = "") -> Row:
        """Make a row of the figures of polyjob, the floor, the baseline and the peers. `floor` names the floor."""
        others = {who: value for who, value in values.items() if who not in (POLYJOB, FLOOR)}
        return cls(name, values[POLYJOB], unit, Floor(floor, values[FLOOR]) if floor else None, others, note)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A group of rows that was not measured."""

    group: str
    reason: str


def as_markdown(rows: Sequence[Row], skipped: Sequence[Skipped], peers: Mapping[str, bool]) -> str:
    """Return the table. It has a column for each of `peers`, which tells whether the peer is installed."""
    compared = any(BASELINE in row.others for row in rows)
    columns = [*([BASELINE, OF_BASELINE] if compared else []), *peers]
    lines = ["| " + " | ".join(["measurement", POLYJOB, *columns, "floor", f"{POLYJOB} ÷ floor", "note"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 5))
    for row in rows:
        cells = [row.name, _amount(row.value, row.unit)]
        for column in columns:
            missing = "" if peers.get(column, True) else "not installed"
            if column == OF_BASELINE and BASELINE in row.others:
                cells.append(_short(row.value / row.others[BASELINE]) if row.others[BASELINE] else "")
            else:
                cells.append(_amount(row.others[column], row.unit) if column in row.others else missing)
        cells.append(f"{row.floor.name}: {_amount(row.floor.value, row.unit)}" if row.floor else "")
        cells.append(_short(row.ratio) if row.ratio is not None else "")
        lines.append("| " + " | ".join([*cells, row.note]) + " |")
    lines += [f"| {item.group} | not measured |" + " |" * (len(columns) + 2) + f" {item.reason} |" for item in skipped]
    return "\n".join(lines)


def write_json(path: Path, rows: Sequence[Row], skipped: Sequence[Skipped], about: Mapping[str, Any]) -> None:
    """Write all figures, with `about`, which describes the machine and the run."""
    document = {
        **about,
        "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows],
        "skipped": [dataclasses.asdict(item) for item in skipped],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _amount(value: float, unit: str) -> str:
    return f"{_short(value)}{'' if unit.startswith(('/', '%')) else ' '}{unit}".rstrip()


def _short(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"
