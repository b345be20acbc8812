"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers import TASK_SPOOLER, is_installed
from bench.plan import NotMeasured, Plan
from bench.rows import BASELINE, POLYJOB, Row, Skipped, as_markdown, write_json
from bench.servers import ROOT, Checkout, temporary_folder

GROUPS = ("accepting", "many_jobs", "one_job", "lists", "idle", "transfers")
"""Groups that every run measures."""
SLOW_GROUPS = ("containers", "pods")
"""Groups that a quick run measures only when they are named."""
NAMED_GROUPS = ("endurance",)
"""Groups that any run measures only when they are named."""
RESULTS = Path(__file__).resolve().parent / "results.json"


def main() -> int:
    arguments = _parse()
    checkouts = {POLYJOB: Checkout(arguments.checkout.resolve())}
    if arguments.baseline:
        checkouts[BASELINE] = Checkout(arguments.baseline.resolve())
    about = _about(checkouts)
    rows: list[Row] = []
    skipped: list[Skipped] = []
    failed = False
    with temporary_folder() as folder:
        plan = Plan(checkouts, folder, arguments.quick)
        for group in arguments.only or (GROUPS if plan.quick else GROUPS + SLOW_GROUPS):
            print(f"Measuring {group} ...", file=sys.stderr, flush=True)
            started = time.monotonic()
            try:
                rows += measure(group, plan)
            except NotMeasured as error:
                skipped.append(Skipped(group, str(error)))
            except Exception as error:
                traceback.print_exc()
                skipped.append(Skipped(group, f"failed: {error!r}"))
                failed = True
            print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    about["load_after"] = os.getloadavg()[0]
    print("\n".join(f"{name.replace('_', ' ')}: {value}  " for name, value in about.items()), end="\n\n")
    print(as_markdown(rows, skipped, {TASK_SPOOLER: is_installed(TASK_SPOOLER)}))
    write_json(arguments.json, rows, skipped, about)
    return int(failed)


def measure(group: str, plan: Plan) -> list[Row]:
    """Measure a group. Its module is loaded only now, because some need parts that may be missing."""
    rows: Callable[[Plan], list[Row]] = importlib.import_module(f"bench.{group}").rows
    return rows(plan)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure polyjob.")
    parser.add_argument("--quick", action="store_true", help="measure less, in about two minutes")
    groups = GROUPS + SLOW_GROUPS + NAMED_GROUPS
    parser.add_argument("--only", nargs="+", choices=groups, metavar="GROUP", help=f"of {', '.join(groups)}")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the checkout that is measured (this one)")
    parser.add_argument("--baseline", type=Path, help="another checkout, measured in turns with the first")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the file for all figures (bench/results.json)")
    return parser.parse_args()


def _about(checkouts: dict[str, Checkout]) -> dict[str, Any]:
    """Describe the machine and the checkouts."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs ({model.partition(': ')[2]}), {memory:.0f} GB of memory",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        **{name: checkout.commit for name, checkout in checkouts.items()},
        "load_before": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
