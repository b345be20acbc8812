"""Logs of runs: their files and lines, terminal colours, and following a run."""
