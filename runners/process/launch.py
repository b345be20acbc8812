"""Start a module of this package in an interpreter without import paths and without site-packages.

    python -I -S launch.py keeper_server <data>/process
    python -I -S launch.py build_step_supervisor

Such an interpreter starts fast, stays small, and cannot import anything that a user has installed. This script adds
the packages that these modules import from, without running their `__init__.py`. So the modules use ordinary imports,
also where polyjob is installed as a wheel.
"""

from __future__ import annotations

import importlib
import os
import sys
import types


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that calls `main` of a module of this package with these arguments."""
    return [sys.executable, "-I", "-S", os.path.realpath(__file__), module, *arguments]


def main() -> None:
    """Run the module that the command line names."""
    folder = os.path.dirname(os.path.realpath(__file__))
    runners = os.path.dirname(folder)
    add_package("runners", runners)
    add_package("runners.common", os.path.join(runners, "common"))
    add_package("runners.process", folder)
    importlib.import_module(f"runners.process.{sys.argv[1]}").main(*sys.argv[2:])


def add_package(name: str, folder: str) -> None:
    """Make the modules in a folder importable as members of the package `name`."""
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package


if __name__ == "__main__":
    main()
