"""Benchmarks: each figure of polyjob beside its floor, and beside the peers that are installed, in one run.

    python -m bench --help

`docs/performance.md` explains each measurement.
"""
