"""A job server: it builds, runs and keeps every job it accepted."""

__version__ = "0.1.0"
