"""Logs: lines of a file, terminal colours, following a run."""
