"""Distributions of runners for tests: modules and metadata in a folder of the import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_distribution(folder: Path, name: str, runners: Mapping[str, str], modules: Mapping[str, str]) -> None:
    """Write what an installer would: the modules, and the entry points in the metadata of version 1.0."""
    for file, text in modules.items():
        (folder / file).write_text(text)
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = ["[polyjob.runners]", *(f"{runner} = {target}" for runner, target in runners.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
